"""A needle in a haystack of frames, as LongVA asks for it: frames shown, depth of the needle, how often it is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from navila_eval.scoring.text import mean


@dataclass(frozen=True, kw_only=True)
class NeedleResult:
    """One needle asked for once."""

    frames: int
    """How many frames of the haystack were shown."""
    depth: float
    """Where the needle stood, 0 (first) … 1 (last)."""
    found: float
    """1 if every token of the answer was the likeliest one, else 0."""


@dataclass(frozen=True, kw_only=True)
class NeedleGrid:
    """Mean score of every combination: what a heat map shows."""

    frames: tuple[int, ...]
    """Columns, rising."""
    depths: tuple[float, ...]
    """Rows, rising."""
    scores: tuple[tuple[float | None, ...], ...]
    """(depths, frames); None where nothing was measured."""
    score: float
    """Mean over the measured cells, each alike: the benchmark's figure."""


def frame_counts(low: int, high: int, step: int) -> list[int]:
    """Numbers of frames from `low` to `high`, both included where the step hits them.

    Raises:
        ValueError: the step is not positive.
    """
    return list(range(low, high + 1, step))


def depths(step: float) -> list[float]:
    """Depths 0 … 1 by steps, without the drift of adding them up.

    Raises:
        ValueError: the step is not in (0, 1].
    """
    if not 0 < step <= 1:
        raise ValueError(f"a depth interval is over 0 and at most 1, not {step}")
    return [round(index * step, 6) for index in range(int(1 / step + 1e-9) + 1)]


def needle_index(depth: float, frames: int) -> int:
    """Before which of the frames the needle is put in."""
    return int(depth * frames)


def token_match(predicted: Sequence[int], answer: Sequence[int]) -> float:
    """1 if the likeliest token at every position of the answer is the answer's."""
    return float(list(predicted) == list(answer))


def needle_grid(results: Iterable[NeedleResult]) -> NeedleGrid:
    """Mean over needles of every (frames, depth); several of one cell are averaged, in whatever order they come."""
    cells: dict[tuple[float, int], list[float]] = {}
    for result in results:
        cells.setdefault((result.depth, result.frames), []).append(result.found)
    columns = tuple(sorted({frames for _, frames in cells}))
    rows = tuple(sorted({depth for depth, _ in cells}))
    means = {cell: mean(values) for cell, values in cells.items()}
    return NeedleGrid(
        frames=columns,
        depths=rows,
        scores=tuple(tuple(means.get((depth, frames)) for frames in columns) for depth in rows),
        score=mean([means[cell] for cell in sorted(means)]),
    )
