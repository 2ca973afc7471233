"""Measures of one walk and their means over episodes: pure functions of what was recorded.

Definitions are those of habitat-lab 0.1.7 and VLN-CE as NaVILA reported them: Anderson et al., "On Evaluation of
Embodied Navigation Agents" (SPL); Ilharco et al., "General Evaluation for Instruction Conditioned Navigation using
Dynamic Time Warping" (nDTW, SDTW).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from fastdtw import fastdtw  # pyright: ignore[reportAttributeAccessIssue]
from navila.simulation import Position
from numpy.typing import NDArray

#: (T + 1, 3) metres, as tuples or as an array.
Positions = Sequence[Position] | NDArray[np.floating]

#: Metres to the goal under which a stop is a success in R2R-CE and RxR-CE.
SUCCESS_DISTANCE = 3.0

#: Name in tables and results -> measure of an episode it is the mean of.
HEADLINE = {
    "sr": "success",
    "spl": "spl",
    "os": "oracle_success",
    "ne": "distance_to_goal",
    "ndtw": "ndtw",
    "ndtw_exact": "ndtw_exact",
    "sdtw": "sdtw",
    "cls": "cls",
    "pl": "path_length",
    "steps": "steps_taken",
    "collisions": "collisions",
}


def distances_to_goal(positions: Iterable[Position], geodesic: Callable[[Position], float]) -> list[float]:
    """Geodesic distance in metres at each position; not asked again while the agent moves under 0.1 mm (as habitat)."""
    distances: list[float] = []
    measured_at: Position | None = None
    for position in positions:
        if measured_at is not None and np.allclose(measured_at, position, atol=1e-4):
            distances.append(distances[-1])
        else:
            distances.append(float(geodesic(position)))
            measured_at = position
    return distances


def episode_metrics(
    positions: Positions,
    distances: Sequence[float],
    *,
    stopped: bool,
    gt_locations: Sequence[Position],
    success_distance: float = SUCCESS_DISTANCE,
    collisions: int = 0,
) -> dict[str, float]:
    """All measures of one walk.

    Args:
        positions: p_0 (reset) … p_T (after the last primitive), metres.
        distances: geodesic distance to the nearest goal at each position, metres; `inf` where it cannot be reached.
        stopped: whether the last primitive was STOP (False on time-out).
        gt_locations: dense expert path; nDTW is NaN when empty.
        success_distance: d_th of success, oracle success and nDTW, metres; success needs strictly less.
    """
    length = path_length(positions)
    positions = [(float(x), float(y), float(z)) for x, y, z in positions]
    success = float(stopped and distances[-1] < success_distance)
    spl = _spl(success, distances[0], length)
    reference = len(gt_locations) * success_distance
    walked = without_repeats(positions)
    ndtw = math.exp(-fast_dtw(walked, gt_locations) / reference) if reference else math.nan
    exact = math.exp(-exact_dtw(walked, gt_locations) / reference) if reference else math.nan
    return {
        "distance_to_goal": float(distances[-1]),
        "success": success,
        "spl": spl,
        "oracle_success": float(min(distances) < success_distance),
        "oracle_navigation_error": float(min(distances)),
        "oracle_spl": 0.0 if math.isnan(spl) else spl,
        "ndtw": ndtw,
        "ndtw_exact": exact,
        "sdtw": success * ndtw,
        "cls": coverage_weighted_by_length(positions, gt_locations, success_distance) if gt_locations else math.nan,
        "path_length": length,
        "steps_taken": float(len(positions) - 1),
        "collisions": float(collisions),
    }


def path_length(positions: Positions) -> float:
    """Sum of the Euclidean distances between consecutive positions in metres, heights included.

    Each step is measured in the precision of the positions: habitat's are float32, and its published figures so.
    """
    points = np.asarray(positions)
    return float(sum(float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(points)))


def _spl(success: float, shortest: float, length: float) -> float:
    """Success weighted by path length; NaN when the goal cannot be reached (0 · inf / inf), as habitat has it."""
    if math.isinf(shortest):
        return math.nan
    longest = max(shortest, length)
    return success * shortest / longest if longest > 0 else success


def without_repeats(positions: Sequence[Position]) -> list[Position]:
    """The positions without consecutive exact duplicates, so that turns and blocked moves add nothing to DTW."""
    return [position for position, _ in itertools.groupby(map(tuple, positions))]  # pyright: ignore[reportReturnType]


def fast_dtw(path: Sequence[Position], reference: Sequence[Position]) -> float:
    """FastDTW with radius 1 and Euclidean distance, which published nDTW figures depend on."""
    distance, _ = fastdtw(np.asarray(path, float), np.asarray(reference, float), radius=1, dist=_euclidean)
    return float(distance)


def _euclidean(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return math.dist(a, b)


def exact_dtw(path: Sequence[Position], reference: Sequence[Position]) -> float:
    """Dynamic time warping distance, exactly: minimum over all monotone alignments of the summed Euclidean distance."""
    a, b = np.asarray(path, float), np.asarray(reference, float)
    costs = np.linalg.norm(a[:, None] - b[None], axis=-1).tolist()
    previous = list(np.cumsum(costs[0]))
    for row in costs[1:]:
        best = previous[0] + row[0]
        current = [best]
        for j in range(1, len(row)):
            best = row[j] + min(best, previous[j], previous[j - 1])
            current.append(best)
        previous = current
    return float(previous[-1])


def coverage_weighted_by_length(
    path: Sequence[Position], reference: Sequence[Position], threshold: float = SUCCESS_DISTANCE
) -> float:
    """CLS: how much of `reference` the path comes by, times how near its length is to that of what it came by.

    Jain et al., "Stay on the Path: Instruction Fidelity in Vision-and-Language Navigation", equations 3 to 6.
    """
    a, b = np.asarray(path, float), np.asarray(reference, float)
    nearest = np.linalg.norm(b[:, None] - a[None], axis=-1).min(axis=1)
    coverage = float(np.exp(-nearest / threshold).mean())
    expected = coverage * path_length(reference)
    difference = abs(expected - path_length(path))
    return coverage * (expected / (expected + difference) if expected + difference > 0 else 1.0)


def aggregate(
    episodes: Iterable[Mapping[str, float]], invalid: Literal["exclude", "zero"] = "exclude"
) -> dict[str, float | int | None]:
    """Means over episodes in the layout of NaVILA's `eval_jsons.py`.

    Args:
        episodes: the measures of each.
        invalid: what a distance or SPL that is not finite does: leave its own denominator (NaVILA's tables) or count as
            0 (NaVid's).
    """
    rows = list(episodes)

    def mean(name: str) -> float | None:
        values = [float(row[name]) for row in rows]
        finite = [value for value in values if math.isfinite(value)]
        count = len(finite) if invalid == "exclude" else len(values)
        return math.fsum(finite) / count if count else None

    return {
        "mean_distance_to_goal": mean("distance_to_goal"),
        "mean_success": mean("success"),
        "mean_spl": mean("spl"),
        "mean_ndtw": mean("ndtw"),
        "mean_path_length": mean("path_length"),
        "mean_oracle_success": mean("oracle_success"),
        "mean_steps_taken": mean("steps_taken"),
        "total_episodes": len(rows),
        "invalid_spls": sum(not math.isfinite(row["spl"]) for row in rows),
        "invalid_distances": sum(not math.isfinite(row["distance_to_goal"]) for row in rows),
    }


def headline_values(episodes: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Per-episode values behind each headline figure; one that is not finite does not count.

    SPL counts 0 where the goal cannot be reached, and not at all where there is none.
    """
    rows = list(episodes)
    values: dict[str, list[float]] = {}
    for name, measure in HEADLINE.items():
        # Runs recorded before a measure was there do without.
        column = [float(row.get(measure, math.nan)) for row in rows]
        if name == "spl":
            known = [value for value, row in zip(column, rows, strict=True) if math.isfinite(row["success"])]
            values[name] = [value if math.isfinite(value) else 0.0 for value in known]
        else:
            values[name] = [value for value in column if math.isfinite(value)]
    return values
