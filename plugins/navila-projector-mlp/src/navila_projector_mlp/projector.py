"""The projectors of LLaVA and VILA: linear, identity, MLP, and the MLP that merges 2x2 patches."""

from __future__ import annotations

import math
import re
from typing import Any, Self

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


class DownsampleProjector(Projector):
    """`mlp_downsample` of VILA: every 2x2 patches become one token, then LayerNorm and a two-layer MLP.

    `downsample_order` in the config says how the tokens are ordered: `column` (down, then right), as in NaVILA and
    VILA 1.5, whose files do not say, or `row`, as in NVILA.
    """

    def build(self) -> nn.Module:
        order = self.config.setdefault("downsample_order", "column")
        if order not in ("column", "row"):
            raise ConfigError(f"downsample_order is {order!r} in the projector's config: use 'column' or 'row'.")
        merged, width = 4 * self.in_features, self.out_features
        return nn.Sequential(
            Merge2x2(order), nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width)
        )

    def num_tokens(self, num_patches: int) -> int:
        return math.ceil(math.isqrt(num_patches) / 2) ** 2

    @classmethod
    def tiny(cls) -> Self:
        return cls(_tiny("mlp_downsample"))


class Merge2x2(nn.Module):
    """(B, N, C) of a square grid to (B, ceil(sqrt(N) / 2)^2, 4C); an odd grid gets a zero row and column at its end."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order

    def forward(self, features: Tensor) -> Tensor:
        batch, count, width = features.shape
        side = math.isqrt(count)
        if side * side != count:
            raise DataError(
                f"{count} features per image are no square grid, which mlp_downsample merges 2x2: use an encoder "
                "without a class token, or select_feature 'patch'."
            )
        grid = features.reshape(batch, side, side, width)
        if side % 2:
            grid = nn.functional.pad(grid, (0, 0, 0, 1, 0, 1))
        half = grid.shape[1] // 2
        # (B, row pair, row, column pair, column, C); the four patches of a token are joined row by row.
        blocks = grid.reshape(batch, half, 2, half, 2, width)
        token_axes = (0, 3, 1, 2, 4, 5) if self.order == "column" else (0, 1, 3, 2, 4, 5)
        return torch.permute(blocks, token_axes).reshape(batch, half * half, 4 * width)


def _tiny(projector_type: str) -> dict[str, Any]:
    return {"mm_projector_type": projector_type, "mm_hidden_size": 32, "hidden_size": 48}
