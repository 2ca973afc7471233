"""InternViT (arXiv 2312.14238): a vision transformer with layer scale and, in the 6B, normalised queries and keys.

Attributes are named as the tensors of `OpenGVLab/InternViT-*`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from navila.errors import ConfigError
from navila.model.stochastic_depth import drop_path, drop_rates
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

NORMS = {"rms_norm": nn.RMSNorm, "layer_norm": nn.LayerNorm}


@dataclass(frozen=True, kw_only=True)
class InternVitConfig:
    """The fields of `config.json` that shape the network; the defaults are those of the 6B."""

    hidden_size: int = 3200
    intermediate_size: int = 12800
    num_hidden_layers: int = 48
    num_attention_heads: int = 25
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    hidden_act: str = "gelu"
    norm_type: str = "rms_norm"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_normalization: bool = True
    initializer_factor: float = 0.1
    """Layer scale of a new network."""
    initializer_range: float = 0.02
    drop_path_rate: float = 0.0
    """Share of samples that the last layer's branches leave out in training, rising from 0 at the first layer."""

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        """The fields known here.

        Raises:
            ConfigError: a value that no InternViT has.
        """
        known = {field.name for field in fields(cls)}
        config = cls(**{key: value for key, value in raw.items() if key in known})
        for key, value, choices in (("norm_type", config.norm_type, NORMS), ("hidden_act", config.hidden_act, ACT2FN)):
            if value not in choices:
                raise ConfigError(f"{key} is {value!r} in the vision tower's config: use one of {', '.join(choices)}.")
        if not 0 <= config.drop_path_rate < 1:
            raise ConfigError(
                f"drop_path_rate is {config.drop_path_rate} in the vision tower's config: use 0 to below 1."
            )
        if config.hidden_size % config.num_attention_heads:
            raise ConfigError(
                f"num_attention_heads is {config.num_attention_heads} in the vision tower's config, which does not "
                f"divide its hidden_size {config.hidden_size}: correct one of the two."
            )
        return config

    def norm(self) -> nn.Module:
        """A normalisation over the full width."""
        return NORMS[self.norm_type](self.hidden_size, eps=self.layer_norm_eps)

    @property
    def num_patches(self) -> int:
        """Of an image."""
        return (self.image_size // self.patch_size) ** 2


class InternVit(nn.Module):
    """(N, 3, H, W) pixels to hidden states (N, 1 + P, C): a class token, then the patches row by row; no final norm."""

    def __init__(self, config: InternVitConfig, fused: bool) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.Module()
        rates = drop_rates(config.drop_path_rate, config.num_hidden_layers)
        self.encoder.layers = nn.ModuleList(Layer(config, rate, fused) for rate in rates)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers."""
        layers = self.encoder.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def forward(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        hidden = self.embeddings(pixel_values)
        for layer in self.layers[:num_layers]:
            hidden = layer(hidden)
        return hidden


class Embeddings(nn.Module):
    """(N, 3, H, W) to (N, 1 + P, C): patches, a class token before them, and learned positions."""

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        width, patch, spread = config.hidden_size, config.patch_size, config.initializer_range
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width) * spread)
        self.patch_embedding = nn.Conv2d(config.num_channels, width, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.randn(1, 1 + config.num_patches, width) * spread)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), -1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding


class Layer(GradientCheckpointingLayer):
    """Attention and MLP, each normalised before and scaled channel by channel after; both residual."""

    def __init__(self, config: InternVitConfig, drop_path_rate: float, fused: bool) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm1, self.norm2 = config.norm(), config.norm()
        self.attn = Attention(config, fused)
        self.mlp = Mlp(config)
        self.ls1 = nn.Parameter(config.initializer_factor * torch.ones(config.hidden_size))
        self.ls2 = nn.Parameter(config.initializer_factor * torch.ones(config.hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        attended = self.ls1 * self.attn(self.norm1(hidden))
        hidden = hidden + drop_path(attended, self.drop_path_rate, self.training)
        mixed = self.ls2 * self.mlp(self.norm2(hidden))
        return hidden + drop_path(mixed, self.drop_path_rate, self.training)


class Attention(nn.Module):
    """Self-attention; queries and keys are normalised over all heads together where the config says so."""

    def __init__(self, config: InternVitConfig, fused: bool) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.fused, self.normalised = config.num_attention_heads, fused, config.qk_normalization
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        if self.normalised:
            self.q_norm = nn.RMSNorm(width, eps=config.layer_norm_eps)
            self.k_norm = nn.RMSNorm(width, eps=config.layer_norm_eps)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.qkv(hidden).chunk(3, dim=-1)
        if self.normalised:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            mixed = scores.softmax(-1) @ value
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.act = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(hidden)))
