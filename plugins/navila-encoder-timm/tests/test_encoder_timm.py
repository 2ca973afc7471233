"""Encoders of timm keep the contract, give timm's own features, and are read from timm's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from navila.errors import CheckpointError, ConfigError
from navila.model.components import vision_encoder
from navila.model.load import model_type_of
from navila.testing import VisionEncoderContract
from navila_encoder_timm.encoder import TimmEncoder
from safetensors.torch import load_file, save_file
from torch import Tensor

SIZES = {"img_size": 56, "patch_size": 14, "embed_dim": 32, "depth": 3, "num_heads": 4}
#: Tokens before the patches (class, distillation, registers); the last three have rotary or relative positions.
ARCHITECTURES = {
    "vit_base_patch16_siglip_224": 0,
    "vit_base_patch16_clip_224": 1,
    "deit_tiny_distilled_patch16_224": 2,
    "vit_small_patch14_reg4_dinov2": 5,
    "vit_small_patch16_dinov3": 5,
    "eva02_tiny_patch14_224": 1,
    "beit_base_patch16_224": 1,
}


class TestTimm(VisionEncoderContract):
    name = "timm"


def config_of(architecture: str, **extra: Any) -> dict[str, Any]:
    return {"model_type": "timm", "architecture": architecture, "model_args": SIZES, **extra}


def pixels() -> Tensor:
    return torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("architecture", "before"), ARCHITECTURES.items())
def test_the_last_layer_is_what_timm_computes(architecture: str, before: int) -> None:
    torch.manual_seed(0)
    reference = timm.create_model(architecture, num_classes=0, **SIZES).eval()
    reference_tokens = [reference.cls_token] if reference.cls_token is not None else []
    for feature in ("patch", "cls_patch"):
        encoder = TimmEncoder(config_of(architecture), select_layer=-1, select_feature=feature).eval()
        encoder.vision_tower.load_state_dict(reference.state_dict())
        with torch.no_grad():
            tokens, got = reference.forward_features(pixels()), encoder.vision_tower.norm(encoder(pixels()))
        first = [tokens[:, :1]] if reference_tokens and feature == "cls_patch" else []
        assert tokens.shape[1] == 16 + before
        torch.testing.assert_close(got, torch.cat([*first, tokens[:, before:]], dim=1), atol=1e-5, rtol=0)
        assert got.shape[1] == encoder.num_tokens


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_never_runs_is_never_trained(architecture: str) -> None:
    encoder = TimmEncoder(config_of(architecture, num_classes=7))
    ran: list[int] = []
    for index, block in enumerate(encoder.vision_tower.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    encoder.set_trainable(True)
    encoder(pixels()).square().mean().backward()
    assert ran == [0, 1]
    assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


def test_stochastic_depth_of_model_args_is_for_training_only() -> None:
    config = config_of("vit_tiny_patch16_224")
    dropping = {**config, "model_args": {**SIZES, "drop_path_rate": 0.5}}
    plain, encoder = TimmEncoder(config, select_layer=-1).eval(), TimmEncoder(dropping, select_layer=-1)
    encoder.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    with torch.no_grad():
        expected, trained, evaluated = plain(pixels()), encoder.train()(pixels()), encoder.eval()(pixels())
    assert torch.equal(evaluated, expected)
    assert not torch.allclose(trained, expected)


def test_plain_and_fused_attention_agree() -> None:
    fused = TimmEncoder(config_of("vit_base_patch16_clip_224"), attn_implementation="sdpa").eval()
    plain = TimmEncoder(config_of("vit_base_patch16_clip_224"), attn_implementation="eager").eval()
    plain.load_state_dict(fused.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain(pixels()), fused(pixels()), atol=1e-5, rtol=0)


def test_timms_own_files_are_read_and_come_back(tmp_path: Path) -> None:
    reference = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=5, **SIZES).eval()
    published, saved = tmp_path / "published", tmp_path / "saved"
    published.mkdir()
    facts = {"input_size": [3, 56, 56], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    config = {
        "architecture": "vit_small_patch14_reg4_dinov2",
        "num_classes": 5,
        "model_args": SIZES,
        "pretrained_cfg": facts,
    }
    (published / "config.json").write_text(json.dumps(config))
    save_file(reference.state_dict(), published / "model.safetensors")

    encoder = vision_encoder(model_type_of(published, None)).from_pretrained(published, select_layer=-1).eval()
    with torch.no_grad():
        tokens = reference.forward_intermediates(pixels(), indices=1, output_fmt="NLC", intermediates_only=True)[0]
        torch.testing.assert_close(encoder(pixels()), tokens, atol=1e-5, rtol=0)
    processor = encoder.image_processor
    assert (processor.mean, processor.std, processor.resample) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 2)
    assert processor.target_size == (56, 56)

    encoder.save_pretrained(saved)
    before, after = load_file(published / "model.safetensors"), load_file(saved / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert json.loads((saved / "config.json").read_text()) == {**config, "model_type": "timm"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "architecture is None"),
        ({"architecture": "vit_tiny_patch16_225"}, "vit_tiny_patch16_224"),
        ({"architecture": "hf-hub:timm/vit_tiny_patch16_224"}, "architecture is 'hf-hub"),
        ({"architecture": "convnext_atto"}, "ConvNeXt"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": (32, 64)}}, "64x32"),
    ],
)
def test_what_timm_cannot_give_is_told(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TimmEncoder(config)


def test_embeddings_before_the_first_block_are_refused() -> None:
    with pytest.raises(ConfigError, match="use 1 to 3"):
        TimmEncoder(config_of("vit_tiny_patch16_224"), select_layer=0)


def test_weights_of_another_size_are_told(tmp_path: Path) -> None:
    TimmEncoder.tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["depth"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"blocks\.3"):
        TimmEncoder.from_pretrained(tmp_path)
