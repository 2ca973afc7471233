"""Vision towers of open_clip as vision encoders of navila."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self, cast

import open_clip
import timm
from navila.errors import ConfigError
from navila.images import ImageProcessor
from navila.model.location import read_json
from navila.model.vision import VisionEncoder
from navila.model.weights import read_tensors
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg
from PIL import Image
from torch import Tensor, nn

from navila_encoder_openclip.trunks import trunk_of

CONFIG = "open_clip_config.json"
#: Files of the weights in open_clip's own folders, in its order of preference.
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
#: What open_clip draws at random while it trains (patches would be lost), and what it would fetch.
NOT_BUILT: Mapping[str, Any] = {
    "patch_dropout": 0.0,
    "timm_drop": 0.0,
    "timm_drop_path": None,
    "timm_model_pretrained": False,
}
PREPROCESSING: Mapping[str, Sequence[str]] = {
    "resize_mode": ("shortest", "squash", "longest"),
    # "random" is for training; images are seen bicubic.
    "interpolation": ("bicubic", "bilinear", "random"),
}


class OpenClipEncoder(VisionEncoder):
    """`architecture` of the config names a model of open_clip, or `model_cfg` describes one; no text half is built.

    `image_size` in pixels and `preprocess_cfg` go before what the model says.
    """

    needs_processor_file = False
    weight_prefix = "visual."

    def __init__(self, config: Mapping[str, Any], **options: Any) -> None:
        super().__init__(config, **options)
        if self.used_layers < self.trunk.first_layer:
            raise ConfigError(
                f"mm_vision_select_layer is {self.select_layer}, the embeddings before the first block, which timm's "
                f"models do not give: use 1 to {self.num_layers}."
            )

    def build(self, attn_implementation: str | None) -> nn.Module:
        model = self._model_cfg()
        tower = _build_vision_tower(
            int(model["embed_dim"]), cast(Any, self._vision_cfg(model)), quick_gelu=bool(model.get("quick_gelu"))
        )
        if isinstance(tower, TimmModel) and "image_size" in self.config:
            # Without it timm's name decides: open_clip builds the trunk without its vision_cfg's image_size.
            tower.set_input_size(self.config["image_size"])
        self.trunk = trunk_of(tower)
        for module in tower.modules():
            # timm's attention chooses between torch's fused kernels and plain operations by this flag.
            if hasattr(module, "fused_attn"):
                cast(Any, module).fused_attn = attn_implementation != "eager"
        self.has_cls_token = self.trunk.has_cls_token
        self.position_table = self.trunk.position_table
        return tower

    def _model_cfg(self) -> Mapping[str, Any]:
        """What open_clip calls the config of a model: `embed_dim`, `vision_cfg`, `quick_gelu`."""
        model = self.config.get("model_cfg")
        if model is None:
            name = self.config.get("architecture")
            model = open_clip.get_model_config(name) if name in open_clip.list_models() else None
            if model is None:
                close = difflib.get_close_matches(str(name), open_clip.list_models(), n=3)
                hint = f" such as {', '.join(close)}" if close else ", e.g. ViT-B-16"
                raise ConfigError(
                    f"architecture is {name!r} in the vision tower's config: give a model of open_clip{hint}."
                )
        if not isinstance(model, Mapping) or not {"embed_dim", "vision_cfg"} <= model.keys():
            raise ConfigError("model_cfg in the vision tower's config has no embed_dim and vision_cfg: add them.")
        return model

    def _vision_cfg(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the tower."""
        vision = {**model["vision_cfg"], **NOT_BUILT}
        if "image_size" in self.config:
            vision["image_size"] = self.config["image_size"]
        unknown = sorted(vision.keys() - {field.name for field in fields(CLIPVisionCfg)})
        if unknown:
            raise ConfigError(
                f"vision_cfg in the vision tower's config has {', '.join(unknown)}, which open_clip "
                f"{open_clip.__version__} does not know: use a version that does, or leave it out."
            )
        name = vision.get("timm_model_name")
        # Anything else would be looked for on the Hub.
        if name and not timm.is_model(name):
            raise ConfigError(f"timm_model_name is {name!r} in vision_cfg, no model of timm {timm.__version__}.")
        return vision

    def hidden_states(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        return self.trunk.hidden_states(pixel_values, num_layers)

    def unused_modules(self) -> Sequence[nn.Module | nn.Parameter]:
        return self.trunk.after(self.used_layers)

    @property
    def num_layers(self) -> int:
        return self.trunk.num_layers

    @property
    def image_size(self) -> int:
        height, width = self.trunk.image_size
        if height != width:
            raise ConfigError(f"The vision tower takes images of {width}x{height} pixels: use a square image_size.")
        return height

    @property
    def num_patches(self) -> int:
        down, across = self.trunk.grid_size
        return down * across

    @property
    def hidden_size(self) -> int:
        return self.trunk.hidden_size

    def default_image_processor(self) -> ImageProcessor:
        given = self.config.get("preprocess_cfg") or {}
        names = [field.name for field in fields(PreprocessCfg)]
        facts = PreprocessCfg(**{key: given[key] for key in names if given.get(key) is not None})
        for key, known in PREPROCESSING.items():
            if (value := getattr(facts, key)) not in known:
                raise ConfigError(f"preprocess_cfg has {key} {value!r}: use one of {', '.join(known)}.")
        mean, std = ([float(x) for x in (v if isinstance(v, Sequence) else [v] * 3)] for v in (facts.mean, facts.std))
        # "longest" pads to a square before, which image_aspect_ratio "pad" does here.
        raw = ImageProcessor.square(self.image_size, mean=mean, std=std).raw
        if facts.resize_mode == "shortest":
            side = self.image_size
            raw = {**raw, "size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": side}
        resample = Image.Resampling.BILINEAR if facts.interpolation == "bilinear" else Image.Resampling.BICUBIC
        return ImageProcessor.from_dict({**raw, "resample": int(resample)})

    @classmethod
    def config_path(cls, folder: Path) -> Path:
        path = super().config_path(folder)
        return path if path.is_file() and "model_type" in read_json(path) else folder / CONFIG

    @classmethod
    def select_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # open_clip's own files do not say model_type.
        return {**config, "model_type": "open_clip"}

    @classmethod
    def read_weights(cls, folder: Path) -> dict[str, Tensor]:
        own = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        return super().read_weights(folder) if own is None else read_tensors(own, cls.weight_prefix)

    @classmethod
    def default_config(cls, name: str) -> dict[str, Any]:
        raise ConfigError(
            f"{name!r} is a family, not a model: give a config with model_type 'open_clip' and architecture, or a "
            "folder or Hub id such as timm/ViT-B-16-SigLIP."
        )

    @classmethod
    def tiny(cls) -> Self:
        vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8}
        return cls({"model_type": "open_clip", "model_cfg": {"embed_dim": 16, "vision_cfg": vision}})
