"""Checkpoints of other layouts: LLaVA 1.5 and its conversion for transformers give transformers' own logits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.cli import main
from navila.errors import CheckpointError, NavilaError
from navila.model.location import read_root
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE, SIDE, PATCHES = 1000, 32, 16
TOKENIZER = "llama2_like_spm"


@pytest.fixture(scope="module")
def reference() -> Any:
    """LLaVA as transformers has it, tiny and random."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = LlamaConfig(**sizes, vocab_size=1808, num_hidden_layers=2, max_position_embeddings=512)
    vision = CLIPVisionConfig(**sizes, num_hidden_layers=3, image_size=SIDE, patch_size=8)
    return LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    ).eval()


@pytest.fixture(scope="module")
def tower(reference: Any, goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vision encoder in a folder of its own, as `openai/clip-vit-large-patch14-336` is."""
    folder = tmp_path_factory.mktemp("clip")
    reference.model.vision_tower.save_pretrained(folder)
    processor = {
        "crop_size": SIDE,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": SIDE,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def llava_state(reference: Any, *, tower: bool) -> dict[str, Tensor]:
    """The reference's weights under the names of the original LLaVA."""
    state = {}
    for name, tensor in reference.state_dict().items():
        name = name.replace("model.language_model.", "model.")
        name = name.replace("multi_modal_projector.linear_1.", "mm_projector.0.")
        name = name.replace("multi_modal_projector.linear_2.", "mm_projector.2.")
        name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        if tower or "vision_tower" not in name:
            state[name] = tensor.clone()
    return state


def write_llava(folder: Path, reference: Any, tower: Path, goldens: Path, **fields: Any) -> Path:
    """A folder as `liuhaotian/llava-v1.5-7b`, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (goldens / "tokenizers" / TOKENIZER).iterdir():
        shutil.copyfile(file, folder / file.name)
    text = reference.config.text_config
    config = {
        "_name_or_path": "llava-v1.5-7b",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "freeze_mm_vision_resampler": False,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_length": 4096,
        "max_position_embeddings": text.max_position_embeddings,
        "mm_hidden_size": reference.config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(tower),
        "model_type": "llava",
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "tune_mm_mlp_adapter": False,
        "tune_mm_vision_resampler": False,
        "unfreeze_mm_vision_tower": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": text.vocab_size,
    }
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


def write_shards(folder: Path, state: dict[str, Tensor], *, old: bool) -> None:
    """Two weight files and their index, as safetensors or in the old form."""
    names = sorted(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, 1):
        part = {name: state[name] for name in half}
        stem = "pytorch_model" if old else "model"
        file = f"{stem}-{number:05d}-of-00002.{'bin' if old else 'safetensors'}"
        torch.save(part, folder / file) if old else save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, file)
    index = "pytorch_model.bin.index.json" if old else "model.safetensors.index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def llava(reference: Any, tower: Path, goldens: Path, tmp_path: Path) -> Path:
    folder = write_llava(tmp_path / "llava", reference, tower, goldens)
    write_shards(folder, llava_state(reference, tower=False), old=True)
    return folder


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((60, 40), 80).convert("RGB")


def loaded(folder: Path, **options: Any) -> Any:
    return navila.load(folder, **{"device": "cpu", "dtype": "float32", **options})


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.tensor([[1, 5, -200, 6, 7, 8, 900]]), torch.randn(1, 3, SIDE, SIDE)


def logits_of(model: Any) -> Tensor:
    ids, pixels = inputs()
    with torch.no_grad():
        return model(ids, pixels).logits


def reference_logits(reference: Any) -> Tensor:
    """What transformers computes, whose prompts have the image's token once for each of its patches."""
    ids, pixels = inputs()
    token = reference.config.image_token_id
    spread = [[token] * PATCHES if i == -200 else [i] for i in ids[0].tolist()]
    with torch.no_grad():
        return reference(input_ids=torch.tensor([sum(spread, [])]), pixel_values=pixels).logits


@pytest.mark.parametrize("old", [True, False], ids=["bin", "safetensors"])
@pytest.mark.parametrize("model_type", ["llava", "llava_llama"])
def test_llava_1_5_has_the_logits_of_transformers(
    reference: Any, tower: Path, goldens: Path, tmp_path: Path, old: bool, model_type: str
) -> None:
    folder = write_llava(tmp_path / "it", reference, tower, goldens, model_type=model_type)
    write_shards(folder, llava_state(reference, tower=False), old=old)
    torch.testing.assert_close(logits_of(loaded(folder)), reference_logits(reference), atol=1e-4, rtol=0)


def test_the_conversion_for_transformers_has_its_logits(
    reference: Any, tower: Path, goldens: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "llava-1.5-7b-hf"
    reference.save_pretrained(folder)
    shutil.copyfile(tower / "preprocessor_config.json", folder / "preprocessor_config.json")
    for file in (goldens / "tokenizers" / TOKENIZER).iterdir():
        shutil.copyfile(file, folder / file.name)
    model = loaded(folder)
    torch.testing.assert_close(logits_of(model), reference_logits(reference), atol=1e-4, rtol=0)
    assert model.template.name == "vicuna_v1"
