"""The config of the composed model: `config.json` of the released layout, nothing lost on the way."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from transformers.configuration_utils import PretrainedConfig

from navila.errors import ConfigError
from navila.model.nvila import TILED, is_nvila

_DEFAULTS: dict[str, Any] = {
    "llm_cfg": None,
    "vision_tower_cfg": None,
    "mm_projector_cfg": None,
    "hidden_size": None,
    "mm_hidden_size": None,
    "image_aspect_ratio": None,
    "num_video_frames": 8,
    "fps": 0.0,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": None,
    "conversation": None,
    "mm_use_im_start_end": False,
    "num_time_tokens": 0,
    "time_token_format": "<t{t}>",
    "time_token_ids": None,
    "soft_ce_std": 1.0,
}

#: What fields may be, and how that is said; where the test fails for None, the default is not None.
_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "num_video_frames": (lambda value: type(value) is int and value > 0, "a whole number above 0"),
        "fps": (lambda value: type(value) in (int, float) and 0 <= value < math.inf, "a number of at least 0"),
        "mm_vision_select_layer": (lambda value: type(value) is int, "a whole number"),
        "mm_vision_select_feature": (lambda value: value in (None, "patch", "cls_patch"), "'patch' or 'cls_patch'"),
        "conversation": (lambda value: value is None or type(value) is str, "the name of a template"),
        "num_time_tokens": (lambda value: type(value) is int, "a whole number"),
        "hidden_size": (lambda value: value is None or type(value) is int, "a whole number"),
        "mm_hidden_size": (lambda value: value is None or type(value) is int, "a whole number"),
    }
)
#: How an image of another shape comes to the encoder's; `square`, as LLaVA writes it, leaves it to the processor too.
_ASPECTS = (None, "resize", "pad", "square")


class NavilaConfig(PretrainedConfig):
    """Sub-configs of the three parts and what belongs to none of them.

    Attributes:
        llm_cfg, vision_tower_cfg, mm_projector_cfg: the parts' `config.json`, as read.
        hidden_size, mm_hidden_size: channels of the language model and of the vision encoder.
        image_aspect_ratio: `resize`, `pad` or None (see `navila.images.process_image`); `dynamic` and `dynamic_s2` of
            NVILA are in `navila.model.tiling`.
        num_video_frames: frames a navigation prompt holds.
        fps: sampling rate of videos in 1/s; 0 samples `num_video_frames` uniformly.
        mm_vision_select_layer, mm_vision_select_feature: which features the encoder gives (see `VisionEncoder`); when
            the feature is None, all patches and no class token.
        conversation: name of the template the model was trained with.
        mm_use_im_start_end: images stand between `<im_start>` and `<im_end>` in prompts.
        num_time_tokens, time_token_format: tokens for points in time, and how they are written.
        time_token_ids, soft_ce_std: their ids, and how far off one still counts (see `navila.model.losses`).

    Every other key of a file becomes an attribute too and is written back.
    """

    model_type = "llava_llama"

    llm_cfg: Any
    vision_tower_cfg: Any
    mm_projector_cfg: Any
    hidden_size: int | None
    mm_hidden_size: int | None
    image_aspect_ratio: str | None
    num_video_frames: int
    fps: float
    mm_vision_select_layer: int
    mm_vision_select_feature: str | None
    conversation: str | None
    mm_use_im_start_end: bool
    num_time_tokens: int
    time_token_format: str
    time_token_ids: list[int] | None
    soft_ce_std: float

    def __init__(self, **fields: Any) -> None:
        given = copy.deepcopy(fields)
        defaults = {k: v for k, v in _DEFAULTS.items() if given.get(k) is None}
        # What transformers would drop or rename (old generation settings, torch_dtype) is kept here for saving.
        self._as_read: dict[str, Any] = {}
        # The parts know their types; transformers would look up in torch whatever a file says here.
        known = {k: v for k, v in given.items() if k not in ("dtype", "torch_dtype")}
        super().__init__(**{**known, **defaults})
        self._as_read = {k: v for k, v in given.items() if k not in ("model_type", "transformers_version")}

    def check(self) -> None:
        """Make sure that every field is of its kind.

        Raises:
            ConfigError: one is not.
        """
        for name, (fits, kind) in _KINDS.items():
            if not fits(value := getattr(self, name)):
                raise ConfigError(f"{name} is {value!r} where {kind} is expected.")
        tiled = TILED if is_nvila(self.to_dict()) else ()
        if self.image_aspect_ratio not in (*_ASPECTS, *tiled):
            only = " (tiles are for NVILA alone)" if self.image_aspect_ratio in TILED else ""
            raise ConfigError(f"image_aspect_ratio is {self.image_aspect_ratio!r}{only}: use 'resize', 'pad' or null.")

    def vision_side(self) -> int | None:
        """Pixels that `vision_resolution` asks a trained vision encoder to be resized to; None and -1 ask nothing.

        Raises:
            ConfigError: it is no positive number.
        """
        side = getattr(self, "vision_resolution", None)
        if side in (None, -1):
            return None
        if type(side) is not int or side < 1:
            raise ConfigError(f"vision_resolution is {side!r}: give a number of pixels, or -1 for the encoder's own.")
        return side

    def s2_options(self) -> dict[str, Any]:
        """Options of a vision encoder that sees each image at several scales; none unless `s2` is true."""
        if not getattr(self, "s2", False) or getattr(self, "dynamic_s2", False):
            return {}
        return {key: getattr(self, key, None) for key in ("s2_scales", "s2_max_split_size")}

    def to_dict(self) -> dict[str, Any]:
        """Every field, those of the file that transformers does not keep included."""
        live = super().to_dict()
        live.pop("_as_read", None)
        return {**self._as_read, **live}

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: fields that were in the file, and those that are not merely transformers' defaults."""
        defaults = PretrainedConfig().to_dict()
        return {
            k: v
            for k, v in self.to_dict().items()
            if k in self._as_read or k not in defaults or v != defaults[k] or k == "transformers_version"
        }


def part_config(value: Any) -> Mapping[str, Any]:
    """A part's config as a mapping; empty when the file names it only by a path (before the first save)."""
    if isinstance(value, PretrainedConfig):
        return value.to_dict()
    return value if isinstance(value, Mapping) else {}
