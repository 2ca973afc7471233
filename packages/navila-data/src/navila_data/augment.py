"""Changes to samples, drawn anew each epoch: colours, mirror images, and what a user's own function does."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from navila.errors import ConfigError
from navila.prompts import navigation_prompt, trajectory_prompt
from navila.registry import import_target
from numpy.typing import NDArray

from navila_data.media import EditedFrame
from navila_data.sample import Sample, Turn

#: From a sample and a source of chance to the sample that is trained on. What it does to frames are `EditedFrame`s.
Augmentation = Callable[[Sample, np.random.Generator], Sample]


def find_augmentations(text: str) -> tuple[Augmentation, ...]:
    """The augmentations of `jitter,mirror,package.module:function`.

    Raises:
        ConfigError: a name is unknown or names no function.
        PluginError: a module cannot be imported.
    """
    return tuple(_find(name.strip()) for name in text.split(",") if name.strip())


def _find(name: str) -> Augmentation:
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" not in name:
        raise ConfigError(
            f"There is no augmentation {name!r}: use {', '.join(BUILT_IN)}, or package.module:function of your own."
        )
    found: Augmentation = import_target(name, "augmentation")
    if not callable(found):
        raise ConfigError(f"The augmentation {name!r} is no function: it takes a sample and a generator of numpy.")
    return found


def augmented(sample: Sample, augmentations: Sequence[Augmentation], *, seed: int, epoch: int) -> Sample:
    """The sample as this epoch sees it.

    Samples of one group are changed alike: they share frames, which are still decoded and encoded once.
    """
    shared = zlib.crc32(f"{sample.source}\0{sample.group or sample.record}".encode())
    for number, augment in enumerate(augmentations):
        sample = augment(sample, np.random.default_rng([seed, epoch, number, shared]))
    return sample


@dataclass(frozen=True, slots=True)
class Jitter:
    """Colours made lighter, stronger or paler; 1 leaves them."""

    brightness: float
    contrast: float
    saturation: float

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 to the same."""
        grey = frame @ np.array([0.299, 0.587, 0.114], np.float32)[:, None]
        pixels = grey + (frame - grey) * np.float32(self.saturation)
        pixels = grey.mean() + (pixels - grey.mean()) * np.float32(self.contrast)
        return (pixels * np.float32(self.brightness)).round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Mirror:
    """Left and right of a frame exchanged."""

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 to the same."""
        return np.ascontiguousarray(frame[:, ::-1])


def _edited(sample: Sample, edit: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Sample:
    """The sample with all its frames changed alike; black ones stay black."""
    return replace(
        sample, media=tuple(medium if medium is None else EditedFrame(medium, edit) for medium in sample.media)
    )


def jitter(sample: Sample, generator: np.random.Generator) -> Sample:
    """Brightness, contrast and saturation off by up to a fifth."""
    return _edited(sample, Jitter(*generator.uniform(0.8, 1.2, size=3).tolist()))


def mirror(sample: Sample, generator: np.random.Generator) -> Sample:
    """Half of the navigation steps and trajectories mirrored, left and right exchanged in instruction and answer.

    Other samples stay, and so do those whose words leave open what "left" and "right" mean in them.
    """
    turns = mirrored_turns(sample)
    return sample if turns is None or generator.random() < 0.5 else _edited(replace(sample, turns=turns), Mirror())


def mirrored_turns(sample: Sample) -> tuple[Turn, ...] | None:
    """The conversation about the mirrored frames; None where it is not about walking or cannot be told for sure."""
    if len(sample.turns) != 2 or not sample.media:
        return None
    question, answer = sample.turns
    before, _, after = navigation_prompt("\0", len(sample.media)).partition("\0")
    swapped: str | None = question.text
    if question.text.startswith(before) and question.text.endswith(after):
        # The prompt itself says "left or right" and stays as it is.
        instruction = swap_sides(question.text[len(before) : len(question.text) - len(after)])
        swapped = None if instruction is None else f"{before}{instruction}{after}"
    elif question.text != trajectory_prompt(len(sample.media)):
        return None
    said = swap_sides(answer.text)
    if swapped is None or said is None:
        return None
    return Turn("user", swapped), Turn("assistant", said)


_OTHER_SIDE = {
    **{f"left{ending}": f"right{ending}" for ending in ("", "most", "ward", "wards", "hand", "s")},
    **{f"right{ending}": f"left{ending}" for ending in ("", "most", "ward", "wards", "hand", "s")},
    **{f"{against}clockwise": "clockwise" for against in ("counter", "counter-", "counter ", "anti", "anti-")},
    "clockwise": "counterclockwise",
}
_SIDES = re.compile(rf"\b({'|'.join(sorted(_OTHER_SIDE, key=len, reverse=True))})\b", re.IGNORECASE)

#: Words before "right" that make it a side whatever follows.
_SURELY_A_SIDE = (
    "turn|turns|turning|turned|bear|bears|bearing|veer|veers|veering|rotate|rotates|rotating|hang|slight|slightly|"
    "sharp|sharply|hard|immediate|the|your|a|far|first|second|third|last|next|left|or"
)
#: Words after "right" that make it mean "directly" more often than not, as in "stop right before the door".
_DIRECTLY = (
    "about|above|across|after|against|ahead|along|angle|angles|around|as|at|away|back|before|behind|below|beneath|"
    "beside|between|beyond|by|down|here|in|inside|into|near|next|now|off|on|onto|opposite|out|outside|over|past|"
    "there|through|to|under|underneath|until|up|when|where"
)
_UNCLEAR = re.compile(
    # "have left", "you left", "is left" for "leave" and "remain", but "is left of", "is left-hand".
    r"\b(?:have|has|had|having|you|we|they|he|she|i|it|just|who)\s+left\b"
    r"|\b(?:is|are|was|were|be|been)\s+left\b(?!\s+of\b|[\s-]+(?:side|hand))"
    r"|\b(?:all|that's|is)\s+right\b(?!\s+of\b|[\s-]+(?:side|hand))|\bright[\s-]angle"
    rf"|(?<!\w)(?!(?:{_SURELY_A_SIDE})\b)[\w']+[,;]?\s+right\s+(?:{_DIRECTLY})\b"
    rf"|^\s*right\s+(?:{_DIRECTLY})\b|[.!?,;:]\s*right\s+(?:{_DIRECTLY})\b",
    re.IGNORECASE,
)


def swap_sides(text: str) -> str | None:
    """English with left and right exchanged; None when it has other letters, or words that may mean something else."""
    if _UNCLEAR.search(text) or any(letter.isalpha() and not letter.isascii() for letter in text):
        return None
    return _SIDES.sub(lambda side: _like(side[0], _OTHER_SIDE[side[0].lower()]), text)


def _like(word: str, other: str) -> str:
    """`other` with the capitals of `word`."""
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


BUILT_IN: dict[str, Augmentation] = {"jitter": jitter, "mirror": mirror}
