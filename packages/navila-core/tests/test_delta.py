"""Deltas: a checkpoint comes back from its base bit by bit, and from nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from navila.cli import main
from safetensors.torch import load_file, save_file


def files_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Files of a checkpoint in half precision: deltas look at nothing but tensors and their names."""
    torch.manual_seed(0)
    llm = {
        "model.embed_tokens.weight": torch.randn(10, 4).bfloat16(),
        "model.norm.weight": torch.randn(4).bfloat16(),
        "lm_head.weight": torch.randn(10, 4).bfloat16(),
        "scale": torch.tensor(2.0).bfloat16(),
    }
    folder = tmp_path / "base"
    for part, state in (("llm", llm), ("vision_tower", {"conv.weight": torch.randn(3, 2, 2, 2).half()})):
        (folder / part).mkdir(parents=True)
        save_file(state, folder / part / "model.safetensors", metadata={"format": "pt"})
        (folder / part / "config.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_llama"}))
    return folder


@pytest.fixture
def target(base: Path, tmp_path: Path) -> Path:
    """A grown vocabulary, a changed type, values that no subtraction restores, a new projector; two shards."""
    folder = tmp_path / "target"
    shutil.copytree(base, folder)
    state = load_file(folder / "llm" / "model.safetensors")
    (folder / "llm" / "model.safetensors").unlink()
    state["model.embed_tokens.weight"] = torch.cat(
        [state["model.embed_tokens.weight"] * 1.01, torch.ones(3, 4).bfloat16()]
    )
    state["scale"] = torch.tensor(float("nan")).bfloat16()
    state["lm_head.weight"] = (state["lm_head.weight"] * 1e-4)[:8]
    state["rope.weight"] = torch.tensor([float("inf"), -0.0, 1e-40])
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for file, inside in shards.items():
        save_file({name: state[name] for name in inside}, folder / "llm" / file, metadata={"format": "pt"})
    weight_map = {name: file for file, inside in shards.items() for name in inside}
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "llm" / "tokenizer.json").write_text('{"of": "the target"}')
    (folder / "mm_projector").mkdir()
    save_file({"layers.0.weight": torch.randn(2, 2)}, folder / "mm_projector" / "model.safetensors")
    return folder


def make(target: Path, base: Path, delta: Path, *more: str) -> int:
    return main(["model", "make-delta", str(target), "--base", str(base), "--output", str(delta), *more])


def restore(delta: Path, base: Path, output: Path, *more: str) -> int:
    return main(["model", "apply-delta", str(delta), "--base", str(base), "--output", str(output), *more])


def test_the_target_comes_back_byte_for_byte(base: Path, target: Path, tmp_path: Path) -> None:
    assert make(target, base, tmp_path / "delta") == 0
    assert restore(tmp_path / "delta", base, tmp_path / "again") == 0
    assert files_of(tmp_path / "again") == files_of(target)


def test_a_delta_holds_no_more_than_what_differs(base: Path, target: Path, tmp_path: Path) -> None:
    make(target, base, tmp_path / "delta")
    weights = tmp_path / "delta" / "weights"
    assert load_file(weights / "vision_tower" / "model.safetensors") == {}
    kept = {name for file in (weights / "llm").iterdir() for name in load_file(file)}
    assert kept == {"model.embed_tokens.weight", "scale", "lm_head.weight", "rope.weight"}
    # New rows stand as they are, the others are no weights of either model.
    table = next(load_file(f) for f in (weights / "llm").iterdir() if "model.embed_tokens.weight" in load_file(f))
    assert torch.equal(table["model.embed_tokens.weight"][10:], torch.ones(3, 4).bfloat16())
    ours, theirs = (load_file(f / "mm_projector" / "model.safetensors") for f in (target, weights))
    assert torch.equal(ours["layers.0.weight"], theirs["layers.0.weight"])


def test_a_bare_language_model_of_pickled_tensors_is_a_base_too(base: Path, target: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    torch.save(load_file(base / "llm" / "model.safetensors"), bare / "pytorch_model.bin")
    (bare / "config.json").write_text("{}")
    assert make(target, bare, tmp_path / "delta") == 0
    assert restore(tmp_path / "delta", bare, tmp_path / "again") == 0
    assert files_of(tmp_path / "again") == files_of(target)


def test_another_base_is_refused_and_nothing_is_left(
    base: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(target, base, tmp_path / "delta")
    state = load_file(base / "llm" / "model.safetensors")
    state["model.norm.weight"][0] += 1
    save_file(state, base / "llm" / "model.safetensors")
    capsys.readouterr()
    assert restore(tmp_path / "delta", base, tmp_path / "again") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "'model.norm.weight'" in said
    assert "llm/model.safetensors" in said
    assert "not the base" in said
    assert not list((tmp_path / "again").iterdir())


@pytest.mark.parametrize(
    "what", ["cut off", "changed", "no manifest", "another version", "a way out", "tensor missing"]
)
def test_a_broken_delta_is_one_sentence(
    base: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    delta = tmp_path / "delta"
    make(target, base, delta)
    file, manifest = delta / "weights" / "mm_projector" / "model.safetensors", delta / "delta.json"
    facts = json.loads(manifest.read_text())
    if what == "cut off":
        file.write_bytes(file.read_bytes()[:-2])
    elif what == "changed":
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    elif what == "no manifest":
        manifest.unlink()
    elif what == "another version":
        manifest.write_text(json.dumps({**facts, "format": "navila-delta-9"}))
    elif what == "a way out":
        moved = {f"../{name}": fact for name, fact in facts["files"].items()}
        manifest.write_text(json.dumps({**facts, "files": moved}))
    else:
        save_file({}, file)
    capsys.readouterr()
    assert restore(delta, base, tmp_path / "again") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("Error: ")
    assert str(manifest if what in ("another version", "a way out") else delta) in said
    assert not (tmp_path / "again" / "config.json").exists()


def test_what_is_there_is_not_overwritten_unasked(base: Path, target: Path, tmp_path: Path) -> None:
    assert make(target, base, tmp_path / "delta") == 0
    assert make(target, base, tmp_path / "delta") == 2
    assert make(target, base, tmp_path / "delta", "--force") == 0
    assert restore(tmp_path / "delta", base, base) == 2


def test_what_has_nothing_in_common_is_no_base(
    base: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_file({"w": torch.zeros(2)}, other / "model.safetensors")
    (other / "config.json").write_text("{}")
    assert make(target, other, tmp_path / "delta") == 2
    assert "in common" in capsys.readouterr().err
