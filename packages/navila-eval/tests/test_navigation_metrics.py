"""Measures equal NaVILA's and habitat's to 1e-9 on recorded walks."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.actions import parse
from navila.simulation import Embodiment
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
from navila_eval.walk import own_primitives, score

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


def brute_force(
    path: list[tuple[float, ...]], left: list[float], stopped: bool, truth: list[tuple[float, ...]], radius: float
) -> dict[str, float]:
    """The published formulas, term by term."""
    moved = [p for i, p in enumerate(path) if i == 0 or p != path[i - 1]]

    @functools.cache
    def warped(i: int, j: int) -> float:
        if i < 0 or j < 0:
            return 0.0 if i == j else math.inf
        return math.dist(moved[i], truth[j]) + min(warped(i - 1, j), warped(i, j - 1), warped(i - 1, j - 1))

    def length(points: list[tuple[float, ...]]) -> float:
        return sum(math.dist(a, b) for a, b in itertools.pairwise(points))

    success = float(stopped and left[-1] < radius)
    ndtw = math.exp(-warped(len(moved) - 1, len(truth) - 1) / (len(truth) * radius))
    coverage = sum(math.exp(-min(math.dist(r, p) for p in path) / radius) for r in truth) / len(truth)
    expected = coverage * length(truth)
    return {
        "success": success,
        "oracle_success": float(any(metres < radius for metres in left)),
        "distance_to_goal": left[-1],
        "path_length": length(path),
        "spl": success * left[0] / max(left[0], length(path)),
        "ndtw_exact": ndtw,
        "cls": coverage * expected / (expected + abs(expected - length(path))),
        "steps_taken": len(path) - 1,
    }


@pytest.mark.parametrize("seed", range(20))
def test_measures_of_random_walks_equal_those_of_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    corner, path = (0.0, 0.0, 0.0), [(0.0, 0.0, 0.0)]
    truth = [corner]
    for points, count in ((path, rng.randint(1, 40)), (truth, rng.randint(1, 30))):
        for _ in range(count):
            turning = rng.random() < 0.3
            step = (0.0, 0.0, 0.0) if turning and points is path else [rng.uniform(-0.3, 0.4) for _ in range(3)]
            points.append(tuple(a + b for a, b in zip(points[-1], step, strict=True)))
    goal, stopped, radius = truth[-1], rng.random() < 0.7, rng.choice([1.0, 3.0])
    left = [math.dist(position, goal) for position in path]
    got = episode_metrics(path, left, stopped=stopped, gt_locations=truth, success_distance=radius)
    expected = brute_force(path, left, stopped, truth, radius)
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=TOLERANCE)
    assert got["sdtw"] == got["success"] * got["ndtw"]
    assert got["ndtw"] <= got["ndtw_exact"] + TOLERANCE


def test_walks_without_goal_are_in_no_mean() -> None:
    record = {
        "outcome": "stopped",
        "goals": (),
        "gt_locations": (),
        "positions": [(0.0, 0.0, 0.0), (0.25, 0.0, 0.0), (0.25, 0.0, 0.0)],
        "primitives": [1, 0],
        "collided": [False, False],
    }
    walked = score(record)
    assert (walked["path_length"], walked["steps_taken"]) == (0.25, 2)
    values = headline_values([walked, score({**record, "outcome": "failed"})])
    assert not any(values[name] for name in ("sr", "spl", "os", "ne", "ndtw", "ndtw_exact", "sdtw", "cls"))
    assert values["pl"] == [0.25, 0.0]


def test_an_answer_in_degrees_is_executed_in_the_bodys_own_turns() -> None:
    answers = {"turn left 30 degree": (2,), "turn right 45 degree": (3, 3), "turn left 15 degree": (2,)}
    for answer, primitives in answers.items():
        action = parse(f"The next action is {answer}.")
        assert own_primitives(action, Embodiment(turn_angle=30.0)) == primitives
        assert own_primitives(action, Embodiment()) == action.primitives
    assert own_primitives(parse("stop"), Embodiment(turn_angle=30.0)) == (0,)
    assert own_primitives(parse("The next action is move forward 50 cm."), Embodiment(turn_angle=30.0)) == (1, 1)


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
