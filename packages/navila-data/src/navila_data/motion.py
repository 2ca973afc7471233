"""Which way a camera turned between two frames, by how far the picture moved sideways; numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from navila.actions import parse
from navila.errors import DataError
from navila.images import read_image
from navila.video import read_frames
from numpy.typing import NDArray
from PIL import Image

from navila_data.media import EditedFrame, Medium, VideoFrame, open_file
from navila_data.sample import Sample
from navila_data.statistics import instruction, navigation_answer

#: Pictures are compared at this size, (width, height).
SIZE = (64, 32)
#: Columns by which a picture may have moved: 45 degrees, and a bit, of a camera that sees 90.
REACH = 38
#: Columns of the smallest move that is a turn; a step forward moves the middle of a picture less.
LEAST = 4
#: A turn the other way is told from this confidence on.
CONFIDENT = 0.2
#: Correlation from which on two pictures show the same place.
ALIKE = 0.5

Motion = Literal["left", "right", "forward"]


@dataclass(frozen=True, slots=True)
class Observed:
    """What two frames say."""

    motion: Motion
    confidence: float
    """0 to 1: the share of what the second best motion leaves unexplained that this one explains.

    0 where the frames have little in common."""


def observe_frames(before: Medium, after: Medium) -> Observed:
    """The motion between two frames.

    Raises:
        DataError: one is missing or cannot be decoded.
    """
    return observe(_grey(before), _grey(after))


def opposite_turn(
    sample: Sample, after: Sample | None, look: Callable[[Medium, Medium], Observed] = observe_frames
) -> tuple[bool, Observed | None]:
    """Whether a step and the next one can be compared, and what their frames show if that is the opposite turn.

    Compared are turns to a side, with the next step of the same episode and instruction, whose frames can be read.
    """
    if after is None or not sample.history or not after.history or after.group != sample.group:
        return False, None
    turn = parse(navigation_answer(sample)).kind
    before, later = sample.media[-1], after.media[-1]
    same = instruction(after) == instruction(sample)
    if turn not in ("left", "right") or not same or before is None or later is None or before == later:
        return False, None
    try:
        seen = look(before, later)
    except DataError:
        # Broken files are told as such.
        return False, None
    against = seen.motion == ("right" if turn == "left" else "left") and seen.confidence >= CONFIDENT
    return True, seen if against else None


def observe(before: NDArray[np.float64], after: NDArray[np.float64]) -> Observed:
    """The motion between two small grey pictures, (H, W) float64 each.

    Turning left moves the picture to the right. For every sideways move, the normalised cross-correlation of what both
    pictures show says how well it explains them (J. P. Lewis, Fast Normalized Cross-Correlation, 1995).
    """
    scores = _correlations(before, after)
    best: dict[Motion, float] = {
        "left": max(score for move, score in scores.items() if move >= LEAST),
        "right": max(score for move, score in scores.items() if move <= -LEAST),
        "forward": max(score for move, score in scores.items() if abs(move) < LEAST),
    }
    first, second, _ = sorted(best, key=best.__getitem__, reverse=True)
    if best[first] < ALIKE:
        return Observed(first, 0.0)
    return Observed(first, float(1 - (1 - best[first]) / max(1 - best[second], 1e-6)))


def _correlations(before: NDArray[np.float64], after: NDArray[np.float64]) -> dict[int, float]:
    """How alike the pictures are where they overlap, by the columns that the first is moved to the right; -1 to 1.

    All sums over an overlap come from running sums of columns and from the products of every column with every other.
    """
    height, width = before.shape
    products = before.T @ after
    (a, aa), (b, bb) = (
        [np.concatenate([[0.0], np.cumsum(sums)]) for sums in (p.sum(0), (p * p).sum(0))] for p in (before, after)
    )
    scores: dict[int, float] = {}
    for move in range(-REACH, REACH + 1):
        left, right = max(0, -move), max(0, move)
        count = height * (width - abs(move))
        first, second = a[width - right] - a[left], b[width - left] - b[right]
        spread = (aa[width - right] - aa[left] - first**2 / count) * (bb[width - left] - bb[right] - second**2 / count)
        both = float(np.trace(products, offset=move)) - first * second / count
        # Plain pictures are like everything and nothing.
        scores[move] = both / math.sqrt(spread) if spread > (1e-3 * count) ** 2 else 0.0
    return scores


def _grey(medium: Medium) -> NDArray[np.float64]:
    """(H, W) float64: the picture, small, all that `observe` needs of it."""
    return np.asarray(picture(medium).convert("L").resize(SIZE, Image.Resampling.BOX), np.float64)


def picture(medium: Medium) -> Image.Image:
    """A medium as an RGB image.

    Raises:
        DataError: it is missing or cannot be decoded.
    """
    if isinstance(medium, EditedFrame):
        return Image.fromarray(medium.edit(np.asarray(picture(medium.medium))))
    if isinstance(medium, VideoFrame):
        with open_file(medium.video) as video:
            return read_frames(video, [medium.index])[0]
    with open_file(medium) as file:
        return read_image(file)
