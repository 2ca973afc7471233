"""`navila model build` composes parts from a shell and writes a checkpoint that loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.cli import main
from safetensors.torch import load_file

LLM = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
}


@pytest.fixture(scope="module")
def words(goldens: Path) -> Path:
    return goldens / "tokenizers" / "llama3_like"


def command(words: Path, output: Path, *more: str, **parts: str) -> list[str]:
    given = {"llm": json.dumps(LLM), "encoder": json.dumps(TOWER), "projector": "mlp_downsample"} | parts
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    return ["model", "build", *flags, "--tokenizer", str(words), "--output", str(output), *more]


def weights(folder: Path) -> dict[str, Any]:
    parts = ("llm", "vision_tower", "mm_projector")
    return {f"{p}.{n}": t for p in parts for n, t in load_file(folder / p / "model.safetensors").items()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_inline_configs_make_a_checkpoint_that_loads(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ["--set", "num_video_frames=4", "--set", "image_aspect_ratio=pad", "--set", "mm_vision_select_layer=-1"]
    assert main(command(words, tmp_path / "out", *fields, "--template", "vicuna_v1", "--dtype", "bfloat16")) == 0
    shown = capsys.readouterr().out
    assert "Tokens per image:   4, column by column" in shown
    assert "DownsampleProjector  navila-projector-mlp" in shown
    model = navila.load(tmp_path / "out", device="cpu", dtype="float32")
    assert model.tokens_per_image == 4
    assert (model.config.num_video_frames, model.config.image_aspect_ratio) == (4, "pad")
    assert model.vision_tower.select_layer == -1
    assert model.template is not None
    assert model.template.name == "vicuna_v1"
    assert {t.dtype for t in weights(tmp_path / "out").values()} == {torch.bfloat16}
    assert not list((tmp_path / "out").glob(".*"))


def test_files_and_folders_and_the_seed(words: Path, tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    (tmp_path / "llm.json").write_text(json.dumps(LLM))
    assert main(command(words, first, "--seed", "1")) == 0
    assert main(command(words, again, "--seed", "1", llm=str(tmp_path / "llm.json"))) == 0
    assert main(command(words, other, "--seed", "2")) == 0
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))

    mixed = tmp_path / "mixed"
    parts = {
        "llm": str(first / "llm"),
        "encoder": str(first / "vision_tower"),
        "projector": str(other / "mm_projector"),
    }
    flags = [word for name, value in parts.items() for word in (f"--{name}", value)]
    assert main(["model", "build", *flags, "--output", str(mixed)]) == 0
    state = weights(mixed)
    for part, source in (("llm", first), ("vision_tower", first), ("mm_projector", other)):
        assert same(
            {name: t for name, t in state.items() if name.startswith(part)},
            {name: t for name, t in weights(source).items() if name.startswith(part)},
        )


def test_the_tokenizer_beside_a_config_is_taken(words: Path, tmp_path: Path) -> None:
    assert main(command(words, tmp_path / "first")) == 0
    config = str(tmp_path / "first" / "llm" / "config.json")
    parts = ["--llm", config, "--encoder", json.dumps(TOWER), "--projector", "linear"]
    assert main(["model", "build", *parts, "--output", str(tmp_path / "second")]) == 0
    assert navila.load(tmp_path / "second", device="cpu").tokens_per_image == 16


def test_a_checkpoint_is_replaced_only_when_asked(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(words, tmp_path)) == 0
    before = weights(tmp_path)
    assert main(command(words, tmp_path, "--seed", "1")) == 2
    assert "--force to replace it" in capsys.readouterr().err
    assert same(weights(tmp_path), before)
    assert main(command(words, tmp_path, "--seed", "1", "--force")) == 0
    assert not same(weights(tmp_path), before)


@pytest.mark.parametrize(
    ("parts", "more", "said"),
    [
        ({"llm": "llama"}, [], "is a family, not a size"),
        ({"llm": "{"}, [], "--llm is no JSON"),
        ({"llm": "no.json"}, [], "--llm no.json cannot be read"),
        ({"llm": '{"hidden_size": 8}'}, [], "no model_type"),
        ({"llm": json.dumps(LLM | {"hidden_size": 33})}, [], "describes no language model"),
        ({"llm": json.dumps({"model_type": "gemma3", "text_config": LLM})}, [], "give a language model alone"),
        ({"llm": "./no-such"}, [], "'./no-such' is no folder here"),
        ({"encoder": "siglip-so400m-348"}, [], "siglip-so400m-348"),
        ({"encoder": '{"model_type": "siglp"}'}, [], "did you mean 'siglip'"),
        ({"projector": "mlp_downsampl"}, [], "did you mean"),
        ({"projector": "identity"}, [], "24 channels into 32"),
        ({}, ["--set", "num_video_frame=3"], "did you mean 'num_video_frames'?"),
        ({}, ["--set", "num_video_frames=many"], "give a value of kind int"),
        ({}, ["--set", "num_video_frames=true"], "give a value of kind int"),
        ({}, ["--set", "num_video_frames"], "write KEY=VALUE"),
        ({}, ["--set", "mm_vision_select_layer=7"], "the encoder has 2 layers"),
        ({}, ["--dtype", "float8"], "use float32, float16 or bfloat16"),
        ({}, ["--template", "lama_3"], "llama_3"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    parts: dict[str, str], more: list[str], said: str, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(words, tmp_path / "out", *more, **parts)) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("Error: ")
    assert said in told[-1]
    assert not (tmp_path / "out").exists()


def test_a_config_alone_has_no_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["--llm", json.dumps(LLM), "--encoder", json.dumps(TOWER), "--projector", "linear"]
    assert main(["model", "build", *parts, "--output", str(tmp_path / "out")]) == 2
    assert "give --tokenizer a folder" in capsys.readouterr().err
