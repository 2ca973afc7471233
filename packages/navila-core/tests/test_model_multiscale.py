"""S2: encoders that see an image at several scales give the original's features, train, and come back from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.errors import ConfigError, DataError
from navila.model import build
from navila.model.components import vision_encoder
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

MODEL_TYPES = {"siglip": "siglip_vision_model", "clip": "clip_vision_model", "internvit": "intern_vit_6b"}
CASES = (
    "s2|siglip56|56,112,168|56|cls_patch",
    "s2|siglip56|112,56|56|cls_patch",
    "s2|siglip70|70,140|70|cls_patch",
    "s2|clip56|56,112|56|patch",
    "s2|internvit56|56,112,168|56|patch",
)


def tower(goldens: Path, name: str, **options: Any) -> Any:
    encoder = vision_encoder(MODEL_TYPES[name.rstrip("0123456789")])
    return encoder.from_pretrained(goldens / "G_vision_towers" / name, **options)


@pytest.mark.parametrize("key", CASES)
def test_features_of_several_scales(goldens: Path, key: str) -> None:
    _, name, scales, split, feature = key.split("|")
    tensors: dict[str, Tensor] = load_file(goldens / "G_vision_towers" / "features.safetensors")
    encoder = tower(goldens, name, s2_scales=scales, s2_max_split_size=int(split), select_feature=feature).eval()
    pixels = tensors[key.removesuffix(feature) + "pixels"]
    with torch.no_grad():
        got = encoder(pixels)
    torch.testing.assert_close(got, tensors[key], atol=1e-5, rtol=0)
    assert got.shape[1:] == (encoder.num_tokens, encoder.out_features)
    largest = max(map(int, scales.split(",")))
    assert encoder.image_processor.target_size == (largest, largest)
    with pytest.raises(DataError, match=f"{largest}, {largest}"):
        encoder(pixels[:, :, 1:, 1:])


def test_features_are_trained_through_every_scale(goldens: Path) -> None:
    encoder = tower(goldens, "siglip56", s2_scales=(56, 112))
    encoder.set_trainable(True)
    encoder(torch.rand(1, 3, 112, 112)).square().mean().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"s2_scales": "56,100"}, "s2_scales has 100"),
        ({"s2_scales": "56,112", "s2_max_split_size": 112}, "s2_scales has 112"),
        ({"s2_scales": "small,large"}, "small,large"),
        ({"s2_scales": ""}, "s2_scales is ''"),
        ({"s2_scales": "56,112", "select_feature": "cls_patch"}, "no class token"),
    ],
)
def test_scales_that_do_not_fit_are_told(goldens: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tower(goldens, "clip56", **options)


def test_a_model_of_several_scales_comes_back(goldens: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = build(
        llm={"model_type": "llama", **sizes, "max_position_embeddings": 512},
        vision_tower=goldens / "G_vision_towers" / "clip56",
        mm_projector="mlp_downsample_3x3_s2",
        tokenizer=goldens / "tokenizers" / "llama3_like",
        s2=True,
        s2_scales="56,112,168",
        s2_max_split_size=56,
    ).eval()
    assert model.mm_projector.in_features == 96
    assert model.tokens_per_image == 4
    pixels = model.process_images([Image.new("RGB", (80, 60), (200, 30, 90))])
    assert pixels.shape == (1, 3, 168, 168)
    model.save_pretrained(tmp_path)
    again = navila.load(tmp_path, device="cpu", dtype="float32")
    with torch.no_grad():
        assert torch.equal(again.encode_images(pixels), model.encode_images(pixels))
