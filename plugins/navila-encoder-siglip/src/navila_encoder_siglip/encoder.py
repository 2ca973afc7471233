"""SigLIP as a vision encoder of navila, on transformers' own network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from navila.errors import ConfigError
from navila.model.vision import VisionEncoder
from torch import Tensor, nn
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
SIZES: Mapping[str, Mapping[str, int]] = {
    "siglip-base-224": {**_BASE, "image_size": 224, "patch_size": 16},
    "siglip-base-384": {**_BASE, "image_size": 384, "patch_size": 16},
    "siglip-large-256": {**_LARGE, "image_size": 256, "patch_size": 16},
    "siglip-large-384": {**_LARGE, "image_size": 384, "patch_size": 16},
    "siglip-so400m-224": {**_SO400M, "image_size": 224, "patch_size": 14},
    "siglip-so400m-384": {**_SO400M, "image_size": 384, "patch_size": 14},
}


class SiglipEncoder(VisionEncoder):
    """SigLIP (arXiv 2303.15343): no class token, so every feature is a patch."""

    weight_prefix = "vision_model."
    position_table = "embeddings.position_embedding.weight"
    vision_tower: SiglipVisionModel

    def build(self, attn_implementation: str | None) -> nn.Module:
        if str(self.config.get("model_type")).startswith("siglip2"):
            raise ConfigError(
                f"model_type is {self.config['model_type']!r}, a SigLIP2 NaFlex, whose images have no fixed size: take "
                "a SigLIP2 that has one, such as google/siglip2-so400m-patch14-384."
            )
        config = SiglipVisionConfig(**{k: v for k, v in self.config.items() if k != "model_type"})
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        return SiglipVisionModel(config)

    def hidden_states(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        hidden = self.vision_tower.embeddings(pixel_values)
        for layer in self.vision_tower.encoder.layers[:num_layers]:
            hidden = layer(hidden, None)
        return hidden

    def unused_modules(self) -> list[nn.Module]:
        tower = self.vision_tower
        return [
            *tower.encoder.layers[self.used_layers :],
            tower.post_layernorm,
            *([tower.head] if tower.use_head else []),
        ]

    @property
    def num_layers(self) -> int:
        return int(self.config.get("num_hidden_layers", _BASE["num_hidden_layers"]))

    @property
    def image_size(self) -> int:
        return int(self.config.get("image_size", 224))

    @property
    def num_patches(self) -> int:
        return (self.image_size // int(self.config.get("patch_size", 16))) ** 2

    @property
    def hidden_size(self) -> int:
        return int(self.config.get("hidden_size", _BASE["hidden_size"]))

    @classmethod
    def select_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # Published SigLIP files hold a text model too: keep the vision half.
        if config.get("model_type") in ("siglip", "siglip2"):
            return {**config.get("vision_config", {}), "model_type": f"{config['model_type']}_vision_model"}
        return dict(config)

    @classmethod
    def default_config(cls, name: str) -> dict[str, Any]:
        if name not in SIZES:
            return super().default_config(name)
        return {"model_type": "siglip_vision_model", **SIZES[name]}

    @classmethod
    def tiny(cls) -> Self:
        config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        return cls({"model_type": "siglip_vision_model", **config, "image_size": 32, "patch_size": 8})
