"""Boxes named in words: RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from navila_eval.scoring.text import mean

#: Left, top, right, bottom; pixels, or fractions of width and height.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class BoxFormat:
    """How a model writes a box, by a name of NaVILA's code: words of it decide, in any combination."""

    name: str
    """Contains `standard`: fractions; `000`: thousandths of three digits; neither: thousandths, or else fractions.
    Contains `llava`: of the image padded to a square; otherwise of the image as it is."""

    def parse(self, text: str, height: int, width: int) -> Box:
        """Pixels of the box that `text` says (NaVILA's `postprocess_2d_grounding`).

        The first and the last character are dropped whatever they are, and `[0, 0, 1, 1]` is read as 0, 0, .1, .1
        unless the format is `standard`.

        Raises:
            ValueError: there are not four numbers.
        """
        numbers = text.strip().removesuffix(".").strip()[1:-1].split(",")
        if len(numbers) != 4:
            raise ValueError(f"a box has four numbers, {text!r} does not")
        x1, y1, x2, y2 = self._fractions([number.strip() for number in numbers])
        if "llava" in self.name:
            side = max(width, height)
            left, top = (side - width) / 2, (side - height) / 2
            return x1 * side - left, y1 * side - top, x2 * side - left, y2 * side - top
        return x1 * width, y1 * height, x2 * width, y2 * height

    def _fractions(self, numbers: Sequence[str]) -> list[float]:
        if "standard" in self.name:
            return [float(number) for number in numbers]
        try:
            return [float(f"0.{number}") for number in numbers]
        except ValueError:
            if "000" in self.name:
                raise
            return [float(number) for number in numbers]


_FOUR_NUMBERS = re.compile(r"\[\s*" + r",\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")


def first_box(text: str | None) -> Box | None:
    """The first `[a, b, c, d]` of a reply as it stands, or None (lmms-eval's RefCOCO, which takes zeros then)."""
    match = _FOUR_NUMBERS.search(text or "")
    return None if match is None else (float(match[1]), float(match[2]), float(match[3]), float(match[4]))


def thousandth_boxes(text: str, height: int, width: int) -> list[Box]:
    """Every `[x1, y1, x2, y2]` of whole numbers in a text, read as decimals after `0.`, in pixels."""
    found = re.findall(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]", text)
    sizes = (width, height, width, height)
    boxes = [[float(f"0.{number}") * size for number, size in zip(box, sizes, strict=True)] for box in found]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes]


def iou(first: Sequence[float], second: Sequence[float], *, pixel: float = 0.0) -> float:
    """Intersection over union of two boxes; `pixel=1` counts a box's last pixel in, as NaVILA's RefCOCO does.

    Raises:
        ValueError: a box has not four numbers.
    """
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = first, second
    width = max(0.0, min(ax2, bx2) - max(ax1, bx1) + pixel)
    height = max(0.0, min(ay2, by2) - max(ay1, by1) + pixel)
    overlap = width * height
    union = (ax2 - ax1 + pixel) * (ay2 - ay1 + pixel) + (bx2 - bx1 + pixel) * (by2 - by1 + pixel) - overlap
    return overlap / union if union else 0.0


def center_hit(predicted: Sequence[float], truth: Sequence[float]) -> float:
    """1 if the middle of the predicted box lies within the true one (lmms-eval's Center_ACC)."""
    x, y = (predicted[0] + predicted[2]) / 2, (predicted[1] + predicted[3]) / 2
    return float(truth[0] <= x <= truth[2] and truth[1] <= y <= truth[3])


def refcoco_scores(pairs: Iterable[tuple[Box | None, Box]]) -> dict[str, float]:
    """lmms-eval's figures of pairs (predicted or None, true), boxes as fractions: mean IoU, ACC@t, Center_ACC."""
    rows = [((0.0, 0.0, 0.0, 0.0) if predicted is None else predicted, truth) for predicted, truth in pairs]
    ious = [iou(predicted, truth) for predicted, truth in rows]
    return {
        "IoU": mean(ious),
        **{f"ACC@{level}": mean([float(value >= level) for value in ious]) for level in (0.1, 0.3, 0.5, 0.7, 0.9)},
        "Center_ACC": mean([center_hit(predicted, truth) for predicted, truth in rows]),
    }


def refcoco_accuracy(
    predictions: Iterable[tuple[str, Sequence[float]]], annotations: Sequence[tuple[str, Box]], threshold: float = 0.5
) -> float:
    """NaVILA's accuracy of a split, a fraction: hits at IoU (with the last pixel) over all annotations.

    As in its script, every prediction is compared with the last annotation of its image id, and one that has not four
    numbers is a miss; a missing one too.

    Args:
        predictions: (image id, x1 y1 x2 y2 in pixels).
        annotations: (image id, x y width height in pixels).
    """
    truths: Mapping[str, Box] = {name: (x, y, x + width, y + height) for name, (x, y, width, height) in annotations}
    hits = sum(
        len(box) == 4 and name in truths and iou(box, truths[name], pixel=1.0) >= threshold for name, box in predictions
    )
    return hits / len(annotations) if annotations else 0.0
