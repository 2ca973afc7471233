"""RADIO's blocks, positions and pixels are those of timm, transformers and plain sampling."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from navila_encoder_radio.config import Architecture, RadioVitConfig
from navila_encoder_radio.encoder import RadioEncoder
from navila_encoder_radio.network import Block, PatchGenerator
from torch import Tensor, nn

SMALL = Architecture(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, patch_size=8)
CONFIG = RadioVitConfig(
    architecture=SMALL,
    image_size=32,
    table_size=8,
    num_prefix_tokens=5,
    align_corners=True,
    drop_path_rates=(0.0,) * 3,
)


def randomised(module: nn.Module) -> None:
    """Give every parameter a value of its own, layer scales and norms too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "kind", [{}, {"mlp": "normed"}, {"layer_scale": True}, {"mlp": "swiglu", "layer_scale": True}], ids=str
)
def test_a_block_is_timms(kind: dict[str, Any], fused: bool) -> None:
    layers = pytest.importorskip("timm.layers")
    vit = pytest.importorskip("timm.models.vision_transformer")
    ours = Block(replace(CONFIG, architecture=replace(SMALL, **kind)), 0, fused).eval()
    randomised(ours)
    swiglu = kind.get("mlp") == "swiglu"
    theirs = vit.Block(
        32,
        4,
        # A gated MLP counts both halves of its first layer.
        mlp_ratio=8 if swiglu else 4,
        qkv_bias=True,
        init_values=1e-5 if kind.get("layer_scale") else None,
        act_layer=nn.SiLU if swiglu else nn.GELU,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        mlp_layer=layers.SwiGLUPacked if swiglu else vit.Mlp,
    ).eval()
    if kind.get("mlp") == "normed":
        theirs.mlp.norm = nn.LayerNorm(128)
    renamed = {"grandma": "gamma", "w12": "fc1", "w3": "fc2"}
    state = ours.state_dict()
    for old, new in renamed.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    theirs.load_state_dict(state)
    hidden = torch.randn(2, 9, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(hidden), theirs(hidden), atol=1e-5, rtol=0)


def test_scaled_norms_shrink_with_depth() -> None:
    scaled = Block(replace(CONFIG, scaled_norms=True), 2, fused=True).eval()
    same = Block(CONFIG, 2, fused=True).eval()
    randomised(scaled)
    same.load_state_dict(scaled.state_dict())
    hidden = torch.randn(2, 9, 32)
    with torch.no_grad():
        for norm in (same.norm1, same.norm2):
            norm.weight.mul_(3**-0.5)
            norm.bias.mul_(3**-0.5)
        torch.testing.assert_close(scaled(hidden), same(hidden), atol=1e-5, rtol=0)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("side", [1, 3, 4, 8, 13])
def test_positions_are_samples_of_the_whole_table(side: int, align_corners: bool) -> None:
    generator = PatchGenerator(replace(CONFIG, align_corners=align_corners))
    grid = generator.pos_embed.detach().reshape(8, 8, 32)
    # Rows of the table at which the patches lie: from its first to its last, or in the middle of equal shares.
    if align_corners:
        at = [row * 7 / (side - 1) if side > 1 else 0.0 for row in range(side)]
    else:
        at = [min(max((row + 0.5) * 8 / side - 0.5, 0), 7) for row in range(side)]
    expected = torch.stack([bilinear(grid, y, x) for y in at for x in at])[None]
    torch.testing.assert_close(generator.positions(side).detach(), expected, atol=1e-5, rtol=0)


def bilinear(grid: Tensor, y: float, x: float) -> Tensor:
    top, left = min(int(y), len(grid) - 2), min(int(x), len(grid) - 2)
    dy, dx = y - top, x - left
    above = (1 - dx) * grid[top, left] + dx * grid[top, left + 1]
    below = (1 - dx) * grid[top + 1, left] + dx * grid[top + 1, left + 1]
    return (1 - dy) * above + dy * below


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small RADIO of transformers, every tensor random, and the folder it was saved in."""
    transformers = pytest.importorskip("transformers", minversion="5.14")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8}
    tokens = {"num_cls_tokens": 2, "num_registers": 3, "max_img_size": 64, "image_size": 48}
    model = transformers.RadioModel(transformers.RadioConfig(**sizes, **tokens)).eval()
    randomised(model)
    folder = tmp_path_factory.mktemp("radio")
    model.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("side", [48, 64, 80])
@pytest.mark.parametrize("layer", [-1, -2, 0])
def test_features_are_those_of_transformers(theirs: tuple[Path, Any], side: int, layer: int) -> None:
    folder, model = theirs
    encoder = RadioEncoder.from_pretrained(folder, image_size=side, select_layer=layer).eval()
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got, out = encoder(pixels), model(pixels, output_hidden_states=True)
        embedded = model.embeddings(model.input_conditioner(pixels))
    expected = {-1: out.features, -2: out.hidden_states[-2][:, 5:], 0: embedded[:, 5:]}[layer]
    assert got.shape == (2, (side // 8) ** 2, 32)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)


def test_what_is_saved_is_read_by_transformers(theirs: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = theirs
    RadioEncoder.from_pretrained(folder).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    pixels = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels).features, model(pixels).features, atol=1e-4, rtol=1e-5)
