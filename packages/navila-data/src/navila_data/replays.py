"""Walks of an evaluation as training data: the model's own mistakes, labelled with what the expert would have done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from navila.actions import STOP, answer_for_primitives
from navila.errors import DataError, SceneError
from navila.simulation import Embodiment, Episode, Observation, Simulator

from navila_data.recording import Recorder, SaveImage, Task, WalkSettings, plain_facts
from navila_data.vln_ce import EPISODES_A_TASK
from navila_data.walks import Expert, Step, WalkRecorder, leading

#: Files of an evaluation's folder.
RUN, RECORDS, RESULTS = "run.json", "episodes.jsonl", "results.json"
#: Metres by which a walk may be elsewhere when it is repeated.
SAME_PLACE = 0.05
_UNFIT = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, kw_only=True)
class ReplaySettings(WalkSettings):
    """Everything that decides the bytes of data made of an evaluation's walks."""

    job: ClassVar[str] = "replay"

    run: Path
    """Folder of a complete run of `navila eval`."""
    scene_root: Path = Path()
    """The folder that scenes of the episodes are relative to."""
    walks: Literal["all", "failed"] = "all"
    mistakes: bool = False
    """Keep only the steps at which the model did otherwise than the expert, and those of the recovery."""
    recover: bool = True
    """Let the expert go on to the goal from where the model ended in a wrong place."""

    def checked(self) -> Self:
        """The settings with the simulator's own name, for a run there is something to learn from.

        Raises:
            DataError: the folder holds no complete run of navigation, or no walk that is wanted.
            UnknownComponentError: there is no such simulator.
        """
        if not (self.run / RESULTS).is_file():
            raise DataError(f"{self.run} holds no complete run: give the folder OUTPUT/MODEL/TASK of `navila eval`.")
        if not self._walks:
            raise DataError(f"{self.run} has no walk to learn from: those that are left have no goal, or none failed.")
        return super().checked()

    def facts(self) -> dict[str, Any]:
        """The settings, with the content of the records in place of where they and the scenes lie."""
        facts = plain_facts(self) | {"sha256": hashlib.sha256((self.run / RECORDS).read_bytes()).hexdigest()}
        # The body is the run's.
        for name in ("run", "scene_root", "image_size", "hfov", "policy", "perturb"):
            del facts[name]
        return json.loads(json.dumps(facts))

    def tasks(self) -> Iterator[Task]:
        """Scene by scene, as they come in the records, so that each is loaded once."""
        scenes: dict[str, list[int]] = {}
        for place, walk in enumerate(self._walks):
            scenes.setdefault(walk["scene_id"], []).append(place)
        chunks = [
            places[start : start + EPISODES_A_TASK]
            for places in scenes.values()
            for start in range(0, len(places), EPISODES_A_TASK)
        ]
        for number, places in enumerate(chunks):
            yield Task(number=number, episodes=places)

    def embodiment(self) -> Embodiment:
        """The body that the model was evaluated in.

        Raises:
            DataError: the run does not tell it.
        """
        body = _read(self.run / RUN).get("run", {}).get("embodiment")
        known = {field.name for field in dataclasses.fields(Embodiment)}
        if not isinstance(body, Mapping) or not set(body) <= known:
            raise DataError(f"{self.run / RUN} does not tell the embodiment: give a run of navigation.")
        return Embodiment(**body)

    def open_simulator(self) -> Simulator:
        """The simulator, with the run's body and the folder of scenes where it takes one."""
        return self.make_simulator(scene_root=self.scene_root)

    def episodes_of(self, sim: Simulator, task: Task) -> Iterator[tuple[str, Episode]]:
        """The episodes of a task, called by their ids; `info["walk"]` is the recorded walk."""
        for place in task.episodes:
            walk = self._walks[place]
            yield (
                f"{place}_{_UNFIT.sub('-', walk['episode_id'])}",
                Episode(
                    episode_id=walk["episode_id"],
                    scene_id=walk["scene_id"],
                    start_position=tuple(walk["positions"][0]),
                    start_rotation=tuple(walk["rotations"][0]),
                    goals=tuple(tuple(goal) for goal in walk["goals"]),
                    goal_radius=walk["success_distance"],
                    instruction=walk["episode_instruction"],
                    info={"walk": walk},
                ),
            )

    def recorder(self) -> Recorder:
        """Walks again what was walked."""
        return ReplayRecorder(self)

    @cached_property
    def _walks(self) -> list[dict[str, Any]]:
        """The recorded walks to learn from; of an episode that was walked twice, the last."""
        walks = {walk["episode_id"]: walk for walk in _lines(self.run / RECORDS)}
        return [
            walk
            for walk in walks.values()
            if walk["outcome"] != "failed" and walk["goals"] and (self.walks == "all" or not walk["metrics"]["success"])
        ]


class ReplayRecorder(WalkRecorder):
    """Repeats a model's walk, labelled by the expert, who then goes on from where it went wrong."""

    def __init__(self, settings: ReplaySettings) -> None:
        super().__init__(settings)
        self.mistakes, self.recover = settings.mistakes, settings.recover

    def records(
        self, sim: Simulator, episode: Episode, name: str, generator: np.random.Generator, save: SaveImage
    ) -> list[dict[str, Any]]:
        """One record a step that is wanted; frames are those of the whole walk up to it."""
        walk = episode.info["walk"]
        steps = self.replay(sim, episode, walk)
        done = walk["primitives"]
        frames = [save(f"frame_{number}", step.rgb) for number, step in enumerate(steps)]
        kept = [
            number
            for number, step in enumerate(steps)
            if (step.due or self.settings.every_step)
            and (not self.mistakes or number >= len(done) or step.run[0] != done[number])
        ]
        return [
            {
                "video_id": f"{name}-{number}",
                "frames": frames[: number + 1],
                "q": episode.instruction,
                "a": answer_for_primitives(steps[number].run),
            }
            for number in kept
        ]

    def expert(self, sim: Simulator, episode: Episode) -> Expert:
        """The shortest-path follower; a walk may have led to where it finds no way on."""
        return leading(super().expert(sim, episode), sim, episode)

    def replay(self, sim: Simulator, episode: Episode, walk: Mapping[str, Any]) -> list[Step]:
        """The steps of a walk, and of the expert's way from its end to the goal.

        Raises:
            SceneError: the simulator does not lead where the walk led, or no way to the goal from there.
        """
        observation = sim.reset(episode)
        expert = self.expert(sim, episode)
        due = {decision["step"] for decision in walk["decisions"]}
        steps: list[Step] = []
        for number, primitive in enumerate(walk["primitives"]):
            steps.append(Step(rgb=observation.rgb, run=expert(observation), due=number in due))
            if primitive == STOP:
                break
            observation = sim.step(primitive)
            if math.dist(observation.position, walk["positions"][number + 1]) > SAME_PLACE:
                raise SceneError(
                    f"Episode {episode.episode_id!r} leads elsewhere in {self.settings.sim!r} than when it was "
                    f"walked (step {number + 1}): give --sim, --sim-option and --scene-root of the evaluation."
                )
        if self.recover and not walk["metrics"]["success"]:
            # The step of a wrong stop is there already, labelled with where to go instead.
            steps += self.recovery(sim, expert, observation)[int(walk["primitives"][-1] == STOP) :]
        return steps

    def recovery(self, sim: Simulator, expert: Expert, observation: Observation) -> list[Step]:
        """The expert's steps from here until it stops, `max_steps` at most."""
        steps: list[Step] = []
        pending: list[int] = []
        while len(steps) < self.settings.max_steps:
            run = expert(observation)
            steps.append(Step(rgb=observation.rgb, run=run, due=not pending))
            pending = pending or list(run)
            if pending[0] == STOP:
                break
            observation = sim.step(pending.pop(0))
        return steps


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): give the folder of a run of `navila eval`.") from None
    return content if isinstance(content, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Records of walks.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    needed = ("episode_id", "scene_id", "outcome", "positions", "rotations", "goals", "primitives", "decisions")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        raise DataError(f"There is no {path}: give the folder of a run of navigation.") from None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or any(key not in record for key in needed):
            raise DataError(f"{path}, line {number}, is no record of a walk: run the evaluation again.")
        yield record
