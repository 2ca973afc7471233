"""The two kinds of vision tower that open_clip builds, seen alike: its own transformer, and one of timm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from navila.errors import ConfigError
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

#: What follows the blocks in a vision transformer of timm.
AFTER_BLOCKS = ("norm", "attn_pool", "fc_norm", "head_drop", "head")


@dataclass(frozen=True, kw_only=True)
class Trunk(ABC):
    """What an encoder asks of its tower."""

    image_size: tuple[int, int]
    """Pixels of an image, (height, width)."""
    grid_size: tuple[int, int]
    """Patches of an image, (down, across)."""
    hidden_size: int
    num_layers: int
    first_layer: int
    """The lowest that can be selected, 0 being the embeddings before the first block."""
    has_cls_token: bool
    position_table: str
    """Name of the learned positions in the tower; empty when there are none."""

    @abstractmethod
    def hidden_states(self, pixels: Tensor, num_layers: int) -> Tensor:
        """(N, 3, H, W) to (N, T, C), a class token first where there is one."""

    @abstractmethod
    def after(self, num_layers: int) -> Sequence[nn.Module | nn.Parameter]:
        """What the hidden states of that layer do not need."""


def trunk_of(tower: nn.Module) -> Trunk:
    """The trunk of a tower.

    Raises:
        ConfigError: it has no patch tokens.
    """
    if isinstance(tower, VisionTransformer):
        return OwnTrunk(
            tower=tower,
            image_size=cast(tuple[int, int], tower.image_size),
            grid_size=tower.grid_size,
            hidden_size=tower.conv1.out_channels,
            num_layers=len(tower.transformer.resblocks),
            first_layer=0,
            has_cls_token=True,
            position_table="positional_embedding",
        )
    network = tower.trunk if isinstance(tower, TimmModel) else tower
    if not isinstance(network, TimmVisionTransformer | Eva | Beit | VisionTransformerRelPos):
        raise ConfigError(
            f"The vision tower is a {type(network).__name__}, which has no patch tokens: use a model of open_clip "
            "with a vision transformer, such as ViT-L-14 or ViT-B-16-SigLIP."
        )
    # The four classes have what is used here in common.
    vit = cast(TimmVisionTransformer, network)
    return TimmTrunk(
        tower=cast(TimmModel, tower),
        network=vit,
        image_size=cast(tuple[int, int], vit.patch_embed.img_size),
        grid_size=cast(tuple[int, int], vit.patch_embed.grid_size),
        hidden_size=vit.embed_dim,
        num_layers=len(vit.blocks),
        first_layer=1,
        has_cls_token=vit.cls_token is not None,
        position_table="" if getattr(vit, "pos_embed", None) is None else "trunk.pos_embed",
    )


@dataclass(frozen=True, kw_only=True)
class OwnTrunk(Trunk):
    """open_clip's own vision transformer, of CLIP's form: a class token, then the patches."""

    tower: VisionTransformer

    def hidden_states(self, pixels: Tensor, num_layers: int) -> Tensor:
        hidden = self.tower._embeds(pixels)
        for block in self.tower.transformer.resblocks[:num_layers]:
            hidden = block(hidden)
        return hidden

    def after(self, num_layers: int) -> Sequence[nn.Module | nn.Parameter]:
        tower = self.tower
        last = [part for part in (tower.attn_pool, tower.ln_post, tower.proj) if part is not None]
        return [*tower.transformer.resblocks[num_layers:], *last]


@dataclass(frozen=True, kw_only=True)
class TimmTrunk(Trunk):
    """A vision transformer of timm; registers take part in attention and are no features."""

    tower: TimmModel
    network: TimmVisionTransformer

    def hidden_states(self, pixels: Tensor, num_layers: int) -> Tensor:
        with_prefix = self.network.num_prefix_tokens > 0
        (features,) = cast(
            list[Any],
            self.network.forward_intermediates(
                pixels,
                indices=[num_layers - 1],
                return_prefix_tokens=with_prefix,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            ),
        )
        patches, prefix = features if with_prefix else (features, features[:, :0])
        return torch.cat([prefix[:, :1], patches], dim=1) if self.has_cls_token else patches

    def after(self, num_layers: int) -> Sequence[nn.Module | nn.Parameter]:
        last = [child for name, child in self.network.named_children() if name in AFTER_BLOCKS]
        return [*self.network.blocks[num_layers:], *last, self.tower.head]
