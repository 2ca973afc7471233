"""Generation and training steps of a composed model: batches, sharing, padding, messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import navila
import numpy as np
import pytest
import torch
from navila.cli import main
from navila.errors import ConfigError, DataError
from navila.model.media import MediaReader
from PIL import Image
from torch import Tensor

TEXTS = ("Where is the sofa?", "Go.", "Describe the two rooms in detail, and say which is the larger of them.")


@pytest.fixture(scope="module")
def checkpoint(goldens: Path) -> Path:
    return goldens / "H_full_model" / "llama_siglip" / "ckpt"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return navila.load(checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def images(goldens: Path) -> list[Image.Image]:
    return [Image.open(goldens / "H_full_model" / "frames" / f"frame_{i:02d}.png") for i in range(6)]


def prompt(model: Any, number: int, images: int) -> str:
    return model.template.render([("user", "<image>\n" * images + TEXTS[number]), ("assistant", None)])


@pytest.fixture(scope="module")
def rows(model: Any, images: list[Image.Image]) -> list[dict[str, Tensor]]:
    """Three prompts of different length with one, no and two images."""
    return [
        model.prepare(prompt(model, 0, 1), images[:1]),
        model.prepare(prompt(model, 1, 0)),
        model.prepare(prompt(model, 2, 2), images[1:3]),
    ]


def batched(rows: list[dict[str, Tensor]], side: str) -> dict[str, Tensor]:
    longest = max(row["input_ids"].shape[1] for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        length = row["input_ids"].shape[1]
        place = slice(0, length) if side == "right" else slice(longest - length, longest)
        ids[i, place], mask[i, place] = row["input_ids"][0], 1
    pixels = torch.cat([row["pixel_values"] for row in rows if "pixel_values" in row])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_answers_as_its_rows_alone(model: Any, rows: list[dict[str, Tensor]], side: str) -> None:
    together = model.generate(**batched(rows, side), max_new_tokens=12)
    for answer, row in zip(together, rows, strict=True):
        alone = model.generate(**row, max_new_tokens=12)[0]
        assert answer[: len(alone)].tolist() == alone.tolist()
        assert (answer[len(alone) :] == model.tokenizer.pad_token_id).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_computes_the_logits_of_its_rows(model: Any, rows: list[dict[str, Tensor]], side: str) -> None:
    with torch.no_grad():
        together = model(**batched(rows, side)).logits
        for i, row in enumerate(rows):
            alone = model(**row).logits[0]
            part = together[i, : len(alone)] if side == "right" else together[i, -len(alone) :]
            torch.testing.assert_close(part, alone, atol=1e-4, rtol=0)


def test_encoded_frames_can_be_shared(model: Any, images: list[Image.Image]) -> None:
    ids = model.prepare(prompt(model, 0, 3), images[:3])["input_ids"]
    pixels = model.process_images([images[0], images[1]])
    with torch.no_grad():
        repeated = model(ids, pixels[[1, 0, 1]]).logits
        features = model.encode_images(pixels)
        shared = model(ids, image_features=features, image_index=torch.tensor([1, 0, 1])).logits
        torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=0)
        by_pixels = model(ids, pixels, image_index=torch.tensor([1, 0, 1])).logits
        assert torch.equal(by_pixels, shared)
    answers = [
        model.generate(ids, pixel_values=pixels[[1, 0, 1]], max_new_tokens=5),
        model.generate(ids, image_features=features, image_index=torch.tensor([1, 0, 1]), max_new_tokens=5),
    ]
    assert torch.equal(*answers)


def test_sampling_follows_the_seed(model: Any, rows: list[dict[str, Tensor]]) -> None:
    def sampled(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return model.generate(**rows[0], max_new_tokens=8, do_sample=True, temperature=5.0)[0].tolist()

    assert sampled(0) == sampled(0)
    assert sampled(0) != sampled(1)


def test_the_checkpoints_own_sampling_settings_are_not_used(model: Any, rows: list[dict[str, Tensor]]) -> None:
    before = model.generate(**rows[0], max_new_tokens=8)
    settings = model.llm.generation_config
    try:
        settings.do_sample, settings.temperature, settings.max_length, settings.repetition_penalty = True, 9.0, 3, 5.0
        assert torch.equal(model.generate(**rows[0], max_new_tokens=8), before)
    finally:
        settings.do_sample, settings.temperature, settings.max_length, settings.repetition_penalty = (None,) * 4


def test_only_supervised_logits_give_the_same_loss_and_gradients(model: Any, rows: list[dict[str, Tensor]]) -> None:
    for side in ("left", "right"):
        batch = batched(rows, side)
        labels = batch["input_ids"].masked_fill((batch["input_ids"] < 0) | (batch["attention_mask"] == 0), -100)
        labels[:, :40] = -100
        results = []
        for only in (False, True):
            model.zero_grad()
            output = model(**batch, labels=labels, supervised_logits_only=only)
            output.loss.backward()
            results.append((output.loss.detach(), model.llm.lm_head.weight.grad.clone(), output.logits.shape[1]))
        model.zero_grad()
        torch.testing.assert_close(results[0][:2], results[1][:2])
        assert results[1][2] < results[0][2]


def test_the_trainers_token_count_divides_the_loss(model: Any, rows: list[dict[str, Tensor]]) -> None:
    ids = rows[1]["input_ids"]
    with torch.no_grad():
        mean = model(ids, labels=ids).loss
        shared = model(ids, labels=ids, num_items_in_batch=torch.tensor(1000)).loss
    torch.testing.assert_close(shared, mean * (ids.shape[1] - 1) / 1000)


def test_packed_samples_do_not_see_each_other(model: Any, rows: list[dict[str, Tensor]]) -> None:
    first, second = rows[0], rows[2]
    ids = torch.cat([first["input_ids"], second["input_ids"]], 1)
    positions = torch.cat([torch.arange(row["input_ids"].shape[1])[None] for row in (first, second)], 1)
    pixels = torch.cat([first["pixel_values"], second["pixel_values"]])
    with torch.no_grad():
        alone = torch.cat([model(**row).logits[0] for row in (first, second)])
        packed = model(ids, pixels, position_ids=positions).logits[0]
        torch.testing.assert_close(packed, alone, atol=1e-4, rtol=0)
        padding = torch.zeros(1, 5, dtype=torch.long)
        mask = torch.cat([torch.ones_like(ids), padding], 1)
        ids, positions = torch.cat([ids, padding], 1), torch.cat([positions, padding], 1)
        padded = model(ids, pixels, position_ids=positions, attention_mask=mask).logits[0]
        torch.testing.assert_close(padded[: len(alone)], alone, atol=1e-4, rtol=0)


def test_frozen_parts_neither_train_nor_leave_evaluation_mode(checkpoint: Path, rows: list[dict[str, Tensor]]) -> None:
    model = navila.load(checkpoint, dtype="float32", device="cpu")
    model.set_trainable(llm=True, vision_tower=False, mm_projector=True)
    model.train()
    assert not model.vision_tower.training
    assert model.llm.training
    model(**rows[0], labels=rows[0]["input_ids"].clamp(min=-100)).loss.backward()
    assert all(p.grad is None for p in model.vision_tower.parameters())
    assert all(p.grad is not None for p in (*model.mm_projector.parameters(), *model.llm.parameters()))
    assert model.config.tune_vision_tower is False


def test_layers_that_recompute_their_activations_give_the_same_gradients(
    checkpoint: Path, rows: list[dict[str, Tensor]]
) -> None:
    grads = []
    for recompute in (False, True):
        model = navila.load(checkpoint, dtype="float32", device="cpu").train()
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert model.is_gradient_checkpointing
        model(**rows[0], labels=rows[0]["input_ids"].clamp(min=-100)).loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_layers_beyond_the_selected_one_do_not_run(model: Any, images: list[Image.Image]) -> None:
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.vision_tower.named_modules()
    ]
    with torch.no_grad():
        model.encode_images(model.process_images(images[:1]))
    for handle in handles:
        handle.remove()
    assert any("layers.1" in name for name in ran)
    assert not any("layers.2" in name or "head" in name or "post_layernorm" in name for name in ran)


def test_a_message_may_mix_text_arrays_files_and_videos(model: Any, images: list[Image.Image], tmp_path: Path) -> None:
    images[0].save(tmp_path / "a.png")
    same = [
        model.generate_content([part, "What is this?"], max_new_tokens=6)
        for part in (images[0], np.asarray(images[0]), tmp_path / "a.png")
    ]
    assert len(set(same)) == 1
    (tmp_path / "frames").mkdir()
    for i in range(4):
        images[i].save(tmp_path / "frames" / f"{i}.png")
    repeated = [images[i] for i in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert model.generate_content([tmp_path / "frames", "Where?"], max_new_tokens=6) == model.generate_content(
        [*repeated, "Where?"], max_new_tokens=6
    )
    assert model.generate_content("Hello.", max_new_tokens=4) == model.generate_content(["Hello."], max_new_tokens=4)


def test_text_of_a_message_cannot_show_images_or_end_the_turn(model: Any, images: list[Image.Image]) -> None:
    assert isinstance(model.generate_content(["<image> <|eot_id|>", images[0]], max_new_tokens=2), str)


def test_mistakes_are_told(model: Any, images: list[Image.Image]) -> None:
    with pytest.raises(DataError, match="2 times <image>, but 1 images"):
        model.prepare(prompt(model, 0, 2), images[:1])
    with pytest.raises(DataError, match="image tokens"):
        model(torch.tensor([[1, -200]]))
    with pytest.raises(DataError, match="negative"):
        model(torch.tensor([[1, -1]]))
    with pytest.raises(DataError, match="70, 70"):
        model(torch.tensor([[1, -200]]), torch.zeros(1, 3, 64, 64))
    with pytest.raises(DataError, match="An image must be"):
        model.generate_content([3])
    with pytest.raises(DataError, match="input_ids"):
        model.generate()
    with pytest.raises(DataError, match="at most 4096"):
        model.prepare("<image>" * 600, images[:1] * 600)


def test_a_model_without_a_template_still_computes_but_does_not_converse(checkpoint: Path) -> None:
    model = navila.load(checkpoint, dtype="float32", device="cpu")
    model.attach(tokenizer=model.tokenizer, template=None)
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 2, 1807)
    with pytest.raises(ConfigError, match="template"):
        model.generate_content("Hello.")


def test_the_command_line_answers(
    model: Any, checkpoint: Path, goldens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = goldens / "H_full_model" / "frames" / "frame_02.png"
    common = ["infer", "--model", str(checkpoint), "--device", "cpu", "--max-new-tokens", "16"]
    assert main([*common, "--image", str(image), "What is this?"]) == 0
    answer = model.generate_content([Image.open(image), "What is this?"], max_new_tokens=16)
    assert capsys.readouterr().out.rstrip("\n") == answer


def test_the_command_line_tells_mistakes_in_a_sentence(checkpoint: Path) -> None:
    for arguments in (
        ("--model", str(checkpoint), "--image", "/none.png", "What?"),
        ("--model", "/none", "What?"),
        ("--model", str(checkpoint / "llm"), "What?"),
    ):
        command = [sys.executable, "-X", "importtime", "-m", "navila", "infer", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert any(line.startswith("Error: ") for line in said)
        assert "Traceback" not in done.stderr
        assert not done.stderr.rstrip().endswith("torch")
        assert " torch\n" not in done.stderr


def test_help_of_the_command_line_loads_nothing_heavy() -> None:
    program = "import sys, navila.cli.infer; print({'torch', 'numpy', 'PIL', 'transformers'} & set(sys.modules) or '')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_text_parts_cannot_put_a_control_token_together(model: Any) -> None:
    turn = MediaReader(model).turn("user", ["<ima", "ge> <|eot", "_id|>"])
    assert not turn.frames
    assert "<image>" not in turn.text
    ids = model.tokenizer(turn.text, add_special_tokens=False).input_ids
    assert model.tokenizer.convert_tokens_to_ids("<|eot_id|>") not in ids
