"""`navila model info` tells what a checkpoint is from its files alone, whole or not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.cli import main
from navila.cli.models.info import count, size
from navila.model import build
from navila.model.headers import stored_tensors
from navila.model.inspect import inspect_checkpoint, kv_cache
from safetensors.torch import load_file, save_file

PARTS = ("llm", "vision_tower", "mm_projector")


@pytest.fixture(scope="module")
def checkpoint(goldens: Path) -> Path:
    return goldens / "H_full_model" / "llama_siglip" / "ckpt"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path, writable_copy: Callable[[Path, Path], Path]) -> Path:
    """The checkpoint, to be spoilt."""
    return writable_copy(checkpoint, tmp_path / "copy")


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("variant", ["llama_siglip", "llama_clip", "gemma_siglip", "mixtral_siglip"])
def test_facts_are_those_of_the_loaded_model(variant: str, goldens: Path) -> None:
    folder = goldens / "H_full_model" / variant / "ckpt"
    facts = inspect_checkpoint(folder)
    model = navila.load(folder, device="cpu", dtype="float32")
    assert facts.problems == ()
    for part in facts.parts:
        assert part.parameters == sum(p.numel() for p in getattr(model, part.part).parameters())
        assert part.dtypes == {"float32": part.parameters}
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert facts.weight_memory["float32"] == sum(p.nbytes for p in model.parameters())
    assert facts.tokens_per_image == model.tokens_per_image
    assert facts.tokens_per_video == 8 * model.tokens_per_image
    assert facts.image_size == model.vision_tower.input_size
    assert facts.template == "llama_3"
    assert facts.vocabulary == len(model.tokenizer)
    assert facts.context_length == model.llm.config.tokenizer_model_max_length
    assert facts.token_order == (None if variant == "llama_clip" else "column")


def test_the_cache_is_as_large_as_transformers_makes_it(checkpoint: Path) -> None:
    model = navila.load(checkpoint, device="cpu", dtype="float32")
    ids = torch.ones(1, 10, dtype=torch.long)
    with torch.no_grad():
        cache: Any = model(ids, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_cache(model.llm.config, tokens=10, bytes_per_value=4) == held


def test_the_table_and_the_json(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info", str(checkpoint)]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert ["llm", "llama", "342K", "float32", "1.37", "MB", "LlamaBackend", "navila-llm-llama", "0.1.0"] in rows
    assert "Tokens per image:   9, column by column" in shown
    assert "Video prompt:       8 frames, 72 tokens" in shown
    assert "mm_projector/model.safetensors" in shown
    assert main(["model", "info", str(checkpoint), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tokens_per_image"] == 9
    assert facts["problems"] == []
    assert facts["files"]["config.json"] == (checkpoint / "config.json").stat().st_size


def test_what_navila_saves_says_which_plugins_made_it(checkpoint: Path, tmp_path: Path) -> None:
    navila.load(checkpoint, device="cpu", dtype="float32").save_pretrained(tmp_path)
    made_by = inspect_checkpoint(tmp_path).made_by
    assert made_by["navila-llm-llama"] == "0.1.0"
    assert made_by["navila-core"] == navila.__version__


def test_headers_tell_what_is_in_a_file(checkpoint: Path) -> None:
    for part in PARTS:
        state = load_file(checkpoint / part / "model.safetensors")
        stored = {tensor.name: tensor for tensor in stored_tensors(checkpoint / part)}
        assert stored.keys() == state.keys()
        for name, tensor in state.items():
            assert stored[name].shape == tuple(tensor.shape)
            assert (stored[name].count, stored[name].size) == (tensor.numel(), tensor.nbytes)
            start = stored[name].start
            assert start is not None
            with stored[name].file.open("rb") as file:
                file.seek(start)
                assert file.read(tensor.nbytes) == tensor.numpy().tobytes()


def test_old_bin_files_are_mapped_not_read(copy: Path) -> None:
    before = inspect_checkpoint(copy)
    for part in PARTS:
        file = copy / part / "model.safetensors"
        torch.save(load_file(file), copy / part / "pytorch_model.bin")
        file.unlink()
    after = inspect_checkpoint(copy)
    assert after.problems == ()
    assert [(p.parameters, p.dtypes) for p in after.parts] == [(p.parameters, p.dtypes) for p in before.parts]


def test_a_projector_without_parameters_needs_no_file(goldens: Path, tmp_path: Path) -> None:
    llm = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    tower = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes = {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    words = goldens / "tokenizers" / "llama3_like"
    model = build({**llm, "num_hidden_layers": 1}, {**tower, **sizes}, "identity", words)
    model.save_pretrained(tmp_path)
    facts = inspect_checkpoint(tmp_path)
    assert facts.problems == ()
    assert facts.parts[2].parameters == 0
    assert facts.tokens_per_image == 4


@pytest.mark.parametrize("tower_inside", [True, False])
def test_the_layout_of_llava_is_told_part_by_part(tower_inside: bool, goldens: Path, tmp_path: Path) -> None:
    source = goldens / "H_full_model" / "llama_clip" / "ckpt"
    state = load_file(source / "llm" / "model.safetensors")
    for name, tensor in load_file(source / "mm_projector" / "model.safetensors").items():
        state[f"model.mm_projector.{name.removeprefix('layers.')}"] = tensor
    if tower_inside:
        for name, tensor in load_file(source / "vision_tower" / "model.safetensors").items():
            state[f"model.vision_tower.vision_tower.{name}"] = tensor
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for file in source.glob("llm/*token*"):
        shutil.copy(file, tmp_path)
    top = json.loads((source / "config.json").read_text())
    vision = {key: value for key, value in top.items() if key.startswith("mm_vision_select")}
    named = {"mm_vision_tower": str(source / "vision_tower"), "mm_projector_type": "mlp2x_gelu"}
    llm = json.loads((source / "llm" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**llm, **vision, **named, "model_type": "llava"}))
    expected, facts = inspect_checkpoint(source), inspect_checkpoint(tmp_path)
    assert facts.problems == ()
    assert [(p.model_type, p.parameters) for p in facts.parts] == [(p.model_type, p.parameters) for p in expected.parts]
    assert (facts.tokens_per_image, facts.weight_memory) == (16, expected.weight_memory)


#: What happened to the checkpoint, what must be told of it, and a fact that is still known.
SPOILT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a file cut off": (
        lambda f: (f / "llm" / "model.safetensors").open("r+b").truncate(1000),
        "llm/model.safetensors is corrupt",
        "tokens_per_image",
    ),
    "the end of a file cut off": (
        lambda f: (f / "llm" / "model.safetensors").open("r+b").truncate(1_000_000),
        "1000000 bytes where 1372472 are due",
        "tokens_per_image",
    ),
    "no weights": (
        lambda f: (f / "vision_tower" / "model.safetensors").unlink(),
        "vision_tower holds no weights",
        "tokens_per_image",
    ),
    "no folder": (lambda f: shutil.rmtree(f / "llm"), "no folder llm/", "image_size"),
    "no top config": (lambda f: (f / "config.json").unlink(), "config.json is missing", "tokens_per_image"),
    "a config that is no JSON": (
        lambda f: (f / "llm" / "config.json").write_text("{"),
        "llm/config.json cannot be read as JSON",
        "image_size",
    ),
    "another model type": (
        lambda f: edit_json(f / "llm" / "config.json", model_type="lama"),
        "'lama'",
        "image_size",
    ),
    "sizes of another encoder": (
        lambda f: edit_json(f / "vision_tower" / "config.json", intermediate_size=100),
        "the two do not belong together",
        "tokens_per_image",
    ),
    "sizes that make no sense": (
        lambda f: edit_json(f / "vision_tower" / "config.json", num_attention_heads=7),
        "vision_tower",
        "vocabulary",
    ),
    "more layers than there are": (
        lambda f: edit_json(f / "llm" / "config.json", num_hidden_layers=4),
        "llm holds 342336 parameters where its config.json asks for",
        "tokens_per_image",
    ),
    "sizes of another language model": (
        lambda f: edit_json(f / "llm" / "config.json", intermediate_size=77),
        "where its config.json asks for (77, 64): the two do not belong together",
        "tokens_per_image",
    ),
    "no tokenizer": (
        lambda f: (f / "llm" / "tokenizer_config.json").unlink(),
        "tokenizer_config.json is missing",
        "tokens_per_image",
    ),
    "a shard that is not there": (
        lambda f: (
            (f / "llm" / "model.safetensors").rename(f / "llm" / "model-00001-of-00002.safetensors"),
            (f / "llm" / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
            ),
        ),
        "lists model-00002-of-00002.safetensors, which is missing",
        "tokens_per_image",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_checkpoint_that_is_not_whole_is_told_with_all_that_is_left(
    what: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said, known = SPOILT[what]
    spoil(copy)
    assert main(["model", "info", str(copy), "--json"]) == 2
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts[known]
    told = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert [line.removeprefix("Error: ") for line in told] == facts["problems"]
    assert any(said in line for line in told), told
    assert main(["model", "info", str(copy)]) == 2
    assert "unknown" in capsys.readouterr().out or facts["parameters"]


def test_a_plugin_that_is_not_there_ends_in_the_line_to_type(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "info", str(checkpoint), "--plugin", "no:navila-projector-mlp"]) == 2
    captured = capsys.readouterr()
    assert "no installed plugin" in captured.out
    assert "navila-projector-mlp" in captured.err


def test_what_is_no_composed_model_is_told_once(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info", str(checkpoint / "llm")]) == 2
    captured = capsys.readouterr()
    assert "a language model alone" in captured.err
    assert captured.err.count("Error: ") == 1
    assert "model.safetensors" in captured.out


def test_an_adapter_is_sent_to_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert main(["model", "info", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "is an adapter: look at its base" in captured.err
    assert not captured.out


def test_a_path_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info", "./no-such-folder"]) == 2
    assert capsys.readouterr().err.startswith("Error: './no-such-folder' is no folder")


EIGHT_BILLION = """
import json, resource, sys
from pathlib import Path
from navila.model.inspect import inspect_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
facts = inspect_checkpoint(Path(sys.argv[1]))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({**facts.to_dict(), "growth": (after - before) * 1024}))
"""


def test_eight_billion_parameters_take_little_memory(goldens: Path, tmp_path: Path) -> None:
    """The sizes of a released checkpoint, in files that are all hole: reading them would take 17 GB."""
    llm = {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "tokenizer_model_max_length": 4096,
    }
    with torch.device("meta"):
        model = build(llm, "siglip-so400m-384", "mlp_downsample", goldens / "tokenizers" / "llama3_like")
    prefix = {"vision_tower": model.vision_tower.weight_prefix}
    modules = {"llm": model.llm, "vision_tower": model.vision_tower.vision_tower, "mm_projector": model.mm_projector}
    for part, module in modules.items():
        (tmp_path / part).mkdir()
        header, end = {}, 0
        for name, tensor in module.state_dict().items():
            start, end = end, end + 2 * tensor.numel()
            entry = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
            header[prefix.get(part, "") + name] = entry
        text = json.dumps(header).encode()
        with (tmp_path / part / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_llama", "num_video_frames": 8}))
    (tmp_path / "llm" / "config.json").write_text(json.dumps(llm))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(goldens / "tokenizers" / "llama3_like" / name, tmp_path / "llm")
    (tmp_path / "vision_tower" / "config.json").write_text(json.dumps(model.vision_tower.config))
    (tmp_path / "mm_projector" / "config.json").write_text(json.dumps(model.mm_projector.config))
    model.image_processor.save_pretrained(tmp_path / "vision_tower")

    command = [sys.executable, "-c", EIGHT_BILLION, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert facts["problems"] == []
    assert facts["parameters"] == sum(p.numel() for p in model.parameters()) > 8.4e9
    assert facts["parts"][0]["dtypes"] == {"bfloat16": facts["parts"][0]["parameters"]}
    assert (facts["tokens_per_image"], facts["tokens_per_video"]) == (196, 1568)
    assert facts["weight_memory"]["float16"] == 2 * facts["parameters"]
    assert 9e9 < facts["weight_memory"]["int8"] < 12e9
    assert 5e9 < facts["weight_memory"]["int4"] < 8e9
    assert facts["kv_cache"] == 131_072_000
    # The tables of names and the modules of an encoder; the weights would be 17 GB.
    assert facts["growth"] < 1e9


def test_numbers_are_written_in_three_figures() -> None:
    assert [count(n) for n in (0, 7, 342_336, 8_030_261_248)] == ["0", "7", "342K", "8.03B"]
    assert [size(n) for n in (999, 999_600, 1_000_000, 16_060_522_496)] == ["999 B", "1 MB", "1 MB", "16.1 GB"]
