"""A released-layout checkpoint gives the original's ids, embeddings, logits, losses, gradients and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
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
SINGLE = ("i_text", "ii_image", "iii_nav_T1", "iii_nav_T5", "iii_nav_T8", "iii_nav_T20")
BATCHES = ("iv_batch_AB", "iv_batch_BACD", "iv_batch_C")


@pytest.fixture(scope="module")
def folder(goldens: Path) -> Path:
    return goldens / "H_full_model" / "llama_siglip"


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Any:
    return json.loads((folder / "golden.json").read_text())


@pytest.fixture(scope="module")
def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "golden.safetensors")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return navila.load(folder / "ckpt", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def frame(folder: Path) -> Callable[[int], Image.Image]:
    """A recorded frame, black for -1."""

    def read(number: int) -> Image.Image:
        if number < 0:
            return Image.new("RGB", (512, 512))
        return Image.open(folder.parent / "frames" / f"frame_{number:02d}.png")

    return read


def inputs_of(model: Any, case: Any, frame: Callable[[int], Image.Image]) -> dict[str, Tensor]:
    frames = case.get("frames") or case.get("sampled_frame_indices(-1=black 512x512)") or []
    return model.prepare(case["prompt"], [frame(i) for i in frames])


def compare(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("key", SINGLE)
def test_ids_pixels_logits_loss_and_greedy_answer(
    key: str, model: Any, recorded: Any, tensors: dict[str, Tensor], frame: Callable[[int], Image.Image]
) -> None:
    case = recorded[key]
    inputs = inputs_of(model, case, frame)
    assert inputs["input_ids"].tolist() == case["input_ids"]
    if f"{key}.pixel_values" in tensors:
        assert torch.equal(inputs["pixel_values"], tensors[f"{key}.pixel_values"])
    ids = inputs["input_ids"]
    labels = torch.tensor(case["labels"]) if "labels" in case else ids.masked_fill(ids < 0, -100)
    with torch.no_grad():
        output = model(**inputs, labels=labels)
    assert list(output.logits.shape) == case["logits_shape"]
    positions = case["logits_positions"]
    compare(output.logits if positions == "all" else output.logits[:, positions], tensors[f"{key}.logits"])
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-5)
    ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    assert ids.tolist() == [case["generate"]["new_ids"]]
    assert model.tokenizer.decode(ids[0], skip_special_tokens=True).strip() == case["generate"]["text"]


def test_features_of_the_parts(model: Any, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        features = model.vision_tower(tensors["ii_image.pixel_values"])
        compare(features, tensors["ii_image.vision_tower_out"])
        compare(model.mm_projector(features), tensors["ii_image.projector_out"])
        compare(model.encode_images(tensors["ii_image.pixel_values"]), tensors["ii_image.projector_out"])
    assert model.tokens_per_image == 9


def test_an_answer_stops_at_a_given_id(model: Any, recorded: Any, frame: Callable[[int], Image.Image]) -> None:
    case = recorded["iii_nav_T20_eos_stop"]
    inputs = inputs_of(model, recorded["iii_nav_T20"], frame)
    ids = model.generate(**inputs, max_new_tokens=32, eos_token_id=case["eos_token_id"])
    assert ids[0].tolist() == case["generate_ids"][0][1:]


def test_beam_search_finds_the_same_answer(model: Any, recorded: Any, frame: Callable[[int], Image.Image]) -> None:
    want = recorded["iii_nav_T20_beam3_ids"][0][1:]
    inputs = inputs_of(model, recorded["iii_nav_T20"], frame)
    assert model.generate(**inputs, max_new_tokens=len(want), num_beams=3)[0].tolist() == want


def test_generate_content(model: Any, recorded: Any, frame: Callable[[int], Image.Image]) -> None:
    want = recorded["generate_content"]
    assert set(want["eos_token_id"]) == set(model.stop_ids())
    assert model.generate_content([frame(2), "What is this?"], max_new_tokens=16) == want["text"]


def batch_of(
    model: Any, recorded: Any, key: str, frame: Callable[[int], Image.Image]
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs with labels, and which expanded positions are real."""
    case = recorded[key]
    numbers = [n for row in case["rows"] for n in recorded["iv_samples"][row]["frames"]]
    inputs = {
        "input_ids": torch.tensor(case["input_ids"]),
        "attention_mask": torch.tensor(case["attention_mask"]),
        "labels": torch.tensor(case["labels"]),
    }
    if numbers:
        inputs["pixel_values"] = model.process_images([frame(n) for n in numbers])
    return inputs, torch.tensor(case["prepare"]["attention_mask"]).bool()


@pytest.mark.parametrize("key", BATCHES)
def test_batches(
    key: str, model: Any, recorded: Any, tensors: dict[str, Tensor], frame: Callable[[int], Image.Image]
) -> None:
    case = recorded[key]
    inputs, real = batch_of(model, recorded, key, frame)
    with torch.no_grad():
        labels = inputs.pop("labels")
        embedded = model.embed(**inputs, labels=labels)
        output = model(**inputs, labels=labels)
    assert torch.equal(embedded.attention_mask, real)
    assert embedded.labels.tolist() == case["prepare"]["labels"]
    compare(embedded.inputs_embeds[real], tensors[f"{key}.prepare.inputs_embeds"][real])
    positions = torch.tensor(case["eval"]["logits_positions"])
    kept = real[:, positions]
    compare(output.logits[:, positions][kept], tensors[f"{key}.eval.logits"][kept])
    assert output.loss.item() == pytest.approx(case["eval"]["loss"], rel=1e-5)


@pytest.mark.parametrize("key", BATCHES)
def test_left_padding_places_rows_as_the_original(
    key: str, model: Any, recorded: Any, frame: Callable[[int], Image.Image]
) -> None:
    want = recorded[key]["prepare_left_padding"]
    inputs, _ = batch_of(model, recorded, key, frame)
    out = model.embed(**inputs, padding_side="left")
    assert out.attention_mask.long().tolist() == want["attention_mask"]
    assert out.position_ids.tolist() == want["position_ids"]
    assert out.labels.tolist() == want["labels"]


@pytest.mark.parametrize("key", BATCHES)
def test_gradients(
    key: str, folder: Path, recorded: Any, tensors: dict[str, Tensor], frame: Callable[[int], Image.Image]
) -> None:
    model = navila.load(folder / "ckpt", dtype="float32", device="cpu").train()
    inputs, _ = batch_of(model, recorded, key, frame)
    model(**inputs).loss.backward()
    parameters = {released_name(name): p for name, p in model.named_parameters()}
    recorded_norms = recorded[key]["train"]["grad_norms"]
    # Text alone never reaches the vision side here; the original encodes a blank image for it.
    touched = {
        name: norm for name, norm in recorded_norms.items() if name.startswith("llm.") or "pixel_values" in inputs
    }
    assert len(touched) >= 30
    for name, norm in touched.items():
        grad = parameters[name].grad
        assert grad is not None, name
        # The gradient of a key bias is zero but for rounding.
        assert grad.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    for name in [n for n in tensors if n.startswith(f"{key}.train.grad.llm")]:
        grad = parameters[name.split(".grad.")[1]].grad
        assert grad is not None
        compare(grad, tensors[name])
    for name in recorded[key]["train"]["no_grad"]:
        assert not parameters[name].requires_grad, name


def released_name(name: str) -> str:
    """Name of a parameter in the original's memory."""
    return name.replace("vision_tower.vision_tower.", "vision_tower.vision_tower.vision_model.")
