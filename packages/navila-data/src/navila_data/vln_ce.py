"""VLN-CE's episodes, of R2R and RxR alike, walked in a simulator to become navigation data."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from navila.actions import MAX_RUN, STOP
from navila.episodes import language_of, read_episodes
from navila.errors import DataError, SceneError
from navila.simulation import Episode, Observation, Simulator

from navila_data.recording import Recorder, Task, WalkSettings, plain_facts
from navila_data.walks import Expert, WalkRecorder, leading

ExpertName = Literal["shortest-path", "reference-path"]

#: Episodes of a scene that are kept or lost together when a conversion is interrupted.
EPISODES_A_TASK = 16
#: Metres to a way point of the reference path at which the next one counts.
WAY_POINT_RADIUS = 0.5
_FOLDER_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(WalkSettings):
    """Everything that decides the bytes of a conversion."""

    job: ClassVar[str] = "conversion"
    bounds: ClassVar[tuple[tuple[str, float, float], ...]] = (*WalkSettings.bounds, ("limit", 0, 10**9))

    episodes_file: Path
    scene_root: Path = Path()
    """The folder that scenes of the episodes are relative to."""
    expert: ExpertName = "shortest-path"
    language: str = ""
    """Only instructions in this language, as RxR writes it or begins to (`en`); empty for all."""
    limit: int = 0
    """Only so many episodes, the first of the file; 0 for all."""
    image_size: int = 512
    max_steps: int = 500
    stop_distance: float | None = 0.5

    def checked(self) -> Self:
        """The settings with the simulator's own name, for episodes that can be walked.

        Raises:
            DataError: the file is missing or malformed, or an episode in it has no goal or way to learn from.
            UnknownComponentError, CheckpointError: there is no such simulator or policy.
        """
        checked = super().checked()
        if not checked._chosen:
            which = f" in the language {self.language!r}" if self.language else ""
            raise DataError(f"{self.episodes_file} has no episode{which}: give another file or --language.")
        for episode in checked._chosen:
            lacks = (
                "no goal (those of test splits are not public)"
                if not episode.goals
                else "no reference_path"
                if self.expert == "reference-path" and not episode.reference_path
                else ""
            )
            if lacks:
                raise DataError(
                    f"Episode {episode.episode_id!r} of {self.episodes_file} has {lacks}: the expert has nothing to go "
                    "by; convert another split, or choose another --expert."
                )
            if not _FOLDER_NAME.fullmatch(episode.episode_id):
                raise DataError(
                    f"Episode {episode.episode_id!r} of {self.episodes_file}: its id cannot name a folder; use "
                    "letters, digits, '.', '_' and '-'."
                )
        return checked

    def facts(self) -> dict[str, Any]:
        """The settings, with the content of the episode file in place of where it and the scenes lie."""
        facts = plain_facts(self) | {
            "episodes_file": self.episodes_file.name,
            "sha256": hashlib.sha256(self.episodes_file.read_bytes()).hexdigest(),
        }
        del facts["scene_root"]
        return json.loads(json.dumps(facts))

    def tasks(self) -> Iterator[Task]:
        """Scene by scene, as they come in the file, so that each is loaded once."""
        scenes: dict[str, list[int]] = {}
        for place, episode in enumerate(self._chosen):
            scenes.setdefault(episode.scene_id, []).append(place)
        number = 0
        for places in scenes.values():
            for start in range(0, len(places), EPISODES_A_TASK):
                yield Task(number=number, episodes=places[start : start + EPISODES_A_TASK])
                number += 1

    def open_simulator(self) -> Simulator:
        """The simulator, with the camera and the folder of scenes."""
        return self.make_simulator(scene_root=self.scene_root)

    def episodes_of(self, sim: Simulator, task: Task) -> Iterator[tuple[str, Episode]]:
        """The episodes of a task, called by their ids."""
        for place in task.episodes:
            yield self._chosen[place].episode_id, self._chosen[place]

    def recorder(self) -> Recorder:
        """Walks to the goal, or along the described route."""
        return RouteRecorder(self)

    @cached_property
    def _chosen(self) -> list[Episode]:
        chosen = [e for e in read_episodes(self.episodes_file) if language_of(e).startswith(self.language)]
        return chosen[: self.limit or None]


class RouteRecorder(WalkRecorder):
    """Walks episodes of a file, and tells where the expert gets stuck instead of calling that a stop."""

    def __init__(self, settings: ConvertSettings) -> None:
        super().__init__(settings)
        self.route = settings.expert == "reference-path"

    def expert(self, sim: Simulator, episode: Episode) -> Expert:
        """The shortest-path follower, to the goal or from way point to way point of the reference path.

        Raises:
            SceneError: a way point cannot be reached; later, the expert finds no way on.
        """
        to_goal = leading(super().expert(sim, episode), sim, episode)
        ahead = list(episode.reference_path) if self.route else []
        for number, point in enumerate(ahead):
            if not math.isfinite(sim.geodesic(episode.start_position, (point,))):
                raise SceneError(f"Way point {number} of episode {episode.episode_id!r} cannot be reached.")

        def run(observation: Observation) -> tuple[int, ...]:
            while ahead:
                primitives = sim.expert_run((ahead[0],), WAY_POINT_RADIUS, MAX_RUN)
                if primitives != (STOP,):
                    return primitives
                ahead.pop(0)
            return to_goal(observation)

        return run
