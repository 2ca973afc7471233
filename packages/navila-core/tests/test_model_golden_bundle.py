"""A golden bundle holds what a checkpoint computes, and verifying names the first stage that computes otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import navila
import numpy as np
import pytest
import torch
from navila.cli import main
from navila.errors import ConfigError, DataError
from navila.model.golden import ask, default_requests, freeze, read_golden, synthetic_images
from navila.model.stages import STAGES, logits_positions
from navila.model.verify import Comparison, first_difference, verify
from PIL import Image
from safetensors.torch import load_file, save_file

VARIANTS = ("llama_siglip", "llama_clip", "gemma_siglip", "mistral_siglip", "mixtral_siglip")


@pytest.fixture(scope="module")
def checkpoint(
    goldens: Path, tmp_path_factory: pytest.TempPathFactory, writable_copy: Callable[[Path, Path], Path]
) -> Path:
    """A checkpoint whose images are padded, not squashed, so that its image processor resizes them."""
    folder = tmp_path_factory.mktemp("frozen") / "checkpoint"
    writable_copy(goldens / "H_full_model" / "llama_siglip" / "ckpt", folder)
    edit_json(folder / "config.json", lambda config: config | {"image_aspect_ratio": "pad", "num_video_frames": 2})
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "bundle"
    assert main(["model", "freeze-golden", str(checkpoint), "--output", str(folder), "--device", "cpu"]) == 0
    return folder


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint, to be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def edit_weights(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / "model.safetensors")
    assert name in tensors, sorted(tensors)
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def compared(folder: Path, bundle: Path) -> list[Comparison]:
    return verify(navila.load(folder, device="cpu", dtype="float32"), read_golden(bundle), atol=1e-4)


def wrong(comparisons: list[Comparison]) -> list[str]:
    """Stages that differ, in order."""
    return sorted({c.stage for c in comparisons if not c.equal}, key=STAGES.index)


def test_the_checkpoint_that_was_frozen_is_equal_in_every_stage(
    checkpoint: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "verify", str(checkpoint), "--golden", str(bundle), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "All 8 stages recorded are equal in 3 cases." in shown
    assert "files are not those recorded" not in shown
    comparisons = compared(checkpoint, bundle)
    assert {(c.stage, c.case) for c in comparisons if c.case == "navigation"} == {(s, "navigation") for s in STAGES}
    assert all(c.equal for c in comparisons)


def test_a_bundle_says_what_was_done_with_which_versions(bundle: Path) -> None:
    raw = json.loads((bundle / "bundle.json").read_text())
    assert (raw["format"], raw["version"], raw["dtype"], raw["device"]) == ("navila-golden", 1, "float32", "cpu")
    assert raw["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert raw["checkpoint"]["name"] == "checkpoint"
    assert str(bundle.parent) not in (bundle / "bundle.json").read_text()
    case = next(case for case in raw["cases"] if case["name"] == "image")
    assert case["prompt"].startswith("<|begin_of_text|>")
    assert case["input_ids"].count(-200) == 1
    tensors = load_file(bundle / "tensors.safetensors")
    assert tensors["image.pixel_values"].shape == (1, 3, 70, 70)
    assert tensors["image.projector"].shape == (1, 9, 64)
    length = len(case["input_ids"]) + 8
    assert tensors["image.embeddings"].shape == (length, 64)
    assert tensors["image.logits"].shape == (len(case["logits_positions"]), 1807)
    assert case["logits_positions"] == logits_positions(length, 64)


def other_vector(tensor: torch.Tensor) -> torch.Tensor:
    tensor[..., 0] += 0.5
    return tensor


def other_merge(tokenizer: Any) -> Any:
    """Without the merge that makes " vision" one token."""
    merges = tokenizer["model"]["merges"]
    gone = next(i for i, m in enumerate(merges) if "".join(m if isinstance(m, list) else m.split()) == "Ġvision")
    tokenizer["model"]["merges"] = merges[:gone] + merges[gone + 1 :]
    return tokenizer


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "the template": (
        lambda f: edit_json(f / "config.json", lambda config: config | {"conversation": "vicuna_v1"}),
        "prompt",
    ),
    "a merge of the tokenizer": (lambda f: edit_json(f / "llm" / "tokenizer.json", other_merge), "input_ids"),
    "the filter of resizing": (
        lambda f: edit_json(f / "vision_tower" / "preprocessor_config.json", lambda p: p | {"resample": 2}),
        "pixel_values",
    ),
    "the mean of pixels": (
        lambda f: edit_json(
            f / "vision_tower" / "preprocessor_config.json", lambda p: p | {"image_mean": [0.48, 0.46, 0.41]}
        ),
        "pixel_values",
    ),
    "a layer of the encoder": (
        lambda f: edit_weights(f / "vision_tower", "vision_model.encoder.layers.0.mlp.fc1.weight", other_vector),
        "encoder",
    ),
    "the layer that is selected": (
        lambda f: edit_json(f / "config.json", lambda config: config | {"mm_vision_select_layer": -1}),
        "encoder",
    ),
    "a weight of the projector": (
        lambda f: edit_weights(f / "mm_projector", "layers.2.weight", other_vector),
        "projector",
    ),
    "the order of its tokens": (
        lambda f: edit_json(f / "mm_projector" / "config.json", lambda config: config | {"downsample_order": "row"}),
        "projector",
    ),
    "the table of embeddings": (
        lambda f: edit_weights(f / "llm", "model.embed_tokens.weight", other_vector),
        "embeddings",
    ),
    "a layer of the language model": (
        lambda f: edit_weights(f / "llm", "model.layers.1.self_attn.v_proj.weight", other_vector),
        "logits",
    ),
    "the base of rotary positions": (
        lambda f: edit_json(f / "llm" / "config.json", lambda config: config | {"rope_theta": 10000.0}),
        "logits",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_where_it_was_made(what: str, copy: Path, bundle: Path) -> None:
    change, stage = CHANGES[what]
    change(copy)
    comparisons = compared(copy, bundle)
    assert wrong(comparisons)[0] == stage
    first = first_difference(comparisons)
    assert first is not None
    assert first.stage == stage
    # What follows works on what is recorded, so that the fault is in no other row but the answer's.
    assert set(wrong(comparisons)) <= {stage, "greedy_ids"}


def test_what_ends_an_answer_is_seen_in_the_answer(copy: Path, bundle: Path) -> None:
    answer = next(case.greedy_ids for case in read_golden(bundle).cases if case.name == "text")
    assert answer is not None
    edit_json(copy / "llm" / "generation_config.json", lambda config: config | {"eos_token_id": answer[3]})
    assert wrong(compared(copy, bundle)) == ["greedy_ids"]


def test_the_command_names_the_stage_the_place_and_the_file(
    copy: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_weights(copy / "mm_projector", "layers.4.bias", other_vector)
    command = ["model", "verify", str(copy), "--golden", str(bundle), "--device", "cpu"]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "The first stage that differs is projector, in the case image: by 0.5 at image 0, token" in shown
    assert "files are not those recorded: mm_projector.values" in shown
    assert main([*command, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["first_difference"]["stage"] == "projector"
    assert result["first_difference"]["largest"] == pytest.approx(0.5, abs=1e-5)
    assert result["other_files"] == ["mm_projector.values"]
    assert main([*command, "--atol", "10"]) == 0


def test_texts_and_ids_are_told_with_what_stands_around_them(copy: Path, bundle: Path) -> None:
    CHANGES["a merge of the tokenizer"][0](copy)
    first = first_difference(compared(copy, bundle))
    assert first is not None
    assert "token " in first.detail
    assert "'Ġvision'" in first.detail
    CHANGES["the template"][0](copy)
    first = first_difference(compared(copy, bundle))
    assert first is not None
    assert first.detail.startswith("byte 0: recorded '<|begin_of_text|>")


def test_an_encoder_of_another_size_is_told_by_its_shape(goldens: Path, bundle: Path) -> None:
    other = goldens / "H_full_model" / "llama_clip" / "ckpt"
    comparisons = compared(other, bundle)
    assert wrong(comparisons)[0] == "pixel_values"
    assert "shape" in next(c.detail for c in comparisons if c.stage == "pixel_values")


def test_not_a_number_is_a_difference(copy: Path, bundle: Path) -> None:
    edit_weights(copy / "llm", "lm_head.weight", lambda head: head.index_fill(0, torch.tensor([5]), torch.nan))
    first = first_difference(compared(copy, bundle))
    assert first is not None
    assert (first.stage, first.largest) == ("logits", float("inf"))
    assert "now nan" in first.detail


def test_a_tie_between_two_tokens_is_no_difference(checkpoint: Path, copy: Path, tmp_path: Path) -> None:
    """Two tokens that the model cannot tell apart, and a rounding error that prefers one of them."""
    model = navila.load(checkpoint, device="cpu", dtype="float32")
    request = ask("text", "Which way?")
    (first_id, *_) = list(read(freeze_one(model, request, checkpoint, tmp_path / "before")).greedy_ids or ())
    twin = 1 if first_id != 1 else 2

    def twins(lead: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(head: torch.Tensor) -> torch.Tensor:
            head[twin] = head[first_id] * (1 + lead)
            return head

        return change

    edit_weights(copy / "llm", "lm_head.weight", twins(-1e-7))
    golden = freeze_one(navila.load(copy, device="cpu", dtype="float32"), request, copy, tmp_path / "tie")
    recorded = read(golden)
    assert recorded.greedy_ids is not None
    assert recorded.margins[0] < 1e-4
    edit_weights(copy / "llm", "lm_head.weight", twins(+1e-6))
    comparisons = compared(copy, golden)
    answer = next(c for c in comparisons if c.stage == "greedy_ids")
    assert wrong(comparisons) == []
    assert "a tie" in answer.detail


def freeze_one(model: Any, request: Any, checkpoint: Path, folder: Path) -> Path:
    freeze(model, [request], folder, checkpoint=checkpoint, max_new_tokens=4)
    return folder


def read(folder: Path) -> Any:
    return read_golden(folder).cases[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_recordings_of_the_original_are_verified_as_they_are(
    variant: str, goldens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = goldens / "H_full_model" / variant
    assert main(["model", "verify", str(folder / "ckpt"), "--golden", str(folder), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    for stage in {*STAGES} - {"embeddings"}:
        assert any(line.split()[:2] == [stage, "equal"] for line in shown.splitlines()), stage


def test_a_change_is_found_in_a_recording_of_the_original(
    goldens: Path, tmp_path: Path, writable_copy: Callable[[Path, Path], Path]
) -> None:
    folder = goldens / "H_full_model" / "llama_siglip"
    golden = read_golden(folder)
    assert {c.stage for c in compared(folder / "ckpt", folder)} == {*STAGES}
    for what in ("the template", "the layer that is selected", "a layer of the language model"):
        changed = writable_copy(folder / "ckpt", tmp_path / what.replace(" ", "-"))
        change, stage = CHANGES[what]
        change(changed)
        model = navila.load(changed, device="cpu", dtype="float32")
        assert wrong(verify(model, golden, atol=1e-4))[0] == stage


def test_a_prompt_of_ones_own_with_images(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for number, picture in enumerate(synthetic_images(2, seed=3)):
        files += ["--image", str(tmp_path / f"{number}.png")]
        picture.save(files[-1])
    command = ["model", "freeze-golden", str(checkpoint), "--output", str(tmp_path / "out"), "--device", "cpu"]
    command += ["--prompt", "Here is <image> and there <image>; which is darker?", "--max-new-tokens", "4", *files]
    assert main(command) == 0
    (case,) = read_golden(tmp_path / "out").cases
    assert case.messages == (("user", command[command.index("--prompt") + 1]), ("assistant", None))
    assert [np.array_equal(a, b) for a, b in zip(case.images, synthetic_images(2, seed=3), strict=True)] == [True, True]
    assert wrong(compared(checkpoint, tmp_path / "out")) == []
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert main([*command[:-2], "--force"]) == 2
    assert "2 times <image>, but 1 images" in capsys.readouterr().err


def test_half_precision_is_compared_with_a_wider_tolerance(
    checkpoint: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["model", "verify", str(checkpoint), "--golden", str(bundle), "--device", "cpu", "--dtype", "float16"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["dtype"] == {"golden": "float32", "checkpoint": "float16"}
    assert result["atol"] == 0.1
    assert max(c["largest"] for c in result["comparisons"] if c["largest"] is not None) > 1e-4


def spoil(bundle: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    folder = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    change(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "bundle.json").unlink(), "its recording did not end"),
        (lambda f: (f / "bundle.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "bundle.json").write_text("[]"), "where an object is expected"),
        (lambda f: edit_json(f / "bundle.json", lambda b: b | {"version": 2}), "newer navila"),
        (lambda f: edit_json(f / "bundle.json", lambda b: b | {"cases": [{}]}), "missing or wrong"),
        (lambda f: (f / "tensors.safetensors").write_bytes(b"x"), "not what was recorded"),
        (lambda f: (f / "media" / "image-00.png").unlink(), "is missing"),
        (lambda f: Image.new("RGB", (8, 8)).save(f / "media" / "image-00.png"), "not what was recorded"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused(
    change: Callable[[Path], None],
    said: str,
    bundle: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = spoil(bundle, tmp_path, change)
    assert main(["model", "verify", str(checkpoint), "--golden", str(folder), "--device", "cpu"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("Error: ")
    assert said in told[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "CHECKPOINT", "--golden", "/no/such"], "/no/such is no folder"),
        (["verify", "CHECKPOINT", "--golden", "CHECKPOINT"], "no golden bundle"),
        (["verify", "/no/such", "--golden", "CHECKPOINT"], "no/such"),
        (["freeze-golden", "CHECKPOINT", "--output", "OUT", "--image", "a.png"], "give --prompt"),
        (["freeze-golden", "CHECKPOINT", "--output", "OUT", "--prompt", "x", "--image", "no.png"], "does not exist"),
        (["freeze-golden", "CHECKPOINT", "--output", "CHECKPOINT/config.json"], "is no folder"),
        (["freeze-golden", "/no/such", "--output", "OUT"], "no/such"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], said: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [a.replace("CHECKPOINT", str(checkpoint)).replace("OUT", str(tmp_path / "out")) for a in arguments]
    assert main(["model", *filled]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("Error: ")
    assert said in told[-1]
    assert not (tmp_path / "out").exists()


def test_a_recording_that_breaks_off_leaves_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    model = navila.load(checkpoint, device="cpu", dtype="float32")
    good, bad = default_requests(1, 0)[0], ask("long", "word " * 5000)
    for request in (good, bad):
        if request is bad:
            with pytest.raises(DataError, match="positions"):
                freeze(model, [good, bad], tmp_path / "b", checkpoint=checkpoint, max_new_tokens=2)
        else:
            freeze(model, [good], tmp_path / "b", checkpoint=checkpoint, max_new_tokens=2)
    assert not (tmp_path / "b" / "bundle.json").exists()
    with pytest.raises(ConfigError, match="one name"):
        freeze(model, [good, good], tmp_path / "b", checkpoint=checkpoint)


def test_positions_of_logits_are_all_of_a_short_prompt_and_the_end_of_a_long_one() -> None:
    assert logits_positions(5, 64) == [0, 1, 2, 3, 4]
    positions = logits_positions(1000, 10)
    assert positions[-5:] == [995, 996, 997, 998, 999]
    assert len(set(positions)) == 10
    assert positions == sorted(positions)
    assert logits_positions(1000, 1) == [999]


def test_made_up_pictures_follow_the_seed() -> None:
    first, again, other = (synthetic_images(2, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
