"""Released-layout checkpoints of the other language models give the original's ids, logits, losses and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

#: Largest absolute difference in float32.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["mistral", "mixtral", "gemma"])
def folder(goldens: Path, request: pytest.FixtureRequest) -> Path:
    return goldens / "H_full_model" / f"{request.param}_siglip"


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Any:
    return json.loads((folder / "golden.json").read_text())


@pytest.fixture(scope="module")
def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "golden.safetensors")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return navila.load(folder / "ckpt", dtype="float32", device="cpu")


def frames(folder: Path, numbers: list[int]) -> list[Image.Image]:
    """Recorded frames, black for -1."""
    return [
        Image.open(folder.parent / "frames" / f"frame_{n:02d}.png") if n >= 0 else Image.new("RGB", (512, 512))
        for n in numbers
    ]


def logits_agree(model: Any, folder: Path, case: Any, want: Tensor) -> dict[str, Tensor]:
    """Compare a prompt's logits and loss with those recorded; returns the inputs."""
    numbers = case.get("frames") or case["sampled_frame_indices(-1=black 512x512)"]
    inputs = model.prepare(case["prompt"], frames(folder, numbers))
    ids = inputs["input_ids"]
    assert ids.tolist() == case["input_ids"]
    labels = torch.tensor(case["labels"]) if "labels" in case else ids.masked_fill(ids < 0, -100)
    with torch.no_grad():
        output = model(**inputs, labels=labels)
    assert list(output.logits.shape) == case["logits_shape"]
    positions = case["logits_positions"]
    got = output.logits if positions == "all" else output.logits[:, positions]
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0)
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-5)
    return inputs


@pytest.mark.parametrize("key", ["ii_image", "iii_nav_T20"])
def test_ids_logits_loss_and_greedy_answer(
    key: str, model: Any, folder: Path, recorded: Any, tensors: dict[str, Tensor]
) -> None:
    inputs = logits_agree(model, folder, recorded[key], tensors[f"{key}.logits"])
    new_ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    assert new_ids.tolist() == [recorded[key]["generate"]["new_ids"]]


def test_a_batch(model: Any, folder: Path, recorded: Any, tensors: dict[str, Tensor]) -> None:
    case = recorded["iv_batch_AB"]
    numbers = [n for row in case["rows"] for n in recorded["iv_samples"][row]["frames"]]
    inputs = {
        "input_ids": torch.tensor(case["input_ids"]),
        "attention_mask": torch.tensor(case["attention_mask"]),
        "pixel_values": model.process_images(frames(folder, numbers)),
    }
    with torch.no_grad():
        output = model(**inputs, labels=torch.tensor(case["labels"]))
        real = model.embed(**inputs).attention_mask
    positions = torch.tensor(case["eval"]["logits_positions"])
    real = real[:, positions]
    want = tensors["iv_batch_AB.eval.logits"]
    torch.testing.assert_close(output.logits[:, positions][real], want[real], atol=TOLERANCE, rtol=0)
    assert output.loss.item() == pytest.approx(case["eval"]["loss"], rel=1e-5)


def test_saved_and_loaded_it_agrees_still(
    model: Any, folder: Path, recorded: Any, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    again = navila.load(tmp_path, dtype="float32", device="cpu")
    logits_agree(again, folder, recorded["ii_image"], tensors["ii_image.logits"])
