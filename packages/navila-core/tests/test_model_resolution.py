"""A trained vision encoder takes images of another size: its learned positions are resized as a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.errors import ConfigError
from navila.model import build
from navila.model.components import vision_encoder
from navila.model.multiscale import resize_positions
from safetensors.torch import load_file

MODEL_TYPES = {"siglip": "siglip_vision_model", "clip": "clip_vision_model", "internvit": "intern_vit_6b"}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LLM = {"model_type": "llama", **SIZES, "max_position_embeddings": 512}


def tower(goldens: Path, name: str, **options: Any) -> Any:
    encoder = vision_encoder(MODEL_TYPES[name.rstrip("0123456789")])
    return encoder.from_pretrained(goldens / "G_vision_towers" / name, **options)


def test_positions_are_those_of_internvits_own_resize(goldens: Path) -> None:
    want = load_file(goldens / "G_vision_towers" / "features.safetensors")["internvit56.pos_resized_56_to_84"]
    got = tower(goldens, "internvit56", image_size=84).vision_tower.embeddings.position_embedding
    torch.testing.assert_close(got.detach(), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["siglip56", "clip56", "internvit56"])
def test_an_encoder_takes_images_of_another_size(goldens: Path, tmp_path: Path, name: str) -> None:
    encoder = tower(goldens, name, image_size=84).eval()
    assert encoder.num_tokens == 36
    assert encoder.image_processor.target_size == (84, 84)
    pixels = torch.rand(1, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(pixels), encoder(pixels)), "a table that was resized once is read as it is"


@pytest.mark.parametrize("name", ["siglip56", "clip56", "internvit56"])
def test_its_own_size_changes_nothing(goldens: Path, name: str) -> None:
    before, after = tower(goldens, name).state_dict(), tower(goldens, name, image_size=56).state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_rows_and_columns_are_kept_apart_and_no_position_is_zero() -> None:
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    table = torch.stack([rows + 1, columns + 1], dim=-1).reshape(16, 2)
    resized = resize_positions(table, 64, prefix=0).reshape(8, 8, 2)
    assert torch.allclose(resized[..., 0], resized[:, :1, 0].expand(8, 8), atol=1e-5)
    assert torch.allclose(resized[..., 1], resized[:1, :, 1].expand(8, 8), atol=1e-5)
    assert (resized.abs() > 0.5).all()


def test_a_model_is_built_at_a_resolution_and_comes_back(goldens: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "llm": LLM,
        "vision_tower": goldens / "G_vision_towers" / "siglip56",
        "mm_projector": "mlp_downsample",
        "tokenizer": goldens / "tokenizers" / "llama3_like",
    }
    assert build(**parts, vision_resolution=-1).vision_tower.image_size == 56
    with pytest.raises(ConfigError, match="vision_resolution is 'large'"):
        build(**parts, vision_resolution="large")
    untrained = {"model_type": "siglip_vision_model", **SIZES, "image_size": 56, "patch_size": 14}
    with pytest.raises(ConfigError, match="only trained encoders"):
        build(**{**parts, "vision_tower": untrained}, vision_resolution=84)
    model = build(**parts, vision_resolution=84).eval()
    assert model.tokens_per_image == 9
    model.save_pretrained(tmp_path)
    pixels = torch.rand(1, 3, 84, 84)
    with torch.no_grad():
        again = navila.load(tmp_path, device="cpu", dtype="float32")
        assert torch.equal(again.encode_images(pixels), model.encode_images(pixels))


def test_an_encoder_without_such_a_table_says_so(tmp_path: Path) -> None:
    encoder = vision_encoder("timm")
    encoder.tiny().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no table of positions"):
        encoder.from_pretrained(tmp_path, image_size=64)
