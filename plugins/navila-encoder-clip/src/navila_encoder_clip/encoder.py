"""CLIP as a vision encoder of navila, on transformers' own network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from navila.images import ImageProcessor
from navila.model.vision import VisionEncoder
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModel

_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SIZES: Mapping[str, Mapping[str, int]] = {
    "clip-base-32": {**_BASE, "image_size": 224, "patch_size": 32},
    "clip-base-16": {**_BASE, "image_size": 224, "patch_size": 16},
    "clip-large-14": {**_LARGE, "image_size": 224, "patch_size": 14},
    "clip-large-14-336": {**_LARGE, "image_size": 336, "patch_size": 14},
}
#: Pixel statistics of CLIP's training images.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipEncoder(VisionEncoder):
    """CLIP (arXiv 2103.00020): a class token, then the patches; `patch` drops it and `cls_patch` keeps it."""

    has_cls_token = True
    weight_prefix = "vision_model."
    position_table = "embeddings.position_embedding.weight"
    vision_tower: CLIPVisionModel

    def build(self, attn_implementation: str | None) -> nn.Module:
        config = CLIPVisionConfig(**{k: v for k, v in self.config.items() if k != "model_type"})
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        return CLIPVisionModel(config)

    def hidden_states(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        hidden = self.vision_tower.pre_layrnorm(self.vision_tower.embeddings(pixel_values))
        for layer in self.vision_tower.encoder.layers[:num_layers]:
            hidden = layer(hidden, None)
        return hidden

    def unused_modules(self) -> list[nn.Module]:
        return [*self.vision_tower.encoder.layers[self.used_layers :], self.vision_tower.post_layernorm]

    @property
    def num_layers(self) -> int:
        return int(self.config.get("num_hidden_layers", _BASE["num_hidden_layers"]))

    @property
    def image_size(self) -> int:
        return int(self.config.get("image_size", 224))

    @property
    def num_patches(self) -> int:
        return (self.image_size // int(self.config.get("patch_size", 32))) ** 2

    @property
    def hidden_size(self) -> int:
        return int(self.config.get("hidden_size", _BASE["hidden_size"]))

    def default_image_processor(self) -> ImageProcessor:
        size = self.image_size
        return ImageProcessor.from_dict(
            {
                "image_processor_type": "CLIPImageProcessor",
                "do_convert_rgb": True,
                "do_resize": True,
                "size": {"shortest_edge": size},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": size, "width": size},
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": list(MEAN),
                "image_std": list(STD),
            }
        )

    @classmethod
    def select_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # Published CLIP files hold a text model too: keep the vision half.
        if config.get("model_type") == "clip":
            vision = {**config.get("vision_config", {}), **(config.get("vision_config_dict") or {})}
            return {**vision, "model_type": "clip_vision_model"}
        return dict(config)

    @classmethod
    def default_config(cls, name: str) -> dict[str, Any]:
        if name not in SIZES:
            return super().default_config(name)
        return {"model_type": "clip_vision_model", **SIZES[name]}

    @classmethod
    def tiny(cls) -> Self:
        config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        return cls({"model_type": "clip_vision_model", **config, "image_size": 32, "patch_size": 8})
