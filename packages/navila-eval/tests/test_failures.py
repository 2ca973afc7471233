"""Why walks fail, on walks drawn by hand; and figures of parts of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from navila.errors import ConfigError
from navila_eval.breakdowns import breakdowns, failure_counts
from navila_eval.failures import FAILURES, Failure, failure_of
from navila_eval.navigation_results import finish_run, rescore_at
from navila_eval.recorded import compare
from navila_eval.run_folder import RunFolder
from navila_eval.runner import rescore_runs
from navila_eval.sensitivity import sensitivity
from navila_eval.walk import score

#: The goal is 6 m ahead, along -z; success within 1 m.
GOAL = (0.0, 0.0, -6.0)
PATH = [(0.0, 0.0, -0.25 * step) for step in range(25)]


def record(primitives: Sequence[int], *, walls: Sequence[tuple[float, float]] = (), **more: Any) -> dict[str, Any]:
    """A walk in an empty world, or with places (x, z) round which forward goes nowhere."""
    x, z, heading = 0.0, 0.0, 0
    positions, collided = [(x, 0.0, z)], []
    for primitive in primitives:
        heading += {2: 1, 3: -1}.get(primitive, 0)
        angle = math.radians(15 * heading)
        there = x - 0.25 * math.sin(angle), z - 0.25 * math.cos(angle)
        hit = primitive == 1 and any(math.dist(there, wall) < 0.3 for wall in walls)
        if primitive == 1 and not hit:
            x, z = there
        collided.append(hit)
        positions.append((x, 0.0, z))
    made = {
        "episode_id": "e",
        "scene_id": "s",
        "outcome": "stopped" if primitives and primitives[-1] == 0 else "time-out",
        "success_distance": 1.0,
        "goals": [GOAL],
        "gt_locations": PATH,
        "positions": positions,
        "distances": [math.dist(position, GOAL) for position in positions],
        "primitives": list(primitives),
        "collided": collided,
        **more,
    }
    return {**made, "metrics": score(made)}


WALKS = {
    "success": (record([1] * 24 + [0]), None),
    "no-stop": (record([1] * 24), 24),
    # Within 1 m from step 21 to 27, out again after 28.
    "overshoot": (record([1] * 34 + [0]), 28),
    "collision": (record([1] * 12 + [0], walls=[(0.0, -1.5)]), 4),
    "loop": (record(([1] * 4 + [2] * 6) * 6 + [0]), None),
    "wrong-turn": (record([1] * 8 + [2] * 6 + [1] * 10 + [0]), 17),
    "early-stop": (record([1] * 10 + [0]), 11),
    "too-slow": (record([1] * 10), 10),
    "simulator": (record([1, 1], outcome="failed", distances=[]), 2),
}


@pytest.mark.parametrize("kind", WALKS)
def test_a_walk_fails_in_one_way(kind: str) -> None:
    walk, step = WALKS[kind]
    found = failure_of(walk)
    if kind == "success":
        assert found is None
    else:
        assert found is not None
        assert found.kind == kind
        assert step is None or found.step == step
    assert (found is None) == (walk["metrics"]["success"] == 1.0)


def test_turning_round_twice_on_the_spot_is_a_loop_and_looking_about_is_none() -> None:
    assert failure_of(record([1] * 4 + [2] * 48 + [0])) == Failure(kind="loop", step=4)
    about = failure_of(record([1] * 4 + [2] * 24 + [3] * 24 + [0]))
    assert about is not None
    assert about.kind == "early-stop"


def test_without_an_experts_path_a_wrong_turn_is_one_away_from_the_goal() -> None:
    away = failure_of(record([2] * 12 + [1] * 8 + [0], gt_locations=[]))
    assert away == Failure(kind="wrong-turn", step=15)
    near = failure_of(record([1] * 10 + [0], gt_locations=[]))
    assert near is not None
    assert near.kind == "early-stop"


def test_parts_of_a_run_add_up_to_it() -> None:
    walks = [walk for walk, _ in WALKS.values()]
    walks = [{**walk, "scene_id": f"s{number % 2}"} for number, walk in enumerate(walks)]
    counts = failure_counts(walks)
    assert list(counts) == list(FAILURES)
    assert set(counts.values()) == {1}
    parts = breakdowns(walks)
    assert {name: part["episodes"] for name, part in parts["scene"].items()} == {"s0": 5, "s1": 4}
    assert list(parts["length"]) == ["5 to 7.5 m", "unknown"]
    for by in parts.values():
        assert sum(part["episodes"] * part["sr"] for part in by.values()) == pytest.approx(1.0)


LEFT = {"step": 0, "text": "The next action is turn left 30 degree.", "primitives": [2, 2], "status": "ok"}


def test_another_success_distance_changes_what_a_run_came_to_and_not_the_run(tmp_path: Path) -> None:
    folder = complete_run(tmp_path, [record([1] * 10 + [0], episode_id="near"), record([1] * 24 + [0])])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (label, results), *_ = rescore_runs(tmp_path, success_distance=4.0)
    assert label == "walks within 4 m"
    assert not isinstance(results, Exception)
    assert results.metrics["sr"] == 1.0
    assert results.written == "rescored-4m.json"
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == {**before, "rescored-4m.json": after["rescored-4m.json"]}
    assert json.loads(after["rescored-4m.json"])["aggregate"]["navila"]["mean_success"] == 1.0
    with pytest.raises(ConfigError, match="--success-distance is nan: give metres"):
        rescore_at(folder, math.nan)


def test_what_a_swapped_instruction_changes_is_told_of_the_episodes_it_was_given_in(tmp_path: Path) -> None:
    told = {"episode_instruction": "Turn left.", "instruction": "Turn left."}
    left = record([2, 2, 1, 1, 0], **told, decisions=[LEFT])
    same = record([1, 1, 0], episode_id="same", episode_instruction="Go.", instruction="Go.", decisions=[])
    first = complete_run(tmp_path / "first", [left, same])
    swapped = {**told, "instruction": "Turn right."}
    right = record([2, 2, 1, 3, 1, 0], **swapped, decisions=[LEFT])
    found = sensitivity(first, complete_run(tmp_path / "second", [right, same]))
    assert found is not None
    assert (found.episodes, found.same_walk, found.same_start, found.first_difference) == (1, 0.0, 1.0, 3)
    assert found.end_apart == pytest.approx(math.dist(left["positions"][-1], right["positions"][-1]))
    assert found.differences["steps"][0] == 1.0
    assert sensitivity(first, first) is None


def test_an_agent_that_found_nothing_to_change_in_the_instructions_is_told_of(tmp_path: Path) -> None:
    walk = record([1, 1, 0], episode_instruction="Go.", instruction="Go.")
    first = complete_run(tmp_path / "first", [walk], agent="model")
    second = complete_run(tmp_path / "second", [walk], agent="swapped-sides")
    shown = CliRunner().invoke(compare, [str(first), str(second)])
    assert "No episode was told something else" in shown.output
    assert "told something else" not in CliRunner().invoke(compare, [str(first), str(first)]).output


def complete_run(parent: Path, walks: Sequence[dict[str, Any]], agent: str = "model") -> Path:
    """A folder with the records of walks, finished."""
    folder = RunFolder(parent / "walks")
    run = {"task": "walks", "split": "val", "episodes": len(walks), "seed": 0, "agent": agent}
    folder.open(run)
    for walk in walks:
        walk.setdefault("decisions", [])
        walk.setdefault("error", None)
    finish_run(folder, walks, run, lambda records: {})
    return folder.path
