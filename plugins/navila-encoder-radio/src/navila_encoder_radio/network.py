"""RADIO (arXiv 2312.06709, 2412.07679): a vision transformer for images of any size in [0, 1].

Attributes are named as the tensors of `nvidia/RADIO*` and `nvidia/C-RADIO*`.
"""

from __future__ import annotations

import torch
from navila.model.stochastic_depth import drop_path
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu
from transformers.modeling_layers import GradientCheckpointingLayer

from navila_encoder_radio.config import Architecture, RadioVitConfig


class RadioVit(nn.Module):
    """(N, 3, H, W) pixels in [0, 1] to hidden states (N, prefix + P, C); no final norm."""

    def __init__(self, config: RadioVitConfig, fused: bool) -> None:
        super().__init__()
        self.input_conditioner = InputConditioner(config)
        trunk = Trunk(config, fused)
        self.model: nn.Module = trunk
        if config.architecture.dinov2:
            self.model = nn.Module()
            self.model.inner = trunk

    @property
    def trunk(self) -> Trunk:
        """Patches, positions and transformer."""
        trunk = getattr(self.model, "inner", self.model)
        assert isinstance(trunk, Trunk)
        return trunk

    def forward(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        hidden = self.trunk.patch_generator(self.input_conditioner(pixel_values))
        for block in self.trunk.blocks[:num_layers]:
            hidden = block(hidden)
        return hidden


class InputConditioner(nn.Module):
    """Normalises pixels, in float32 as its buffers are."""

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, config: RadioVitConfig) -> None:
        super().__init__()
        self.register_buffer("norm_mean", torch.tensor(config.mean).view(-1, 1, 1))
        self.register_buffer("norm_std", torch.tensor(config.std).view(-1, 1, 1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return ((pixel_values.float() - self.norm_mean) / self.norm_std).to(pixel_values.dtype)


class Trunk(nn.Module):
    """The transformer with what comes before it; its norm is kept for saving."""

    def __init__(self, config: RadioVitConfig, fused: bool) -> None:
        super().__init__()
        width, layers = config.architecture.hidden_size, config.architecture.num_hidden_layers
        self.patch_generator = PatchGenerator(config)
        self.blocks = nn.ModuleList(Block(config, index, fused) for index in range(layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.final_norm else nn.Identity()


class PatchGenerator(nn.Module):
    """(N, 3, H, W) to (N, prefix + P, C): patches row by row with positions, after class tokens and registers."""

    def __init__(self, config: RadioVitConfig) -> None:
        super().__init__()
        parts = config.architecture
        width, spread = parts.hidden_size, parts.hidden_size**-0.5
        self.patch_size, self.table_size, self.align_corners = parts.patch_size, config.table_size, config.align_corners
        self.embedder = nn.Linear(3 * parts.patch_size**2, width, bias=parts.dinov2)
        self.pos_embed = nn.Parameter(torch.randn(1, config.table_size**2, width) * spread)
        self.cls_token = nn.Module()
        self.cls_token.token = nn.Parameter(torch.randn(config.num_prefix_tokens, width) * spread)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patch, side = self.patch_size, pixel_values.shape[-1] // self.patch_size
        cut = pixel_values.unflatten(3, (side, patch)).unflatten(2, (side, patch))
        patches = self.embedder(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        patches = patches + self.positions(side).to(patches.dtype)
        token = self.cls_token.token
        assert isinstance(token, Tensor)
        return torch.cat([token.expand(len(patches), -1, -1), patches], dim=1)

    def positions(self, side: int) -> Tensor:
        """(1, side^2, C) float32 positions of a square of patches: the whole table, interpolated.

        RADIO is trained with random windows of the table and run with all of it, which is what it does in training
        here too.
        """
        table = self.pos_embed.float()
        if side == self.table_size:
            return table
        grid = table.unflatten(1, (self.table_size, self.table_size)).permute(0, 3, 1, 2)
        resized = interpolate(grid, size=(side, side), mode="bilinear", align_corners=self.align_corners)
        return resized.flatten(2).transpose(1, 2)


class Block(GradientCheckpointingLayer):
    """Attention and MLP, each normalised before; both residual."""

    def __init__(self, config: RadioVitConfig, index: int, fused: bool) -> None:
        super().__init__()
        parts = config.architecture
        self.drop_path_rate = config.drop_path_rates[index]
        self.norm_scale = (index + 1) ** -0.5 if config.scaled_norms else 1.0
        self.norm1 = nn.LayerNorm(parts.hidden_size, eps=config.layer_norm_eps)
        self.attn = Attention(parts, fused)
        self.ls1 = LayerScale(parts.hidden_size) if parts.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(parts.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SwiGlu(parts) if parts.mlp == "swiglu" else Mlp(parts)
        self.ls2 = LayerScale(parts.hidden_size) if parts.layer_scale else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        attended = self.ls1(self.attn(self.norm1(hidden) * self.norm_scale))
        hidden = hidden + drop_path(attended, self.drop_path_rate, self.training)
        mixed = self.ls2(self.mlp(self.norm2(hidden) * self.norm_scale))
        return hidden + drop_path(mixed, self.drop_path_rate, self.training)


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self, parts: Architecture, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.fused = parts.num_attention_heads, fused
        self.qkv = nn.Linear(parts.hidden_size, 3 * parts.hidden_size)
        self.proj = nn.Linear(parts.hidden_size, parts.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        parts = self.qkv(hidden).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        if self.fused:
            mixed = scaled_dot_product_attention(query, key, value)
        else:
            mixed = ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).softmax(-1) @ value
        return self.proj(mixed.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """Scales each channel. The parameter's name is RADIO's: files with the usual one are renamed by transformers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.grandma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.grandma


class Mlp(nn.Module):
    """Two linear layers with GELU between, and after it a norm in some."""

    def __init__(self, parts: Architecture) -> None:
        super().__init__()
        self.fc1 = nn.Linear(parts.hidden_size, parts.intermediate_size)
        self.norm = nn.LayerNorm(parts.intermediate_size) if parts.mlp == "normed" else nn.Identity()
        self.fc2 = nn.Linear(parts.intermediate_size, parts.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.norm(nn.functional.gelu(self.fc1(hidden))))


class SwiGlu(nn.Module):
    """DINOv2's gated MLP."""

    def __init__(self, parts: Architecture) -> None:
        super().__init__()
        self.w12 = nn.Linear(parts.hidden_size, 2 * parts.intermediate_size)
        self.w3 = nn.Linear(parts.intermediate_size, parts.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, value = self.w12(hidden).chunk(2, dim=-1)
        return self.w3(silu(gate) * value)
