"""Checkpoints: what is loaded is saved, nothing is lost, and what is broken is said in one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.errors import CheckpointError, ConfigError, NavilaError, UnknownComponentError
from navila.model import NavilaForCausalLM
from navila.model.load import load, resolve_dtype
from safetensors.torch import load_file, save_file
from torch import Tensor

PARTS = ("llm", "vision_tower", "mm_projector")


@pytest.fixture
def checkpoint(goldens: Path, tmp_path: Path, writable_copy: Callable[[Path, Path], Path]) -> Path:
    """A writable copy of a released-layout checkpoint made by the original code."""
    return writable_copy(goldens / "H_full_model" / "llama_siglip" / "ckpt", tmp_path / "checkpoint")


def loaded(folder: Path, **options: Any) -> Any:
    return load(folder, **{"dtype": "float32", "device": "cpu", **options})


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": tensor
        for part in PARTS
        for file in sorted((folder / part).glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def logits_of(model: Any) -> Tensor:
    ids = torch.tensor([[5, -200, 6, 7]])
    pixels = torch.linspace(-1, 1, 3 * 70 * 70).reshape(1, 3, 70, 70)
    with torch.no_grad():
        return model(ids, pixels).logits


def test_every_tensor_survives_loading_and_saving_under_its_name(checkpoint: Path, tmp_path: Path) -> None:
    loaded(checkpoint).save_pretrained(tmp_path / "again")
    before, after = saved_tensors(checkpoint), saved_tensors(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any("vision_model.head." in name for name in after)


def test_every_file_of_the_released_layout_is_written(checkpoint: Path, tmp_path: Path) -> None:
    loaded(checkpoint).save_pretrained(tmp_path / "again")
    written = {str(f.relative_to(tmp_path / "again")) for f in (tmp_path / "again").rglob("*") if f.is_file()}
    released = {str(f.relative_to(checkpoint)) for f in checkpoint.rglob("*") if f.is_file()}
    # Since transformers 5, special_tokens_map.json is part of tokenizer_config.json.
    assert written == released - {"llm/special_tokens_map.json"}


def test_every_config_key_survives(checkpoint: Path, tmp_path: Path) -> None:
    edit(checkpoint / "config.json", of_tomorrow={"a": [1]}, temperature=0.7, resume_path=None, torch_dtype="float16")
    edit(checkpoint / "llm" / "config.json", of_the_llm="kept")
    edit(checkpoint / "vision_tower" / "config.json", of_the_tower="kept")
    edit(checkpoint / "mm_projector" / "config.json", of_the_projector="kept")
    loaded(checkpoint).save_pretrained(tmp_path / "again")
    for name in ("config.json", *(f"{part}/config.json" for part in PARTS)):
        before, after = (json.loads((f / name).read_text()) for f in (checkpoint, tmp_path / "again"))
        assert before.keys() <= after.keys(), name
        changed = {k for k in before if before[k] != after[k]} - {"transformers_version"}
        assert changed <= {"llm_cfg", "vision_tower_cfg", "mm_projector_cfg"}, name
    top = json.loads((tmp_path / "again" / "config.json").read_text())
    before = json.loads((checkpoint / "config.json").read_text())
    for part in ("llm_cfg", "vision_tower_cfg", "mm_projector_cfg"):
        assert top[part]["model_type"] == before[part]["model_type"]
    assert before["llm_cfg"].keys() <= top["llm_cfg"].keys()
    assert top["model_type"] == "llava_llama"
    assert top["conversation"] == "llama_3"
    assert "navila-encoder-siglip" in top["navila_plugins"]
    assert json.loads((tmp_path / "again" / "mm_projector" / "config.json").read_text())["downsample_order"] == "column"


def test_older_readers_find_the_rotary_base_where_they_look(checkpoint: Path, tmp_path: Path) -> None:
    loaded(checkpoint).save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "llm" / "config.json").read_text())
    assert config["rope_theta"] == 500000.0
    assert config["rope_scaling"] is None


def test_a_checkpoint_can_be_saved_over_itself(checkpoint: Path) -> None:
    model = loaded(checkpoint)
    before = logits_of(model)
    with torch.no_grad():
        model.llm.lm_head.weight.mul_(2)
    model.save_pretrained(checkpoint)
    assert torch.equal(logits_of(loaded(checkpoint)), 2 * before)
    assert not list(checkpoint.glob(".saving-*"))


def test_shards_are_written_read_and_replaced(checkpoint: Path) -> None:
    model = loaded(checkpoint)
    before = logits_of(model)
    model.save_pretrained(checkpoint, max_shard_size="200KB")
    assert len(list((checkpoint / "llm").glob("*.safetensors"))) > 2
    assert not (checkpoint / "llm" / "model.safetensors").exists()
    again = loaded(checkpoint)
    assert torch.equal(logits_of(again), before)
    again.save_pretrained(checkpoint)
    assert [f.name for f in (checkpoint / "llm").glob("*.safetensors*")] == ["model.safetensors"]
    assert torch.equal(logits_of(loaded(checkpoint)), before)


def test_a_given_state_dict_is_what_is_saved(checkpoint: Path, tmp_path: Path) -> None:
    model = loaded(checkpoint)
    state = {name: torch.full_like(tensor, 3) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "threes", state_dict=state)
    assert all((tensor == 3).all() for tensor in saved_tensors(tmp_path / "threes").values())


def test_old_bin_files_are_read(checkpoint: Path) -> None:
    before = logits_of(loaded(checkpoint))
    for part in PARTS:
        file = checkpoint / part / "model.safetensors"
        torch.save(load_file(file), checkpoint / part / "pytorch_model.bin")
        file.unlink()
    assert torch.equal(logits_of(loaded(checkpoint)), before)


def test_a_bin_file_with_anything_but_tensors_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    (checkpoint / "mm_projector" / "model.safetensors").unlink()
    torch.save({"layers.1.weight": Bomb()}, checkpoint / "mm_projector" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        loaded(checkpoint)
    assert not (tmp_path / "exploded").exists()


def test_a_path_of_misleading_words_changes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    misleading = tmp_path / "mpt-internvl-yi-lora-gemma"
    shutil.copytree(checkpoint, misleading)
    assert torch.equal(logits_of(loaded(misleading)), logits_of(loaded(checkpoint)))


def test_a_vocabulary_padded_beyond_the_tokenizer_keeps_its_rows(checkpoint: Path) -> None:
    file = checkpoint / "llm" / "model.safetensors"
    state = load_file(file)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], torch.zeros(41, state[name].shape[1])])
    save_file(state, file, metadata={"format": "pt"})
    edit(checkpoint / "llm" / "config.json", vocab_size=1848)
    model = loaded(checkpoint)
    assert logits_of(model).shape[-1] == 1848
    assert model.llm.get_input_embeddings().weight.shape[0] == 1848


def test_no_token_is_added_whatever_the_config_says(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", mm_use_im_patch_token=True)
    model = loaded(checkpoint)
    assert len(model.tokenizer) == model.llm.config.vocab_size == 1807


def test_half_precision_keeps_rotary_frequencies_exact(checkpoint: Path) -> None:
    exact = loaded(checkpoint).llm.model.rotary_emb.inv_freq
    for dtype in ("float16", torch.bfloat16):
        model = loaded(checkpoint, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {resolve_dtype(dtype)}
        assert torch.equal(model.llm.model.rotary_emb.inv_freq, exact)
        assert logits_of(model).dtype == resolve_dtype(dtype)
    cast = loaded(checkpoint).bfloat16()
    assert {p.dtype for p in cast.parameters()} == {torch.bfloat16}
    assert torch.equal(cast.llm.model.rotary_emb.inv_freq, exact)


def test_attention_can_be_chosen(checkpoint: Path) -> None:
    sdpa = loaded(checkpoint, attn_implementation="sdpa")
    eager = loaded(checkpoint, attn_implementation="eager")
    assert eager.llm.config._attn_implementation == "eager"
    assert eager.vision_tower.vision_tower.config._attn_implementation == "eager"
    torch.testing.assert_close(logits_of(sdpa), logits_of(eager), atol=1e-4, rtol=0)


def test_the_way_of_transformers_loads_it_too(checkpoint: Path) -> None:
    model = NavilaForCausalLM.from_pretrained(checkpoint, dtype="float32", device="cpu")
    assert torch.equal(logits_of(model), logits_of(loaded(checkpoint)))
    assert NavilaForCausalLM.from_pretrained(checkpoint, torch_dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(TypeError, match="revision"):
        NavilaForCausalLM.from_pretrained(checkpoint, revision="main")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "llm/config.json",
        "llm/model.safetensors",
        "llm/tokenizer_config.json",
        "vision_tower/config.json",
        "vision_tower/model.safetensors",
        "vision_tower/preprocessor_config.json",
        "mm_projector/model.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise"])
def test_a_damaged_file_is_named(checkpoint: Path, name: str, damage: str) -> None:
    path = checkpoint / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(bytes(i * 7919 % 256 for i in range(len(content))))
    with pytest.raises(CheckpointError) as caught:
        loaded(checkpoint)
    message = str(caught.value)
    assert path.parent.name in message
    assert "\n" not in message


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_folder_is_named(checkpoint: Path, part: str) -> None:
    shutil.rmtree(checkpoint / part)
    with pytest.raises(CheckpointError, match=part):
        loaded(checkpoint)


@pytest.mark.parametrize(
    ("part", "tensor"),
    [
        ("llm", "model.layers.1.mlp.up_proj.weight"),
        ("vision_tower", "vision_model.encoder.layers.0.mlp.fc1.bias"),
        ("mm_projector", "layers.2.weight"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(checkpoint: Path, part: str, tensor: str) -> None:
    file = checkpoint / part / "model.safetensors"
    state = load_file(file)
    shape = state[tensor].shape
    save_file({**state, tensor: torch.zeros(shape[0] + 1, *shape[1:])}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=tensor.removeprefix("vision_model.")):
        loaded(checkpoint)
    del state[tensor]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=tensor.removeprefix("vision_model.")):
        loaded(checkpoint)


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    loaded(checkpoint).save_pretrained(checkpoint, max_shard_size="200KB")
    shard = sorted((checkpoint / "llm").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        loaded(checkpoint)


def test_an_unknown_part_is_named(checkpoint: Path) -> None:
    edit(checkpoint / "llm" / "config.json", model_type="lama")
    with pytest.raises(UnknownComponentError, match=r"llm.config\.json: .*'lama'"):
        loaded(checkpoint)


def test_an_unknown_projector_type_is_named(checkpoint: Path) -> None:
    edit(checkpoint / "mm_projector" / "config.json", mm_projector_type="mlp_dwnsample")
    with pytest.raises(UnknownComponentError, match=r"mm_projector.config\.json: .*'mlp_dwnsample'"):
        loaded(checkpoint)


def test_what_is_no_composed_model_is_told_so(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="'llama'"):
        loaded(checkpoint / "llm")


def test_a_training_folder_points_to_its_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copytree(checkpoint, tmp_path / "run" / "checkpoint-20")
    shutil.copytree(checkpoint, tmp_path / "run" / "checkpoint-100")
    with pytest.raises(CheckpointError, match="checkpoint-100"):
        loaded(tmp_path / "run")


def test_a_missing_folder_and_an_unreachable_id_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        loaded(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no folder"):
        navila.load("nothing-here")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        navila.load("nobody/no-such-model")


@pytest.mark.parametrize(
    "options", [{"dtype": "int8"}, {"dtype": "__import__('os')"}, {"device": "tpu9"}, {"attn_implementation": "fast"}]
)
def test_a_wrong_option_is_told(checkpoint: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(options.values()))).replace("(", r"\(").replace(")", r"\)")):
        loaded(checkpoint, **options)


@pytest.mark.parametrize(
    "fields",
    [
        {"mm_vision_select_layer": 9},
        {"mm_vision_select_layer": "last"},
        {"mm_vision_select_feature": "bogus"},
        {"conversation": "no-such-template"},
        {"conversation": 5},
        {"num_video_frames": "eight"},
        {"num_video_frames": 0},
        {"fps": "two"},
        {"fps": -1},
        {"image_aspect_ratio": "zork"},
        {"image_aspect_ratio": 2},
        {"image_aspect_ratio": "dynamic"},
    ],
)
def test_a_wrong_field_is_told_with_its_file(checkpoint: Path, fields: dict[str, Any]) -> None:
    edit(checkpoint / "config.json", **fields)
    with pytest.raises(NavilaError, match=rf"checkpoint.config\.json: .*{next(iter(fields.values()))}"):
        loaded(checkpoint)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hidden_act": "zork"}, "hidden_act 'zork'"),
        ({"rope_scaling": {"type": "zork", "factor": 2.0}}, "rope_scaling.type 'zork'"),
    ],
)
def test_a_word_that_transformers_does_not_know_is_told_with_its_key(
    checkpoint: Path, fields: dict[str, Any], said: str
) -> None:
    edit(checkpoint / "llm" / "config.json", **fields)
    with pytest.raises(CheckpointError, match=rf"llm.config\.json has {said}"):
        loaded(checkpoint)


@pytest.mark.parametrize(("part", "name"), [("llm", "model.layers.2"), ("mm_projector", "layers.9")])
def test_tensors_that_nothing_takes_are_told(
    checkpoint: Path, part: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    loaded(checkpoint)
    assert caplog.text == ""
    if part == "llm":
        edit(checkpoint / "llm" / "config.json", num_hidden_layers=2)
    else:
        weights = checkpoint / part / "model.safetensors"
        save_file({**load_file(weights), "layers.9.weight": torch.ones(2)}, weights, metadata={"format": "pt"})
    loaded(checkpoint)
    assert f"the first being '{name}" in caplog.text


def test_an_encoder_config_that_makes_no_sense_is_named(checkpoint: Path) -> None:
    edit(checkpoint / "vision_tower" / "config.json", num_attention_heads=7)
    with pytest.raises(CheckpointError, match=r"vision_tower.config\.json describes no vision encoder \(ValueError"):
        loaded(checkpoint)


def test_a_tokenizer_is_written_as_older_readers_expect(checkpoint: Path, tmp_path: Path) -> None:
    loaded(checkpoint).save_pretrained(tmp_path / "again")
    settings = json.loads((tmp_path / "again" / "llm" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    before, after = (json.loads((f / "llm" / "tokenizer.json").read_text()) for f in (checkpoint, tmp_path / "again"))
    assert after["model"].items() >= before["model"].items()
    assert {k: v for k, v in after.items() if k != "model"} == {k: v for k, v in before.items() if k != "model"}


def test_a_parts_file_gains_nothing_from_the_top_config(checkpoint: Path, tmp_path: Path) -> None:
    edit(checkpoint / "config.json", llm_cfg={"model_type": "llama", "only_in_the_top": 1})
    loaded(checkpoint).save_pretrained(tmp_path / "again")
    assert "only_in_the_top" not in json.loads((tmp_path / "again" / "llm" / "config.json").read_text())
    assert json.loads((tmp_path / "again" / "config.json").read_text())["llm_cfg"]["only_in_the_top"] == 1


def test_files_of_others_beside_the_parts_are_left_alone(checkpoint: Path) -> None:
    (checkpoint / "adapter_model.safetensors").write_bytes(b"mine")
    (checkpoint / "trainer_state.json").write_text("{}")
    loaded(checkpoint).save_pretrained(checkpoint)
    assert (checkpoint / "adapter_model.safetensors").read_bytes() == b"mine"
    assert (checkpoint / "trainer_state.json").exists()


def test_parts_that_do_not_belong_together_are_told(checkpoint: Path) -> None:
    edit(checkpoint / "mm_projector" / "config.json", mm_projector_type="linear", mm_hidden_size=32, hidden_size=64)
    weights = {"layers.weight": torch.zeros(64, 32), "layers.bias": torch.zeros(64)}
    save_file(weights, checkpoint / "mm_projector" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="gives 48"):
        loaded(checkpoint)
