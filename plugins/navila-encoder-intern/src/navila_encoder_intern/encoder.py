"""InternViT as a vision encoder of navila."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from navila.images import ImageProcessor
from navila.model.location import read_json
from navila.model.vision import VisionEncoder
from navila.model.weights import read_state_dict
from torch import Tensor, nn

from navila_encoder_intern.network import InternVit, InternVitConfig

_6B = {
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_attention_heads": 25,
    "norm_type": "rms_norm",
    "qkv_bias": False,
    "qk_normalization": True,
    "patch_size": 14,
}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "intern-300m-448": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "norm_type": "layer_norm",
        "qkv_bias": True,
        "qk_normalization": False,
        "initializer_factor": 1.0,
        "image_size": 448,
        "patch_size": 14,
    },
    "intern-6b-224": {**_6B, "num_hidden_layers": 48, "image_size": 224},
    "intern-6b-448": {**_6B, "num_hidden_layers": 45, "image_size": 448},
}
#: Pixel statistics of ImageNet.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InternEncoder(VisionEncoder):
    """InternViT (arXiv 2312.14238): a class token, then the patches; `patch` drops it and `cls_patch` keeps it."""

    has_cls_token = True
    needs_processor_file = False
    position_table = "embeddings.position_embedding"
    vision_tower: InternVit

    def build(self, attn_implementation: str | None) -> nn.Module:
        return InternVit(self.facts, fused=attn_implementation != "eager")

    def hidden_states(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        return self.vision_tower(pixel_values, num_layers)

    def unused_modules(self) -> list[nn.Module]:
        return list(self.vision_tower.layers[self.used_layers :])

    @property
    def facts(self) -> InternVitConfig:
        """What the config says of the network."""
        return InternVitConfig.from_dict(self.config)

    @property
    def num_layers(self) -> int:
        return self.facts.num_hidden_layers

    @property
    def image_size(self) -> int:
        return self.facts.image_size

    @property
    def num_patches(self) -> int:
        return self.facts.num_patches

    @property
    def hidden_size(self) -> int:
        return self.facts.hidden_size

    def default_image_processor(self) -> ImageProcessor:
        return ImageProcessor.square(self.image_size, mean=MEAN, std=STD)

    @classmethod
    def select_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"model_type": "intern_vit_6b", **config.get("vision_config", config)}

    @classmethod
    def read_weights(cls, folder: Path) -> dict[str, Tensor]:
        # In a whole InternVL the tower stands beside a language model and a projector.
        whole = "vision_config" in read_json(folder / "config.json")
        return read_state_dict(folder, "vision_model." if whole else "")

    @classmethod
    def default_config(cls, name: str) -> dict[str, Any]:
        if name not in SIZES:
            return super().default_config(name)
        return {"model_type": "intern_vit_6b", **SIZES[name]}

    @classmethod
    def tiny(cls) -> Self:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        return cls({"model_type": "intern_vit_6b", **sizes, "image_size": 32, "patch_size": 8})
