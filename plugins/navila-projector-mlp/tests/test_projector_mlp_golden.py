"""Projectors give the original's numbers and read its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.errors import ConfigError, DataError
from navila.model.components import projector
from navila_projector_mlp.projector import Downsample2x2FixProjector, DownsampleProjector, MergePatches
from safetensors.torch import load_file
from torch import Tensor

TYPES = ("identity", "linear", "mlp1x_gelu", "mlp2x_gelu", "mlp3x_gelu", "mlp_downsample")
SIZES = {"mm_hidden_size": 32, "hidden_size": 48}


@pytest.fixture(scope="module")
def folder(goldens: Path) -> Path:
    return goldens / "F_projectors"


@pytest.mark.parametrize("name", TYPES)
def test_numbers_of_every_type(folder: Path, name: str) -> None:
    tensors = load_file(folder / f"{name}.safetensors")
    sizes = SIZES if name != "identity" else {**SIZES, "hidden_size": 32}
    module = projector(name)({"mm_projector_type": name, **sizes}).eval()
    module.load_state_dict({k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")})
    cases = [key.removeprefix("in.") for key in tensors if key.startswith("in.")]
    assert len(cases) >= 5
    for case in cases:
        features = tensors[f"in.{case}"]
        if f"out.{case}" not in tensors:
            with pytest.raises(DataError, match="no square grid"):
                module(features)
            continue
        with torch.no_grad():
            got = module(features)
        torch.testing.assert_close(got, tensors[f"out.{case}"], atol=1e-5, rtol=0)
        assert got.shape[1] == module.num_tokens(features.shape[1])


@pytest.mark.parametrize("name", TYPES[1:])
def test_the_originals_files_are_read_and_written(folder: Path, tmp_path: Path, name: str) -> None:
    source = folder / f"hf_{name}"
    module = projector(name).from_pretrained(source, SIZES)
    module.save_pretrained(tmp_path)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.items() >= {**json.loads((source / "config.json").read_text()), **SIZES}.items()
    assert config.get("downsample_order") == ("column" if name == "mlp_downsample" else None)


def grid(side: int) -> Tensor:
    """(1, side * side, 1): value 100 row + column + 1."""
    places = torch.arange(side)
    return (100.0 * places[:, None] + places + 1).reshape(1, side * side, 1)


def test_tokens_go_down_the_columns_unless_told_otherwise() -> None:
    """The index grid of the released 27x27 patches."""
    tokens = MergePatches(2, "column")(grid(27))[0].int().tolist()
    assert len(tokens) == 196
    assert tokens[0] == [1, 2, 101, 102]
    assert tokens[1] == [201, 202, 301, 302]
    assert tokens[13] == [2601, 2602, 0, 0]
    assert tokens[14] == [3, 4, 103, 104]
    assert tokens[-1] == [2627, 0, 0, 0]
    rows = MergePatches(2, "row")(grid(27))[0].int().tolist()
    assert rows[1] == [3, 4, 103, 104]
    assert [rows[14 * i + j] for j in range(14) for i in range(14)] == tokens


def test_both_orders_hold_the_same_tokens() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 36, 32)
    column = DownsampleProjector.tiny()
    row = DownsampleProjector({**column.config, "downsample_order": "row"})
    row.load_state_dict(column.state_dict())
    with torch.no_grad():
        assert torch.equal(column(features).reshape(2, 3, 3, 48).transpose(1, 2), row(features).reshape(2, 3, 3, 48))


def test_three_by_three_patches_are_merged_row_by_row() -> None:
    """27x27 patches fill the blocks; of 32x32 the last row and column of blocks lacks one row and one column."""
    tokens = MergePatches(3, "row")(grid(27))[0].int().tolist()
    assert len(tokens) == 81
    assert tokens[0] == [1, 2, 3, 101, 102, 103, 201, 202, 203]
    assert tokens[1] == [4, 5, 6, 104, 105, 106, 204, 205, 206]
    assert tokens[9] == [301, 302, 303, 401, 402, 403, 501, 502, 503]
    tokens = MergePatches(3, "row")(grid(32))[0].int().tolist()
    assert len(tokens) == 121
    assert tokens[10] == [31, 32, 0, 131, 132, 0, 231, 232, 0]
    assert tokens[-1] == [3031, 3032, 0, 3131, 3132, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("mlp_downsample_2x2_fix", {2: (120, 48), 4: (48, 48)}),
        ("mlp_downsample_3x3_fix", {2: (270, 90), 5: (90, 48), 7: (48, 48)}),
        ("mlp_downsample_3x3_s2", {2: (270, 90), 5: (90, 30), 8: (30, 10), 11: (10, 48), 13: (48, 48)}),
        (
            "mlp_downsample_3x3_s2_new",
            {2: (270, 120), 5: (120, 60), 8: (60, 30), 11: (30, 10), 14: (10, 48), 16: (48, 48)},
        ),
    ],
)
def test_tensors_of_nvila_have_their_names_and_shapes(name: str, linear: dict[int, tuple[int, int]]) -> None:
    config = {"mm_projector_type": name, "mm_hidden_size": 30, "hidden_size": 48}
    state = {key: tuple(tensor.shape) for key, tensor in projector(name)(config).state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {}
    for index, (width, following) in linear.items():
        expected |= {f"layers.{index}.weight": (following, width), f"layers.{index}.bias": (following,)}
        if index != max(linear):
            expected |= {f"layers.{index - 1}.weight": (width,), f"layers.{index - 1}.bias": (width,)}
    assert state == expected


def test_the_fixed_type_is_mlp_downsample_in_rows() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 25, 32)
    fixed = Downsample2x2FixProjector.tiny()
    row = DownsampleProjector({**DownsampleProjector.tiny().config, "downsample_order": "row"})
    row.load_state_dict(fixed.state_dict())
    with torch.no_grad():
        assert torch.equal(fixed(features), row(features))


def test_features_need_not_be_contiguous() -> None:
    """On the CPU the original failed on even grids of a SigLIP tower."""
    features = torch.randn(2, 32, 16, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    module = DownsampleProjector.tiny()
    with torch.no_grad():
        assert torch.equal(module(features), module(features.contiguous()))


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"mm_projector_type": "mlp_downsample", **SIZES, "downsample_order": "rows"}, "rows"),
        ({"mm_projector_type": "mlp_downsample", "hidden_size": 4}, "mm_hidden_size"),
        ({"mm_projector_type": "identity", **SIZES}, "32"),
    ],
)
def test_a_wrong_config_is_told(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        projector(config["mm_projector_type"])(config)


def test_the_type_is_matched_whole(folder: Path) -> None:
    from navila.errors import UnknownComponentError

    for name in ("mlp0x_gelu", "mlp2x_gelu_extra", "xmlp2x_gelu", "mlp_downsample_2x2"):
        with pytest.raises(UnknownComponentError, match=name):
            projector(name)
