"""Projectors give the original's numbers and read its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.errors import ConfigError, DataError
from navila.model.components import projector
from navila_projector_mlp.projector import DownsampleProjector, Merge2x2
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
    tokens = Merge2x2("column")(grid(27))[0].int().tolist()
    assert len(tokens) == 196
    assert tokens[0] == [1, 2, 101, 102]
    assert tokens[1] == [201, 202, 301, 302]
    assert tokens[13] == [2601, 2602, 0, 0]
    assert tokens[14] == [3, 4, 103, 104]
    assert tokens[-1] == [2627, 0, 0, 0]
    rows = Merge2x2("row")(grid(27))[0].int().tolist()
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

    for name in ("mlp0x_gelu", "mlp2x_gelu_extra", "xmlp2x_gelu", "mlp_downsample_2x2_fix"):
        with pytest.raises(UnknownComponentError, match=name):
            projector(name)
