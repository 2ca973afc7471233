"""Measures equal NaVILA's and habitat's to 1e-9 on recorded walks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila_eval.navigation_metrics import (
    aggregate,
    distances_to_goal,
    episode_metrics,
    exact_dtw,
    fast_dtw,
    headline_values,
    without_repeats,
)
from navila_eval.statistics import bootstrap_ci, paired_difference

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def walks(goldens: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    folder = goldens / "K_metrics"
    inputs = json.loads((folder / "navigation_inputs.json").read_text())["episodes"]
    outputs = {case["episode_id"]: case for case in json.loads((folder / "navigation_metrics.json").read_text())}
    return [(case, outputs[case["episode_id"]]) for case in inputs]


def measure(walk: dict[str, Any], steps: int) -> dict[str, float]:
    """Metrics after `steps` primitives, the geodesic distance being Euclidean as in the golden run."""
    positions = [tuple(position) for position in walk["positions"][: steps + 1]]

    def geodesic(position: tuple[float, float, float]) -> float:
        return math.inf if walk["unreachable"] else min(math.dist(position, goal) for goal in walk["goals"])

    last = steps == len(walk["positions"]) - 1
    return episode_metrics(
        np.asarray(positions, np.float32),
        distances_to_goal(positions, geodesic),
        stopped=last and walk["stop"],
        gt_locations=walk["gt_locations"],
    )


def assert_equal(got: dict[str, float], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert got[name] == pytest.approx(float(value), abs=TOLERANCE, nan_ok=True), name


def test_final_measures_equal_the_recorded_ones(walks: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    assert len(walks) == 70
    for walk, expected in walks:
        assert_equal(measure(walk, len(walk["positions"]) - 1), expected["final"])


def test_measures_at_reset_and_after_each_step_equal_the_recorded_ones(
    walks: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    checked = 0
    for walk, expected in walks:
        assert_equal(measure(walk, 0), expected["at_reset"])
        for step, values in enumerate(expected.get("per_step", [])):
            assert_equal(measure(walk, step), values)
            checked += 1
    assert checked > 100


def test_warping_distances_equal_fastdtw_and_an_exact_implementation(
    walks: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    differ = 0
    for walk, expected in walks:
        path = without_repeats([tuple(position) for position in walk["positions"]])
        assert fast_dtw(path, walk["gt_locations"]) == pytest.approx(expected["fastdtw_radius1"], abs=TOLERANCE)
        exact = exact_dtw(path, walk["gt_locations"])
        assert exact == pytest.approx(expected["exact_dtw_1.4.0"], abs=TOLERANCE)
        differ += exact < expected["fastdtw_radius1"] - 1e-6
    assert differ > 0


def test_aggregate_equals_the_original_script_and_counts_invalid_values_as_zero_on_request(goldens: Path) -> None:
    golden = json.loads((goldens / "K_metrics" / "aggregate.json").read_text())
    rows = [
        {name: float(value) for name, value in episode.items()}
        for chunk in golden["chunks"]
        for episode in chunk.values()
    ]
    assert aggregate(rows) == pytest.approx(golden["stats"], abs=TOLERANCE)
    as_zero = aggregate(rows, invalid="zero")
    assert as_zero["mean_spl"] == pytest.approx(golden["stats"]["mean_spl"] * 68 / 70, abs=TOLERANCE)
    assert as_zero["mean_distance_to_goal"] == pytest.approx(
        golden["stats"]["mean_distance_to_goal"] * 68 / 70, abs=TOLERANCE
    )
    assert as_zero["mean_success"] == golden["stats"]["mean_success"]


def test_worked_examples() -> None:
    reference = [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0)]
    walked = [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 2.0)]
    metrics = episode_metrics(walked, [12.0, 6.0, 6.0, 3.0], stopped=True, gt_locations=reference)
    assert metrics["ndtw_exact"] == pytest.approx(math.exp(-1 / 6))
    assert metrics["success"] == 0.0, "exactly 3 m is a failure"
    assert metrics["steps_taken"] == 3
    detour = [(0.0, 0.0, 0.0), (12.5, 0.0, 0.0)]
    assert episode_metrics(detour, [10.0, 1.0], stopped=True, gt_locations=reference)["spl"] == pytest.approx(0.8)
    shortcut = [(0.0, 0.0, 0.0), (8.0, 0.0, 0.0)]
    assert episode_metrics(shortcut, [10.0, 1.0], stopped=True, gt_locations=reference)["spl"] == 1.0
    time_out = episode_metrics(shortcut, [10.0, 1.0], stopped=False, gt_locations=reference)
    assert (time_out["success"], time_out["oracle_success"]) == (0.0, 1.0)


def test_a_goal_radius_of_its_own_scales_success_and_ndtw() -> None:
    walked = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0)]
    reference = [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0)]
    wide = episode_metrics(walked, [2.0, 1.0], stopped=True, gt_locations=reference)
    narrow = episode_metrics(walked, [2.0, 1.0], stopped=True, gt_locations=reference, success_distance=1.0)
    assert (wide["success"], narrow["success"]) == (1.0, 0.0)
    assert wide["ndtw"] == pytest.approx(math.exp(-1 / (2 * 3.0)))
    assert narrow["ndtw"] == pytest.approx(math.exp(-1 / (2 * 1.0)))


def test_an_unreachable_goal_counts_as_a_failed_episode_in_the_headline() -> None:
    rows = [
        episode_metrics([(0, 0, 0), (1, 0, 0)], [math.inf, math.inf], stopped=True, gt_locations=[(0, 0, 0)]),
        episode_metrics([(0, 0, 0), (1, 0, 0)], [1.0, 0.5], stopped=True, gt_locations=[(0, 0, 0)]),
    ]
    values = headline_values(rows)
    assert values["spl"] == [0.0, 1.0]
    assert values["ne"] == [0.5]
    assert values["sr"] == [0.0, 1.0]


def test_bootstrap_interval_is_seeded_and_covers_the_mean() -> None:
    values = [0.0] * 12 + [1.0] * 8
    low, high = bootstrap_ci(values) or (0, 0)
    assert 0.15 <= low < 0.4 < high <= 0.65
    scattered = list(np.random.default_rng(3).normal(0.0, 1.0, 30))
    assert bootstrap_ci(scattered) == bootstrap_ci(scattered)
    assert bootstrap_ci(scattered, seed=1) != bootstrap_ci(scattered)
    assert bootstrap_ci([]) is None
    assert bootstrap_ci([0.5]) == (0.5, 0.5)


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_ci(list(rng.normal(0.0, 1.0, 50)), resamples=400, seed=trial) or (0, 0)
        covered += low <= 0.0 <= high
    assert 180 <= covered <= 198


def test_paired_difference_is_narrower_than_the_two_intervals_when_episodes_agree() -> None:
    first = [float(i % 2) for i in range(40)]
    second = [value if i else 1.0 - value for i, value in enumerate(first)]
    difference, (low, high) = paired_difference(first, second)
    assert difference == pytest.approx(-1 / 40)
    assert high - low < 0.1
    with pytest.raises(ValueError, match="equally many"):
        paired_difference([1.0], [])
