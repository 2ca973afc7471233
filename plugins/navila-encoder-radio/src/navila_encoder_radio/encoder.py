"""RADIO and C-RADIO as vision encoders of navila."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from navila.errors import CheckpointError
from navila.images import ImageProcessor
from navila.model.location import read_json
from navila.model.multiscale import at_size
from navila.model.vision import VisionEncoder
from torch import Tensor, nn

from navila_encoder_radio.config import RadioVitConfig
from navila_encoder_radio.network import RadioVit


def _published(version: str, model: str, side: int, classes: int, **args: Any) -> dict[str, Any]:
    """What the `config.json` of a published size says of the network."""
    teachers = [{"name": f"teacher{index}"} for index in range(classes)]
    args = {"model": model, "cpe_max_size": 2048, "cls_token_per_teacher": True, "teachers": teachers, **args}
    return {"version": version, "args": args, "preferred_resolution": [side, side]}


SIZES: Mapping[str, Mapping[str, Any]] = {
    "radio-v2.5-b": _published("radio_v2.5-b", "vit_base_patch16_224", 768, 4, register_multiple=8),
    "radio-v2.5-l": _published("radio_v2.5-l", "vit_large_patch16_224", 768, 4, register_multiple=8),
    "radio-v2.5-h": _published("radio_v2.5-h", "vit_huge_patch16_224", 768, 4, register_multiple=8),
    "radio-v2.5-g": _published(
        "radio_v2.5-g",
        "dino_v2_g_student",
        896,
        4,
        cpe_max_size=1792,
        cls_token_per_teacher=False,
        cpe_num_registers=4,
    ),
    "c-radio-v3-b": _published("c-radio_v3-b", "vit_base_patch16_v2_224", 512, 4, cpe_num_registers=4),
    "c-radio-v3-l": _published("c-radio_v3-l", "vit_large_patch16_v2_224", 512, 4, cpe_num_registers=4),
    "c-radio-v3-h": _published("c-radio_v3-h", "vit_huge_patch16_224", 512, 4, cpe_num_registers=4),
    "c-radio-v3-g": _published("c-radio_v3-g", "vit_giant_patch16_224", 512, 4, cpe_num_registers=4),
    "c-radio-v4-so400m": _published("c-radio_v4-so400m", "vit_so400m_patch16_224", 512, 3, register_multiple=10),
    "c-radio-v4-h": _published("c-radio_v4-h", "vit_huge_patch16_224", 512, 3, register_multiple=10),
}


class RadioEncoder(VisionEncoder):
    """RADIO (arXiv 2312.06709, 2412.07679): the patches of a layer, whatever `select_feature` says.

    Its class tokens summarise the image for its several teachers, and none is the image's own: they and the registers
    take part in attention and are no features, as in VILA.
    """

    needs_processor_file = False
    weight_prefix = "radio_model."
    vision_tower: RadioVit

    def build(self, attn_implementation: str | None) -> nn.Module:
        return RadioVit(self.facts, fused=attn_implementation != "eager")

    def hidden_states(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        return self.vision_tower(pixel_values, num_layers)[:, self.facts.num_prefix_tokens :]

    def unused_modules(self) -> Sequence[nn.Module]:
        trunk = self.vision_tower.trunk
        # Without a block, nothing carries the prefix to the patches.
        prefix = [] if self.used_layers else [trunk.patch_generator.cls_token]
        return [*prefix, *trunk.blocks[self.used_layers :], trunk.norm]

    @cached_property
    def facts(self) -> RadioVitConfig:
        """What the config says of the network."""
        return RadioVitConfig.from_dict(self.config)

    @property
    def num_layers(self) -> int:
        return self.facts.architecture.num_hidden_layers

    @property
    def image_size(self) -> int:
        return self.facts.image_size

    @property
    def num_patches(self) -> int:
        return self.facts.num_patches

    @property
    def hidden_size(self) -> int:
        return self.facts.architecture.hidden_size

    def default_image_processor(self) -> ImageProcessor:
        # The network normalises.
        return ImageProcessor.square(self.image_size, mean=(0.0,) * 3, std=(1.0,) * 3)

    @classmethod
    def select_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # NVIDIA's own files name a class of theirs instead.
        return {**config, "model_type": "radio"}

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        config: Mapping[str, Any] | None = None,
        *,
        image_size: int | None = None,
        **options: Any,
    ) -> Self:
        """Load as `VisionEncoder` does; any multiple of the patch is an `image_size`, and no table is changed for it.

        Raises:
            CheckpointError: a file or tensor is missing, corrupt or of another shape, or the config makes no sense.
        """
        described = dict(config or read_json(Path(folder) / "config.json"))
        if image_size is not None:
            described["image_size"] = image_size
        encoder = super().from_pretrained(folder, described, **options)
        processor = encoder.image_processor
        if processor.width is None:
            # NVIDIA's own file leaves images as large as they are.
            encoder._prepare_with(encoder.default_image_processor())
        elif image_size is not None:
            encoder._prepare_with(at_size(processor, image_size))
        return encoder

    @classmethod
    def read_weights(cls, folder: Path) -> dict[str, Tensor]:
        """As in `VisionEncoder`, with one layout from the several in which channels are scaled."""
        state = super().read_weights(folder)
        factored = next((name for name in state if ".parametrizations." in name), None)
        if factored is not None:
            raise CheckpointError(
                f"{folder} has {cls.weight_prefix + factored!r}, a factor of a weight: save the model with its "
                "parametrizations removed."
            )
        state = {name.replace(".gamma", ".grandma"): tensor for name, tensor in state.items()}
        # transformers scales what comes out of a branch's last linear layer, by ones in the published weights, which
        # lack the scale: where one was trained, it becomes part of the layer.
        for scale_name, layer in (("layer_scale1.lambda1", "attn.proj"), ("layer_scale2.lambda1", "mlp.fc2")):
            for name in [name for name in state if name.endswith(scale_name)]:
                scale, block = state.pop(name), name.removesuffix(scale_name)
                for key, factor in ((f"{block}{layer}.weight", scale[:, None]), (f"{block}{layer}.bias", scale)):
                    if key in state:
                        state[key] = state[key] * factor
        return state

    @classmethod
    def default_config(cls, name: str) -> dict[str, Any]:
        if name not in SIZES:
            return super().default_config(name)
        return {"model_type": "radio", "architectures": ["RADIOModel"], **SIZES[name]}

    @classmethod
    def tiny(cls) -> Self:
        sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8}
        tokens = {"num_cls_tokens": 2, "num_registers": 2}
        return cls({"model_type": "radio", **sizes, **tokens, "image_size": 32, "max_img_size": 64})
