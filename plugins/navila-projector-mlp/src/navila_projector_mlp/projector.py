"""The projectors of LLaVA, VILA and NVILA: linear, identity, MLP, and MLPs that merge 2x2 or 3x3 patches."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any, ClassVar, Self

import torch
from navila.errors import ConfigError, DataError
from navila.model.projector import Projector
from torch import Tensor, nn


class LinearProjector(Projector):
    """One linear layer."""

    def build(self) -> nn.Module:
        return nn.Linear(self.in_features, self.out_features)

    @classmethod
    def tiny(cls) -> Self:
        return cls(_tiny("linear"))


class IdentityProjector(Projector):
    """The features as they are; both sides must have the same width."""

    def build(self) -> nn.Module:
        if self.in_features != self.out_features:
            raise ConfigError(
                f"An identity projector cannot turn {self.in_features} channels into {self.out_features}: use "
                "'linear', or an encoder and a language model of one width."
            )
        return nn.Identity()

    @classmethod
    def tiny(cls) -> Self:
        return cls({**_tiny("identity"), "hidden_size": 32})


class MLPProjector(Projector):
    """`mlpNx_gelu`: N linear layers with GELU between them; `mlp` alone means two."""

    def build(self) -> nn.Module:
        match = re.fullmatch(r"mlp([1-9]\d*)x_gelu", self.config["mm_projector_type"])
        layers: list[nn.Module] = [nn.Linear(self.in_features, self.out_features)]
        for _ in range(1, int(match[1]) if match else 2):
            layers += [nn.GELU(), nn.Linear(self.out_features, self.out_features)]
        return nn.Sequential(*layers)

    @classmethod
    def tiny(cls) -> Self:
        return cls(_tiny("mlp2x_gelu"))


class MergingProjector(Projector):
    """Every `side` x `side` patches become one token, which an MLP turns into an embedding.

    The layers are numbered as in VILA: the merger, then for each width LayerNorm, Linear and GELU, then a last Linear.
    """

    side: ClassVar[int]
    projector_type: ClassVar[str]

    def widths(self) -> list[int]:
        """Channels from the merged token on, the embeddings' left out."""
        return [self.side**2 * self.in_features]

    def order(self) -> str:
        """Of the tokens: `column` (down, then right) or `row` (right, then down)."""
        return "row"

    def build(self) -> nn.Module:
        layers: list[nn.Module] = [MergePatches(self.side, self.order())]
        for width, following in itertools.pairwise([*self.widths(), self.out_features]):
            layers += [nn.LayerNorm(width), nn.Linear(width, following), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(self.out_features, self.out_features))

    def num_tokens(self, num_patches: int) -> int:
        return math.ceil(math.isqrt(num_patches) / self.side) ** 2

    @classmethod
    def tiny(cls) -> Self:
        return cls(_tiny(cls.projector_type))


class DownsampleProjector(MergingProjector):
    """`mlp_downsample` of VILA: every 2x2 patches become one token, then LayerNorm and a two-layer MLP.

    `downsample_order` in the config says how the tokens are ordered: `column` (down, then right), as in NaVILA and
    VILA 1.5, whose files do not say, or `row`, as in NVILA.
    """

    side = 2
    projector_type = "mlp_downsample"

    def order(self) -> str:
        order = self.config.setdefault("downsample_order", "column")
        if order not in ("column", "row"):
            raise ConfigError(f"downsample_order is {order!r} in the projector's config: use 'column' or 'row'.")
        return order


class Downsample2x2FixProjector(MergingProjector):
    """`mlp_downsample_2x2_fix` of NVILA: the layers of `mlp_downsample`, tokens row by row."""

    side = 2
    projector_type = "mlp_downsample_2x2_fix"


class Downsample3x3FixProjector(MergingProjector):
    """`mlp_downsample_3x3_fix` of NVILA: every 3x3 patches become one token."""

    side = 3
    projector_type = "mlp_downsample_3x3_fix"

    def widths(self) -> list[int]:
        return [9 * self.in_features, 3 * self.in_features]


class Downsample3x3S2Projector(MergingProjector):
    """`mlp_downsample_3x3_s2` of NVILA, for the channels of three scales: C = 3 times the encoder's width."""

    side = 3
    projector_type = "mlp_downsample_3x3_s2"

    def widths(self) -> list[int]:
        return [9 * self.in_features, 3 * self.in_features, self.in_features, self.in_features // 3]


class Downsample3x3S2NewProjector(MergingProjector):
    """`mlp_downsample_3x3_s2_new` of NVILA: as `mlp_downsample_3x3_s2`, narrowing more slowly."""

    side = 3
    projector_type = "mlp_downsample_3x3_s2_new"

    def widths(self) -> list[int]:
        return [factor * self.in_features for factor in (9, 4, 2, 1)] + [self.in_features // 3]


class MergePatches(nn.Module):
    """(B, N, C) of a square grid to (B, ceil(sqrt(N) / side)^2, side^2 C).

    The grid gets zero rows and columns at its end, up to a multiple of `side`; the patches of a token are joined row by
    row.
    """

    def __init__(self, side: int, order: str) -> None:
        super().__init__()
        self.side, self.order = side, order

    def forward(self, features: Tensor) -> Tensor:
        batch, count, width = features.shape
        length, side = math.isqrt(count), self.side
        if length * length != count:
            raise DataError(
                f"{count} features per image are no square grid, which mlp_downsample merges {side}x{side}: use an "
                "encoder without a class token, or select_feature 'patch'."
            )
        grid = features.reshape(batch, length, length, width)
        if missing := -length % side:
            grid = nn.functional.pad(grid, (0, 0, 0, missing, 0, missing))
        blocks = grid.shape[1] // side
        # (B, block row, row, block column, column, C)
        grid = grid.reshape(batch, blocks, side, blocks, side, width)
        token_axes = (0, 3, 1, 2, 4, 5) if self.order == "column" else (0, 1, 3, 2, 4, 5)
        return torch.permute(grid, token_axes).reshape(batch, blocks * blocks, side * side * width)


def _tiny(projector_type: str) -> dict[str, Any]:
    return {"mm_projector_type": projector_type, "mm_hidden_size": 32, "hidden_size": 48}
