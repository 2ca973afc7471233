"""What checkpoints in circulation have in their configs and paths, and what none of it may change."""

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
from navila.errors import CheckpointError, NavilaError
from navila.model import build
from navila.model.components import llm_backend
from safetensors.torch import load_file, save_file
from torch import Tensor

TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 42,
    "patch_size": 14,
}
PARTS = ("llm", "vision_tower", "mm_projector")
GONE = "<gone>"
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def made(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A checkpoint as built, once for all that ask for the same."""
    there: dict[str, Path] = {}

    def make(llm: str, tower: Any, projector: str) -> Path:
        key = json.dumps([llm, tower, projector])
        if key not in there:
            torch.manual_seed(0)
            config = {k: v for k, v in llm_backend(llm).tiny_config().items() if not k.endswith(("_id", "vocab_size"))}
            there[key] = tmp_path_factory.mktemp("made")
            build(config, tower, projector, goldens / "tokenizers" / "llama3_like").save_pretrained(there[key])
        return there[key]

    return make


@pytest.fixture
def saved(made: Make, tmp_path: Path) -> Make:
    """A checkpoint of one's own, its top config changed; `GONE` takes a key out."""

    def copy(llm: str = "llama", tower: Any = TOWER, projector: str = "mlp_downsample", **fields: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(made(llm, tower, projector), folder)
        edit(folder / "config.json", **fields)
        return folder

    return copy


def edit(path: Path, **fields: Any) -> None:
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not GONE}))


def loaded(folder: Path) -> Any:
    return navila.load(folder, dtype="float32", device="cpu")


def logits_of(folder: Path) -> Tensor:
    model = loaded(folder)
    side = model.vision_tower.image_size
    pixels = torch.linspace(-1, 1, 3 * side * side).reshape(1, 3, side, side)
    with torch.no_grad():
        return model(torch.tensor([[5, -200, 6, 7]]), pixels).logits


@pytest.mark.parametrize(
    ("llm", "model_type"),
    [
        ("mistral", "llava_mistral"),
        ("mixtral", "llava_mixtral"),
        ("gemma", "llava_gemma"),
        # The part knows best: NaVILA's own class wrote llava_llama whatever the language model was.
        ("mistral", "llava_llama"),
        ("llama", "llava_gemma"),
    ],
)
def test_the_language_model_tells_its_own_kind(llm: str, model_type: str, saved: Make, tmp_path: Path) -> None:
    folder = saved(llm)
    before = logits_of(folder)
    edit(folder / "config.json", model_type=model_type)
    model = loaded(folder)
    assert model.llm.config.model_type == llm
    assert torch.equal(logits_of(folder), before)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits_of(tmp_path / "again"), before)


def test_mpt_is_refused_in_a_sentence(saved: Make) -> None:
    folder = saved(model_type="llava_mpt")
    with pytest.raises(CheckpointError, match="mpt") as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)
    edit(folder / "config.json", model_type="llava_llama")
    edit(folder / "llm" / "config.json", model_type="mpt")
    with pytest.raises(NavilaError, match="mpt"):
        loaded(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"resume_path": None},
        {"resume_path": GONE},
        {"resume_path": "/nowhere/else"},
        {"llm_cfg": "meta-llama/Llama-3-8B", "vision_tower_cfg": "google/siglip", "mm_projector_cfg": "mlp_downsample"},
        {"llm_cfg": GONE, "vision_tower_cfg": GONE, "mm_projector_cfg": GONE},
        {"llm_cfg": None, "vision_tower_cfg": None, "mm_projector_cfg": None, "architectures": None},
        {"_name_or_path": "/home/someone/checkpoints/navila"},
        {"fps": None, "mm_vision_select_layer": None, "num_video_frames": None},
        {"mm_vision_select_feature": "patch"},
        {"hidden_size": None, "mm_hidden_size": None},
        {"hidden_size": GONE, "mm_hidden_size": GONE},
        {"model_dtype": "__import__('os').abort()", "torch_dtype": "__import__('os').abort()"},
        {"s2": False, "s2_scales": "336,672", "s2_max_split_size": 336, "vision_resolution": -1},
        {"drop_path_rate": 0.0, "chat_template": None, "tune_vision_tower": True, "deepspeed": {}},
        {"max_sequence_length": 7},
    ],
    ids=str,
)
def test_a_top_config_of_this_kind_loads_all_the_same(fields: dict[str, Any], saved: Make, tmp_path: Path) -> None:
    folder = saved()
    before = logits_of(folder)
    edit(folder / "config.json", **fields)
    assert torch.equal(logits_of(folder), before)
    model = loaded(folder)
    assert (model.config.fps, model.config.num_video_frames, model.config.mm_vision_select_layer) == (0.0, 8, -2)
    # The defaults work, and the copy is whole again.
    assert isinstance(model.generate_content([np.zeros((8, 9, 3), np.uint8), "?"], max_new_tokens=1), str)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits_of(tmp_path / "again"), before)
    top = json.loads((tmp_path / "again" / "config.json").read_text())
    assert all(isinstance(top[f"{part}_cfg"], dict) for part in PARTS)
    assert top["mm_hidden_size"] == 24


@pytest.mark.parametrize("words", ["mpt-prompts", "internal", "yi-lora", "siglip", "clip-radio", "dora/llava-mixtral"])
def test_no_word_of_a_path_decides_anything(words: str, saved: Make, tmp_path: Path) -> None:
    folder = saved()
    before = logits_of(folder)
    there = tmp_path / words / "checkpoint"
    shutil.copytree(folder, there)
    assert torch.equal(logits_of(there), before)
    model = loaded(there)
    assert model.template.name == "llama_3"
    parts = [there / part for part in PARTS]
    again = build(*parts)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("part", ["llm", "vision_tower"])
def test_a_type_in_a_parts_config_is_told_and_never_run(part: str, saved: Make) -> None:
    folder = saved()
    edit(folder / part / "config.json", torch_dtype="__import__('os').abort()", dtype=GONE)
    with pytest.raises(CheckpointError, match="abort") as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


def test_a_projectors_sizes_may_be_missing(saved: Make) -> None:
    folder = saved()
    before = logits_of(folder)
    released = {"model_type": "v2l_projector", "mm_projector_type": "mlp_downsample"}
    (folder / "mm_projector" / "config.json").write_text(json.dumps(released))
    assert torch.equal(logits_of(folder), before)
    (folder / "mm_projector" / "config.json").unlink()
    edit(folder / "config.json", mm_projector_cfg=released)
    assert torch.equal(logits_of(folder), before)


def test_a_projector_without_weights_needs_no_folder(saved: Make) -> None:
    folder = saved(tower={**TOWER, "hidden_size": 64}, projector="identity")
    before = logits_of(folder)
    shutil.rmtree(folder / "mm_projector")
    edit(folder / "config.json", mm_projector_cfg={"mm_projector_type": "identity"})
    assert torch.equal(logits_of(folder), before)
    edit(folder / "config.json", mm_projector_cfg={"model_type": "v2l_projector"})
    with pytest.raises(CheckpointError, match="mm_projector_type"):
        loaded(folder)


def test_a_projector_with_weights_needs_its_folder(saved: Make) -> None:
    folder = saved()
    shutil.rmtree(folder / "mm_projector")
    for named in ("mlp_downsample", {"mm_projector_type": "mlp_downsample"}):
        edit(folder / "config.json", mm_projector_cfg=named)
        with pytest.raises(CheckpointError, match="mm_projector"):
            loaded(folder)


def test_positions_once_resized_are_taken_as_they_are(saved: Make) -> None:
    folder = saved(vision_resolution=42)
    file = folder / "vision_tower" / "model.safetensors"
    state = load_file(file)
    name = next(n for n in state if n.endswith("position_embedding.weight"))
    # The original's resizing left rows of zeros.
    state[name][[0, -1]] = 0
    save_file(state, file, metadata={"format": "pt"})
    model = loaded(folder)
    assert torch.equal(model.vision_tower.vision_tower.embeddings.position_embedding.weight, state[name])


def test_a_crop_that_is_none_is_no_crop(saved: Make) -> None:
    folder = saved()
    image = np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    before = loaded(folder).process_images([image])
    edit(folder / "vision_tower" / "preprocessor_config.json", crop_size=None, do_center_crop=None)
    assert torch.equal(loaded(folder).process_images([image]), before)


def test_the_processor_file_of_an_internvit_tells_nothing(saved: Make) -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower = {"model_type": "intern_vit_6b", **sizes, "image_size": 56, "patch_size": 14}
    folder = saved(tower=tower, mm_vision_select_feature="patch")
    image = np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    before = loaded(folder).process_images([image])
    assert before.shape == (1, 3, 56, 56)
    for content in ({"image_processor_type": "InternVisionPreprocessor"}, {"resize_size": 56}):
        (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(content))
        assert torch.equal(loaded(folder).process_images([image]), before)


@pytest.mark.parametrize("llm", ["llama", "mixtral", "gemma"])
@pytest.mark.parametrize("form", ["bfloat16", "bin", "bin shards"])
def test_weights_come_in_many_forms(llm: str, form: str, saved: Make, tmp_path: Path) -> None:
    folder = saved(llm)
    if form == "bfloat16":
        loaded(folder).to(torch.bfloat16).save_pretrained(folder)
        before = logits_of(folder)
        assert all(p.dtype == torch.float32 for p in loaded(folder).parameters())
        loaded(folder).save_pretrained(tmp_path / "wide")
        assert torch.equal(logits_of(tmp_path / "wide"), before)
        return
    before = logits_of(folder)
    for part in PARTS:
        file = folder / part / "model.safetensors"
        state = load_file(file)
        file.unlink()
        if form == "bin":
            torch.save(state, folder / part / "pytorch_model.bin")
            continue
        where = {name: f"pytorch_model-{1 + number % 3:05d}-of-00003.bin" for number, name in enumerate(state)}
        for shard in set(where.values()):
            torch.save({n: t for n, t in state.items() if where[n] == shard}, folder / part / shard)
        index = {"metadata": {}, "weight_map": where}
        (folder / part / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert torch.equal(logits_of(folder), before)


def test_the_experts_are_saved_under_their_released_names(saved: Make) -> None:
    names = load_file(saved("mixtral") / "llm" / "model.safetensors")
    assert "model.layers.0.block_sparse_moe.experts.3.w1.weight" in names
    assert "model.layers.0.block_sparse_moe.gate.weight" in names
