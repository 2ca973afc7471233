"""Walking, recording, resuming and scoring episodes in real procedural houses."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from navila.actions import STOP, Action, parse
from navila.errors import ConfigError, DataError
from navila.plugins import default_host
from navila.simulation import Embodiment, Episode, Observation, ProceduralSimulator
from navila_eval.agents import Agent, ExpertAgent, RandomAgent, wrong_instruction
from navila_eval.benchmark import Results
from navila_eval.jsonl import read_jsonl
from navila_eval.navigation import NavigationTask, evaluate_agent
from navila_eval.navigation_results import rescored

mesh: Any = pytest.importorskip("navila_sim_mesh.simulator", reason="needs the plugin navila-sim-mesh")

BODY = Embodiment(name="tiny", width=24, height=24)


def goal_radius(episode: Episode) -> float:
    return episode.goal_radius


def simulators(count: int, kind: Callable[..., ProceduralSimulator] | None = None) -> list[ProceduralSimulator]:
    make: Any = kind or default_host().registry("simulator").load("mesh")
    return [make(embodiment=BODY) for _ in range(count)]


@functools.cache
def pool() -> list[ProceduralSimulator]:
    """Simulators that tests share, so that each builds its houses once."""
    return simulators(5)


@pytest.fixture(scope="module")
def task() -> NavigationTask:
    episodes = simulators(1)[0].make_episodes(level=0, seed=5, count=8)
    return NavigationTask(
        name="houses", split="level0", episodes=episodes, embodiment=BODY, max_steps=60, success_distance=goal_radius
    )


def walk(
    task: NavigationTask,
    agent: Agent[Any],
    folder: Path,
    *,
    sims: Sequence[ProceduralSimulator] | None = None,
    **options: Any,
) -> Results:
    identity = {"agent": agent.name, "seed": 0}
    return evaluate_agent(task, lambda: agent, sims or pool()[:3], folder, identity=identity, quiet=True, **options)


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    records, cut = read_jsonl(folder / "episodes.jsonl")
    assert not cut
    return {record["episode_id"]: record for record in records}


def numbers(results: Results) -> dict[str, Any]:
    """What a run came to, without when and where it ran."""
    return {key: value for key, value in results.content.items() if key != "manifest"}


class Saying(Agent[list[str]]):
    """Says fixed sentences, the last one for ever, and notes what it was shown."""

    name = "saying"

    def __init__(self, *sentences: str) -> None:
        self.sentences = sentences
        self.seen: dict[int, list[Observation]] = {}
        self._states: list[list[str]] = []

    def begin(self, episode: Episode, simulator: Any) -> list[str]:
        state = list(self.sentences)
        # Kept, so that no later one gets its id.
        self._states.append(state)
        self.seen[id(state)] = []
        return state

    def act(self, states: Sequence[list[str]], observations: Sequence[Observation]) -> list[Action]:
        for state, observation in zip(states, observations, strict=True):
            self.seen[id(state)].append(observation)
        return [parse(state.pop(0) if len(state) > 1 else state[0]) for state in states]

    def observe(self, state: list[str], observation: Observation) -> None:
        self.seen[id(state)].append(observation)


def test_the_expert_succeeds_along_its_own_path(task: NavigationTask, tmp_path: Path) -> None:
    results = walk(task, ExpertAgent(goal_radius), tmp_path)
    assert results.metrics["sr"] == 1.0
    assert results.metrics["spl"] == pytest.approx(1.0, abs=0.05)
    assert results.metrics["ndtw_exact"] == pytest.approx(1.0, abs=1e-6)
    assert results.count == len(task.episodes)


def test_a_record_holds_every_pose_output_and_distance(task: NavigationTask, tmp_path: Path) -> None:
    walk(task, Saying("The next action is turn left 30 degree.", "move forward", "The next action is stop."), tmp_path)
    for record in records_of(tmp_path).values():
        assert record["primitives"] == [2, 2, 1, 0]
        assert [d["text"] for d in record["decisions"]][-1] == "The next action is stop."
        assert [d["status"] for d in record["decisions"]] == ["ok", "unparsed", "ok"]
        assert [d["step"] for d in record["decisions"]] == [0, 2, 3]
        assert len(record["positions"]) == len(record["rotations"]) == len(record["distances"]) == 5
        assert len(record["collided"]) == 4
        assert record["outcome"] == "stopped"
        assert record["metrics"]["steps_taken"] == 4


def test_what_is_seen_before_each_primitive_reaches_the_agent(task: NavigationTask, tmp_path: Path) -> None:
    agent = Saying("The next action is turn left 45 degree.", "The next action is stop.")
    walk(task, agent, tmp_path, sims=pool()[:2])
    by_id = records_of(tmp_path)
    assert len(agent.seen) == len(by_id)
    shown = sorted([observation.rotation for observation in seen] for seen in agent.seen.values())
    # Three left turns: the start, two frames in between, then the decision to stop; never the frame after STOP.
    assert shown == sorted([tuple(r) for r in record["rotations"][:4]] for record in by_id.values())


def test_a_time_out_is_a_failure_and_drops_what_is_pending(task: NavigationTask, tmp_path: Path) -> None:
    from dataclasses import replace

    short = replace(task, max_steps=4)
    results = walk(short, Saying("The next action is turn left 45 degree."), tmp_path)
    for record in records_of(tmp_path).values():
        assert record["primitives"] == [2, 2, 2, 2]
        assert record["outcome"] == "time-out"
    assert results.metrics["sr"] == 0.0
    assert results.content["counters"]["timed_out"] == len(task.episodes)


def test_the_number_of_environments_changes_nothing(task: NavigationTask, tmp_path: Path) -> None:
    one = walk(task, RandomAgent(3), tmp_path / "one", sims=pool()[:1])
    many = walk(task, RandomAgent(3), tmp_path / "many", sims=pool())
    assert numbers(one) == numbers(many)
    assert records_of(tmp_path / "one") == records_of(tmp_path / "many")


def test_another_seed_walks_elsewhere(task: NavigationTask, tmp_path: Path) -> None:
    walk(task, RandomAgent(3), tmp_path / "three")
    walk(task, RandomAgent(4), tmp_path / "four")
    assert records_of(tmp_path / "three") != records_of(tmp_path / "four")


def test_files_are_strict_json_and_rescoring_needs_only_records(task: NavigationTask, tmp_path: Path) -> None:
    walk(task, RandomAgent(0), tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    for name in ("results.json", "aggregate.json", "run.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=refuse)
    assert rescored(records) == records


HELD_RUN = """
import sys, time
from pathlib import Path
from navila_eval.agents import RandomAgent
sys.path.insert(0, sys.argv[2])
import test_closed_loop as here

folder, enough = Path(sys.argv[1]), int(sys.argv[3])

class Held(here.mesh.MeshSimulator):
    def step(self, primitive):
        # Whoever wants to kill it before its end comes in time.
        while here.lines_in(folder / "episodes.jsonl") >= enough + 2:
            time.sleep(0.01)
        return super().step(primitive)

task = here.NavigationTask(
    name="houses", split="level0", episodes=here.simulators(1)[0].make_episodes(level=0, seed=5, count=8),
    embodiment=here.BODY, max_steps=60, success_distance=here.goal_radius,
)
here.walk(task, RandomAgent(1), folder, sims=here.simulators(2, Held))
"""


def test_a_killed_run_goes_on_to_the_same_numbers(task: NavigationTask, tmp_path: Path) -> None:
    whole = walk(task, RandomAgent(1), tmp_path / "whole")
    folder = tmp_path / "killed"
    finished: list[int] = []
    for enough in (1, 4):
        arguments = [str(folder), str(Path(__file__).parent), str(enough)]
        process = subprocess.Popen([sys.executable, "-c", HELD_RUN, *arguments])
        _wait_for(lambda enough=enough: lines_in(folder / "episodes.jsonl") >= enough, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        finished.append(lines_in(folder / "episodes.jsonl"))
        assert not (folder / "results.json").exists()
    assert 1 <= finished[0] <= finished[1] < len(task.episodes)
    # As if the kill had come in the middle of a write.
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"episode_id": "hou')
    resumed = walk(task, RandomAgent(1), folder)
    assert numbers(resumed) == numbers(whole)
    assert records_of(folder) == records_of(tmp_path / "whole")


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)


def test_a_finished_run_needs_no_agent(task: NavigationTask, tmp_path: Path) -> None:
    first = walk(task, RandomAgent(0), tmp_path)

    def no_agent() -> Agent[Any]:
        raise AssertionError("a finished run asked for its agent")

    again = evaluate_agent(task, no_agent, pool(), tmp_path, identity={"agent": "random", "seed": 0}, quiet=True)
    assert again.content == first.content


def test_another_run_in_the_same_folder_is_refused_unless_forced(task: NavigationTask, tmp_path: Path) -> None:
    walk(task, RandomAgent(0), tmp_path)
    with pytest.raises(ConfigError, match=r"holds another run \(agent: \"random\" there, \"expert\" here\)"):
        walk(task, ExpertAgent(goal_radius), tmp_path)
    assert walk(task, ExpertAgent(goal_radius), tmp_path, force=True).metrics["sr"] == 1.0


def test_a_run_that_broke_before_its_first_episode_leaves_the_folder_free(task: NavigationTask, tmp_path: Path) -> None:
    def no_agent() -> RandomAgent:
        raise ConfigError("no such device")

    with pytest.raises(ConfigError, match="no such device"):
        evaluate_agent(task, no_agent, pool(), tmp_path, identity={"agent": "model", "device": "x"}, quiet=True)
    assert walk(task, ExpertAgent(goal_radius), tmp_path).metrics["sr"] == 1.0


class Failing(mesh.MeshSimulator):
    """Breaks in two of the episodes: at reset, and in the middle."""

    broken = True

    def reset(self, episode: Episode) -> Observation:
        if self.broken and episode.episode_id.endswith("-2"):
            raise OSError("disk on fire")
        return super().reset(episode)

    def step(self, primitive: int) -> Observation:
        if self.broken and self._current().episode.episode_id.endswith("-5") and primitive == STOP:
            raise RuntimeError("the floor gave way")
        return super().step(primitive)


def test_a_simulator_that_breaks_costs_one_episode_which_is_walked_again_later(
    task: NavigationTask, tmp_path: Path
) -> None:
    results = walk(task, ExpertAgent(goal_radius), tmp_path, sims=simulators(3, Failing))
    assert results.failed == 2
    assert {case["episode_id"]: case["error"] for case in results.content["failed_episodes"]} == {
        "houses-0-5-2": "OSError: disk on fire",
        "houses-0-5-5": "RuntimeError: the floor gave way",
    }
    assert results.metrics["sr"] == 6 / 8, "a failed episode stays in the denominator"
    mended = walk(task, ExpertAgent(goal_radius), tmp_path)
    assert (mended.failed, mended.metrics["sr"]) == (0, 1.0)


def test_a_damaged_record_is_named(task: NavigationTask, tmp_path: Path) -> None:
    walk(task, RandomAgent(0), tmp_path)
    path = tmp_path / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "garbage\n", *lines[1:]]))
    with pytest.raises(DataError, match=r"episodes\.jsonl, line 2, is not JSON"):
        walk(task, RandomAgent(0), tmp_path)


def test_episodes_must_be_some_and_have_their_own_ids(task: NavigationTask, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError, match="has no episodes"):
        walk(replace(task, episodes=()), RandomAgent(), tmp_path)
    with pytest.raises(ConfigError, match="twice"):
        walk(replace(task, episodes=(task.episodes[0], task.episodes[0])), RandomAgent(), tmp_path)


def test_a_wrong_instruction_names_another_landmark_of_the_room(task: NavigationTask) -> None:
    for episode in task.episodes:
        wrong = wrong_instruction(0)(episode)
        assert episode.info["landmark"] not in wrong
        assert any(other in wrong for other in episode.info["other_landmarks"])
        assert wrong == wrong_instruction(0)(episode)
    choices = {wrong_instruction(seed)(task.episodes[0]) for seed in range(30)}
    assert len(choices) == len(set(task.episodes[0].info["other_landmarks"]))


def test_a_wrong_instruction_keeps_the_sentence_around_the_name() -> None:
    def told(instruction: str, landmark: str, *others: str) -> str:
        info = {"landmark": landmark, "other_landmarks": list(others)}
        episode = Episode(
            episode_id="e",
            scene_id="houses/1",
            start_position=(0, 0, 0),
            start_rotation=(0, 0, 0, 1),
            goals=((1, 0, 0),),
            instruction=instruction,
            info=info,
        )
        return wrong_instruction(0)(episode)

    assert told("Go to the red sofa.", "red sofa", "blue lamp") == "Go to the blue lamp."
    assert told("There is an orange box; walk to it.", "orange box", "red sofa") == "There is a red sofa; walk to it."
    assert told("Red sofa ahead, stop at the red sofa.", "red sofa", "green bed") == (
        "Green bed ahead, stop at the green bed."
    )
    with pytest.raises(DataError, match="does not mention its landmark"):
        told("Go home.", "red sofa", "green bed")
    with pytest.raises(DataError, match="names no other landmark"):
        told("Go to the red sofa.", "red sofa")
