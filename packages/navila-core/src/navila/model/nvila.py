"""What NVILA (arXiv 2412.04468) does otherwise: media encoders and tiling, as its `config.json` says; light.

Its prompts are tokenised at once, `<image>` being a token of the vocabulary. Each becomes the ids of `start_tokens`,
the image's features and the ids of `end_tokens`, a newline: a message itself has none behind an image. A video
is its frames, each put there like an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from navila.constants import IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from navila.errors import CheckpointError

#: Tokens that VILA's loader adds to a tokenizer without them, in this order.
TOKENS = ("<vila/sentinel>", IMAGE_TOKEN, "<vila/video>")
#: Values of `image_aspect_ratio` that cut images into tiles (see `navila.model.tiling`).
TILED = ("dynamic", "dynamic_s2")
_MODULE = "llava.model.encoders."
_COMMON = {"start_tokens": None, "end_tokens": "\n"}
#: The encoders by their `_target_`, with the fields they take and the defaults; nothing is ever imported by that name.
_ENCODERS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "image_encoder": {f"{_MODULE}BasicImageEncoder": _COMMON},
    "video_encoder": {
        f"{_MODULE}BasicVideoEncoder": _COMMON,
        f"{_MODULE}TSPVideoEncoder": {**_COMMON, "sep_tokens": None, "pool_sizes": None},
    },
}


@dataclass(frozen=True, kw_only=True)
class Nvila:
    """How an NVILA checkpoint takes images and videos."""

    start_tokens: str | None = None
    end_tokens: str | None = "\n"
    pool_sizes: tuple[int, ...] = (1,)
    """Frames of a video whose features are averaged to those of one, a pass over the video for each number."""
    aspect: str | None = None
    """`dynamic` or `dynamic_s2`, where the only image of a message is tiled (see `navila.model.tiling`)."""
    min_tiles: int = 1
    max_tiles: int = 12
    scales: tuple[int, ...] = ()
    """Pixels of `dynamic_s2`, ascending; features are this many times as wide as the encoder's."""
    output: int = 0
    """The scale whose grid the features of `dynamic_s2` have."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """Read a top `config.json`; None for checkpoints before NVILA.

        Raises:
            CheckpointError: a key has a value that is not known here.
        """
        if not is_nvila(config):
            return None
        image, video = (_encoder(config, key) for key in _ENCODERS)
        for name in _COMMON:
            if image[name] != video[name]:
                raise _refused(
                    "video_encoder", f"{name} {video[name]!r}", f"only those of image_encoder, {image[name]!r}"
                )
        if video.get("sep_tokens") is not None:
            raise _refused("video_encoder", f"sep_tokens {video['sep_tokens']!r}", "only null")
        aspect = config.get("image_aspect_ratio")
        tiled = config.get("dynamic_s2") or aspect == "dynamic_s2"
        nvila = cls(
            start_tokens=image["start_tokens"],
            end_tokens=image["end_tokens"],
            pool_sizes=_pool_sizes(video["pool_sizes"]) if "pool_sizes" in video else (1,),
            aspect=aspect if aspect in TILED else None,
            min_tiles=_whole(config, "min_tiles", cls.min_tiles),
            max_tiles=_whole(config, "max_tiles", cls.max_tiles),
            scales=_scales(config.get("s2_scales")) if tiled else (),
            output=_whole(config, "s2_resize_output_to_scale_idx", cls.output),
        )
        nvila._check()
        return nvila

    def _check(self) -> None:
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise _refused("min_tiles", str(self.min_tiles), f"1 to max_tiles, which is {self.max_tiles}")
        if self.scales and not -len(self.scales) <= self.output < len(self.scales):
            raise _refused("s2_resize_output_to_scale_idx", str(self.output), f"one of {len(self.scales)} scales")
        if self.scales and (tiles := (self.scales[-1] // self.scales[0]) ** 2) > self.max_tiles:
            raise _refused("max_tiles", str(self.max_tiles), f"{tiles} or more, as the largest of s2_scales takes them")

    @property
    def width_factor(self) -> int:
        """How many times as wide as the encoder's the projector's inputs are."""
        return len(self.scales) or 1

    def image_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """What an `<image>` in a prompt becomes, -200 standing for the features."""
        start, end = (
            [] if text is None else tokenizer(text).input_ids for text in (self.start_tokens, self.end_tokens)
        )
        return (*start, IMAGE_TOKEN_INDEX, *end)


def is_nvila(config: Mapping[str, Any]) -> bool:
    """Whether a top `config.json` is of NVILA: earlier checkpoints have no media encoders."""
    return any(config.get(key) is not None for key in _ENCODERS)


def add_media_tokens(tokenizer: Any) -> None:
    """Give a tokenizer the tokens of media it lacks, as VILA's loader does; no embedding of them is ever looked up."""
    vocabulary = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in TOKENS if token not in vocabulary], special_tokens=True)


def _encoder(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The fields of `image_encoder` or `video_encoder`: an object, or its JSON."""
    known = _ENCODERS[key]
    value = config.get(key)
    if value is None:
        return dict(next(iter(known.values())))
    try:
        raw = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raw = None
    if not isinstance(raw, Mapping):
        raise _refused(key, repr(value), "an object with _target_, or its JSON")
    target = raw.get("_target_")
    if target not in known:
        raise _refused(key, f"_target_ {target!r}", " or ".join(known))
    given = {name: field for name, field in raw.items() if name != "_target_"}
    defaults = known[str(target)]
    for name, field in given.items():
        if name not in defaults or (name != "pool_sizes" and not isinstance(field, str | None)):
            raise _refused(key, f"{name} {field!r}", f"what {target} takes, {', '.join(defaults)}")
    return {**defaults, **given}


def _pool_sizes(value: Any) -> tuple[int, ...]:
    sizes = value if isinstance(value, list) else []
    over_time = [s for s in sizes if isinstance(s, list) and len(s) == 3 and s[1:] == [1, 1] and type(s[0]) is int]
    if not sizes or len(over_time) != len(sizes) or any(frames < 1 for frames, _, _ in over_time):
        raise _refused("video_encoder", f"pool_sizes {value!r}", "pooling over frames, such as [[8, 1, 1]]")
    return tuple(frames for frames, _, _ in over_time)


def _scales(value: Any) -> tuple[int, ...]:
    listed = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    try:
        scales = tuple(sorted(int(side) for side in listed))
    except (TypeError, ValueError):
        scales = ()
    if not scales or scales[0] < 1 or any(side % scales[0] for side in scales):
        raise _refused("s2_scales", repr(value), "multiples of the encoder's size, such as '448,896,1344'")
    return scales


def _whole(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key)
    if value is not None and type(value) is not int:
        raise _refused(key, repr(value), "a whole number")
    return default if value is None else value


def _refused(key: str, value: str, known: str) -> CheckpointError:
    return CheckpointError(f"config.json has {key} {value}, which is not supported: set it to {known}.")
