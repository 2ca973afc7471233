"""The Perceiver resampler of Flamingo (arXiv 2204.14198, section 3.1.1), without its time embeddings."""

from __future__ import annotations

from typing import Any, Self

import torch
from navila.errors import ConfigError
from navila.model.projector import Projector
from torch import Tensor, nn


class ResamplerProjector(Projector):
    """`num_queries` learned queries read an image in `depth` layers of cross-attention; then one linear layer.

    The config may say `num_queries` (64), `depth` (2) and `num_heads` (one for each 64 channels).
    """

    def build(self) -> nn.Module:
        self.num_queries = self._whole("num_queries", 64)
        depth, heads = self._whole("depth", 2), self._whole("num_heads", max(1, self.in_features // 64))
        if self.in_features % heads:
            raise ConfigError(
                f"num_heads is {heads} in the projector's config, which does not divide its {self.in_features} "
                "channels: use a divisor."
            )
        return PerceiverResampler(self.in_features, self.out_features, self.num_queries, depth, heads)

    def _whole(self, key: str, default: int) -> int:
        """A positive whole number of the config; what is not said is written into it."""
        value = self.config.setdefault(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{key} is {value!r} in the projector's config: use a whole number of at least 1.")
        return value

    def num_tokens(self, num_patches: int) -> int:
        return self.num_queries

    @classmethod
    def tiny(cls) -> Self:
        config: dict[str, Any] = {"mm_projector_type": "resampler", "mm_hidden_size": 32, "hidden_size": 48}
        return cls({**config, "num_queries": 5, "depth": 2, "num_heads": 4})


class PerceiverResampler(nn.Module):
    """(B, N, C) features of any number of patches to (B, Q, D)."""

    def __init__(self, width: int, out_width: int, num_queries: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, width) * width**-0.5)
        self.blocks = nn.ModuleList(ResamplerBlock(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        queries = self.queries.expand(features.shape[0], -1, -1)
        for block in self.blocks:
            queries = block(queries, features)
        return self.project(self.norm(queries))


class ResamplerBlock(nn.Module):
    """Queries (B, Q, C) attend to features (B, N, C) and themselves; then a feed-forward network. Both are residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm_queries, self.norm_features = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        asked = self.norm_queries(queries)
        read = torch.cat([self.norm_features(features), asked], dim=1)
        queries = queries + self.attention(asked, read, read, need_weights=False)[0]
        return queries + self.feed_forward(queries)
