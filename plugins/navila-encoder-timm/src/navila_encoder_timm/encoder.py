"""Vision transformers of timm as vision encoders of navila."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Self, cast

import timm
import torch
from navila.errors import ConfigError
from navila.images import ImageProcessor
from navila.model.vision import VisionEncoder
from PIL import Image
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

#: What follows the blocks in the classes above.
AFTER_BLOCKS = ("norm", "attn_pool", "fc_norm", "head_drop", "head", "head_dist")


class TimmEncoder(VisionEncoder):
    """`architecture` of the config names a model of timm; `model_args`, `num_classes` and `global_pool` are its own.

    Tokens between class token and patches (registers, distillation) take part in attention and are no features.
    """

    needs_processor_file = False
    vision_tower: VisionTransformer

    def __init__(self, config: Mapping[str, Any], **options: Any) -> None:
        super().__init__(config, **options)
        if self.used_layers == 0:
            raise ConfigError(
                f"mm_vision_select_layer is {self.select_layer}, the embeddings before the first block, which timm's "
                f"models do not give: use 1 to {self.num_layers}."
            )

    def build(self, attn_implementation: str | None) -> nn.Module:
        name = self.config.get("architecture")
        if not isinstance(name, str) or not timm.is_model(name):
            close = difflib.get_close_matches(str(name), timm.list_models(), n=3)
            hint = f" such as {', '.join(close)}" if close else ", e.g. vit_small_patch16_224"
            raise ConfigError(f"architecture is {name!r} in the vision tower's config: give a model of timm{hint}.")
        options = {key: self.config[key] for key in ("global_pool",) if key in self.config}
        options |= {"num_classes": self.config.get("num_classes", 0), **self.config.get("model_args", {})}
        tower = timm.create_model(name, pretrained=False, **options)
        if not isinstance(tower, VisionTransformer | Eva | Beit):
            raise ConfigError(
                f"{name} of timm is a {type(tower).__name__}, not a plain vision transformer with patch tokens: use "
                "one of the classes VisionTransformer, Eva or Beit."
            )
        for module in tower.modules():
            # timm's attention chooses between torch's fused kernels and plain operations by this flag.
            if hasattr(module, "fused_attn"):
                cast(Any, module).fused_attn = attn_implementation != "eager"
        self.has_cls_token = tower.cls_token is not None
        # The three classes have what is used here in common.
        return cast(VisionTransformer, tower)

    def hidden_states(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        ((patches, prefix),) = self._intermediates(pixel_values, num_layers)
        return torch.cat([prefix[:, :1], patches], dim=1) if self.has_cls_token else patches

    def _intermediates(self, pixel_values: Tensor, num_layers: int) -> list[tuple[Tensor, Tensor]]:
        """Patches (N, P, C) and the tokens before them after the block of that number, the blocks beyond not run."""
        features = self.vision_tower.forward_intermediates(
            pixel_values,
            indices=[num_layers - 1],
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        # Without prefix tokens timm returns the patches alone.
        return [item if isinstance(item, tuple) else (item, item[:, :0]) for item in cast(list[Any], features)]

    def unused_modules(self) -> list[nn.Module]:
        tower = self.vision_tower
        after = [child for name, child in tower.named_children() if name in AFTER_BLOCKS]
        return [*tower.blocks[self.used_layers :], *after]

    @property
    def num_layers(self) -> int:
        return len(self.vision_tower.blocks)

    @property
    def image_size(self) -> int:
        height, width = cast(tuple[int, int], self.vision_tower.patch_embed.img_size)
        if height != width:
            raise ConfigError(f"The vision tower takes images of {width}x{height} pixels: use a square img_size.")
        return height

    @property
    def num_patches(self) -> int:
        return int(self.vision_tower.patch_embed.num_patches)

    @property
    def hidden_size(self) -> int:
        return int(self.vision_tower.embed_dim)

    def default_image_processor(self) -> ImageProcessor:
        facts: Mapping[str, Any] = {
            **cast(Any, self.vision_tower.pretrained_cfg),
            **self.config.get("pretrained_cfg", {}),
        }
        square = ImageProcessor.square(self.image_size, mean=facts["mean"], std=facts["std"])
        resample = Image.Resampling[str(facts.get("interpolation", "bicubic")).upper()]
        return ImageProcessor.from_dict({**square.raw, "resample": int(resample)})

    @classmethod
    def select_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # timm's own files do not say model_type.
        return {**config, "model_type": "timm"}

    @classmethod
    def default_config(cls, name: str) -> dict[str, Any]:
        raise ConfigError(
            f"{name!r} is a family, not a model: give a config with model_type 'timm' and architecture, or a folder or "
            "Hub id such as timm/vit_small_patch14_reg4_dinov2.lvd142m."
        )

    @classmethod
    def tiny(cls) -> Self:
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
        return cls({"model_type": "timm", "architecture": "vit_tiny_patch16_224", "model_args": sizes})
