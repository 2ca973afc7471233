"""Training data of an evaluation's walks: the expert's word on every mistake, and the way back to the goal."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from navila.actions import FORWARD, LEFT, RIGHT, STOP, parse
from navila.errors import ConfigError, DataError, SceneError
from navila.plugins import default_host
from navila.simulation import Embodiment
from navila_data.procedural import RecordSettings
from navila_data.recording import record
from navila_data.replays import ReplayRecorder, ReplaySettings
from navila_data.walks import WalkRecorder

pytest.importorskip("navila_sim_mesh", reason="needs the plugin navila-sim-mesh")

BODY = Embodiment(name="tiny", width=24, height=24)
#: A model that turns away, walks on and stops: nowhere near a goal.
WALKED = [LEFT, LEFT, FORWARD, STOP]


@pytest.fixture(scope="module")
def simulator() -> Any:
    return default_host().registry("simulator").load("mesh")(embodiment=BODY)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def run(simulator: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation: two walks that failed, one that succeeded, one that broke off."""
    folder = tmp_path_factory.mktemp("run")
    episodes = simulator.make_episodes(level=0, seed=5, count=4)
    lines = []
    for number, episode in enumerate(episodes):
        expert = number == 2
        seen = [simulator.reset(episode)]
        primitives: list[int] = []
        while not primitives or primitives[-1] != STOP:
            primitive = (
                simulator.expert_action(episode.goals[0], episode.goal_radius) if expert else WALKED[len(primitives)]
            )
            primitives.append(primitive)
            seen.append(simulator.step(primitive))
        near = min(math.dist(seen[-1].position, goal) for goal in episode.goals) < episode.goal_radius
        assert near == expert
        lines.append(
            {
                "episode_id": episode.episode_id,
                "scene_id": episode.scene_id,
                "outcome": "failed" if number == 3 else "stopped",
                "goals": episode.goals,
                "success_distance": episode.goal_radius,
                "episode_instruction": episode.instruction,
                "positions": [observation.position for observation in seen],
                "rotations": [observation.rotation for observation in seen],
                "primitives": primitives,
                "decisions": [{"step": 0}, {"step": 2}, {"step": 3}],
                "metrics": {"success": float(expert)},
            }
        )
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps({"run": {"embodiment": dataclasses.asdict(BODY)}}))
    (folder / "results.json").write_text("{}")
    return folder


def annotations(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "annotations.json").read_text())


def by_walk(folder: Path) -> dict[str, list[dict[str, Any]]]:
    walks: dict[str, list[dict[str, Any]]] = {}
    for entry in annotations(folder):
        walks.setdefault(entry["video_id"].rpartition("-")[0], []).append(entry)
    return walks


def test_mistakes_are_labelled_and_the_expert_leads_on_to_the_goal(run: Path, simulator: Any, tmp_path: Path) -> None:
    record(ReplaySettings(run=run), tmp_path / "all")
    walks = by_walk(tmp_path / "all")
    assert len(walks) == 3, "a walk that broke off teaches nothing"
    lines = {line["episode_id"]: line for line in map(json.loads, (run / "episodes.jsonl").read_text().splitlines())}
    for name, steps in walks.items():
        walk = lines[name.partition("_")[2]]
        assert [len(step["frames"]) for step in steps] == list(range(1, len(steps) + 1))
        assert {step["q"] for step in steps} == {walk["episode_instruction"]}
        # Whoever follows the labels from the end of the walk reaches the goal, and only there is told to stop.
        assert [parse(step["a"]).kind == "stop" for step in steps] == [False] * (len(steps) - 1) + [True]
        episode = next(e for e in simulator.make_episodes(level=0, seed=5, count=4) if e.episode_id in name)
        seen = simulator.reset(episode)
        way = [*walk["primitives"][:-1], *(parse(step["a"]).primitives[0] for step in steps[len(WALKED) - 1 :])]
        for primitive in way if not walk["metrics"]["success"] else walk["primitives"]:
            seen = simulator.step(primitive)
        assert min(math.dist(seen.position, goal) for goal in episode.goals) < episode.goal_radius


def test_only_what_is_wanted_is_kept(run: Path, tmp_path: Path) -> None:
    record(ReplaySettings(run=run, walks="failed", mistakes=True, recover=False), tmp_path / "few")
    for steps in by_walk(tmp_path / "few").values():
        # The step of the wrong stop is always a mistake; its label is where to go instead.
        assert steps[-1]["video_id"].endswith(f"-{len(WALKED) - 1}")
        for step in steps:
            number = len(step["frames"]) - 1
            assert parse(step["a"]).primitives[0] != WALKED[number]
    record(ReplaySettings(run=run, rebalance="stop=5"), tmp_path / "stops")
    once = Counter(parse(entry["a"]).kind for entry in annotations(_recorded(run, tmp_path / "once")))
    often = Counter(parse(entry["a"]).kind for entry in annotations(tmp_path / "stops"))
    assert often == {**once, "stop": 5 * once["stop"]}


def _recorded(run: Path, folder: Path) -> Path:
    record(ReplaySettings(run=run), folder)
    return folder


def test_no_stop_is_labelled_where_the_expert_finds_no_way_on(run: Path, simulator: Any) -> None:
    recorder = ReplayRecorder(ReplaySettings(run=run))
    walk = json.loads((run / "episodes.jsonl").read_text().splitlines()[0])
    episode = next(e for e in simulator.make_episodes(level=0, seed=5, count=4) if e.episode_id == walk["episode_id"])
    stuck = simulator.fork()
    stuck.expert_run = lambda goals, radius, longest: (STOP,)
    with pytest.raises(SceneError, match=r"is stuck \d\.\d m before its goal"):
        recorder.replay(stuck, episode, walk)


def test_what_cannot_be_repeated_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no complete run"):
        record(ReplaySettings(run=tmp_path), tmp_path / "out")
    with pytest.raises(ConfigError, match="expert_share is for a policy"):
        RecordSettings(expert_share=0.5)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("run.json", "results.json"):
        (moved / name).write_text((run / name).read_text())
    walk = json.loads((run / "episodes.jsonl").read_text().splitlines()[0])
    walk["positions"][3][0] += 1.0
    (moved / "episodes.jsonl").write_text(json.dumps(walk) + "\n")
    with pytest.raises(SceneError, match=r"leads elsewhere in 'mesh' than when it was walked \(step 3\)"):
        record(ReplaySettings(run=moved), tmp_path / "out")


def test_detours_and_the_expert_take_turns_with_a_policy_that_sees_every_frame() -> None:
    seen: list[Any] = []

    def act(rgb: Any) -> Any:
        seen.append(rgb)
        return SimpleNamespace(primitives=(LEFT, LEFT))

    def decided(**settings: float) -> set[tuple[int, ...]]:
        recorder = WalkRecorder(RecordSettings())
        recorder.settings = dataclasses.replace(recorder.settings, policy="somebody", **settings)
        recorder.navigator = SimpleNamespace(act=act)  # type: ignore[assignment]
        generator = np.random.default_rng(0)
        return {tuple(recorder.decide((FORWARD,), number, generator)) for number in range(200)}  # type: ignore[arg-type]

    detours = {(kind,) * count for kind in (LEFT, RIGHT) for count in (1, 2, 3)}
    assert decided() == {(LEFT, LEFT)}
    assert decided(expert_share=0.5) == {(LEFT, LEFT), (FORWARD,)}
    assert decided(perturb=0.5) == detours
    assert decided(perturb=0.3, expert_share=0.3) == {*detours, (FORWARD,)}
    assert seen == list(range(200)) * 4
