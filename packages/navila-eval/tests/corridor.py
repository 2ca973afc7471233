"""A plugin for tests: corridors to walk along, quick to load, in which simulators break as the episode says."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from navila import hookimpl
from navila.actions import FORWARD, LEFT, RIGHT, STOP
from navila.errors import ConfigError, SceneError
from navila.simulation import Embodiment, Episode, Observation, Position, Simulator, TopDownMap
from navila.specs import BenchmarkSpec
from navila_eval.navigation import NavigationBenchmark

BODY = Embodiment(name="corridor", width=8, height=6)
SCENES = 3


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """The task `corridor`."""
    yield BenchmarkSpec(name="corridor", target=f"{__name__}:CorridorTask", summary="to the end of a corridor")


class Corridor(Simulator):
    """Walks along -z in an empty world; an image tells where it was taken."""

    def __init__(self, body: Embodiment = BODY, delay: float = 0.0) -> None:
        self.embodiment = body
        self.delay = delay
        self.episode: Episode | None = None
        self.place = (0.0, 0.0, 0.0, 0)
        self.engine = 0

    def reset(self, episode: Episode) -> Observation:
        self.episode = episode
        if episode.info.get("fault") == "scene":
            raise SceneError("There is no floor here.")
        if episode.info.get("fault") == "engine":
            self.engine = subprocess.Popen(["sleep", "1000"]).pid
        self.place = (*episode.start_position, 0)
        return self.seen()

    def step(self, primitive: int) -> Observation:
        time.sleep(self.delay)
        x, y, z, heading = self.place
        if primitive == FORWARD:
            angle = math.radians(15 * heading)
            x, z = x - 0.25 * math.sin(angle), z - 0.25 * math.cos(angle)
        heading = (heading + {LEFT: 1, RIGHT: -1}.get(primitive, 0)) % 24
        self.place = (x, y, z, heading)
        return self.spoilt(self.seen(done=primitive == STOP))

    def seen(self, done: bool = False) -> Observation:
        x, y, z, heading = self.place
        rgb = np.full((self.embodiment.height, self.embodiment.width, 3), 10, np.uint8)
        rgb[0, 0] = heading, round(abs(x) * 4) % 256, round(abs(z) * 4) % 256
        half = math.radians(15 * heading) / 2
        rotation = (0.0, math.sin(half), 0.0, math.cos(half))
        return Observation(rgb=rgb, position=(x, y, z), rotation=rotation, done=done)

    def spoilt(self, seen: Observation) -> Observation:
        """The observation as the episode wants it broken."""
        assert self.episode is not None
        kind: Any = self.episode.info.get("fault")
        if kind == "hangs":
            time.sleep(1000)
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "raises":
            raise OSError("disk on fire")
        broken: dict[str, dict[str, Any]] = {
            "nan": {"position": (math.nan, 0.0, 0.0)},
            "turned": {"rotation": (0.0, 0.0, 0.0, 0.0)},
            "shape": {"rgb": seen.rgb[:3]},
            "dtype": {"rgb": seen.rgb.astype(np.float32)},
        }
        return replace(seen, **broken.get(kind, {}))

    def geodesic(self, start: Position, goals: Sequence[Position]) -> float:
        return min(math.dist(start, goal) for goal in goals)

    def shortest_path(self, start: Position, goal: Position) -> tuple[Position, ...]:
        return start, goal

    def expert_action(self, goal: Position, goal_radius: float) -> int:
        if self.episode is not None and self.episode.info.get("fault") == "expert":
            raise RuntimeError("no way on")
        return STOP if self.geodesic(self.place[:3], [goal]) < goal_radius else FORWARD

    def expert_run(self, goals: Sequence[Position], goal_radius: float, longest: int) -> tuple[int, ...]:
        return (self.expert_action(goals[0], goal_radius),)

    def top_down_map(self) -> TopDownMap:
        grid = np.full((64, 32, 3), 230, np.uint8)
        walkable = np.ones((64, 32), np.bool_)
        return TopDownMap(rgb=grid, walkable=walkable, origin=(-2.0, -7.0), resolution=0.125)

    def snapshot(self) -> Any:
        return self.episode, self.place, self.engine

    def restore(self, state: Any) -> Observation:
        self.episode, self.place, self.engine = state
        return self.seen()

    def fork(self) -> Corridor:
        return Corridor(self.embodiment, self.delay)


class CorridorTask(NavigationBenchmark):
    """Episodes whose goals are 3 m to 5 m ahead."""

    max_steps = 40

    def __init__(self, *, faults: str = "", delay: float = 0.0) -> None:
        """`faults`: words of `Corridor.spoilt`, joined by +, one an episode from the second on."""
        self.faults = faults.split("+") if faults else []
        self.delay = delay
        self.embodiment = BODY

    @classmethod
    def tiny(cls) -> CorridorTask:
        return cls()

    def simulator(self) -> Corridor:
        if os.environ.get("CORRIDOR_CLOSED"):
            raise OSError("the corridor is closed")
        if self.delay < 0:
            raise ConfigError("the corridor is too long")
        return Corridor(self.embodiment, self.delay)

    def success_distance(self, episode: Episode) -> float:
        return 1.0

    def episodes(self, split: str, *, seed: int, limit: int | None, data_root: Path | None) -> Sequence[Episode]:
        faults = dict(enumerate(self.faults, 1))
        return [
            Episode(
                episode_id=f"e{number}",
                scene_id=f"corridor/{number % SCENES}",
                start_position=(0.0, 0.0, 0.0),
                start_rotation=(0.0, 0.0, 0.0, 1.0),
                goals=((0.0, 0.0, -3.0 - number % 3),),
                instruction="Go to the left end, then turn right.",
                gt_locations=tuple((0.0, 0.0, -0.25 * step) for step in range(9)),
                info={"fault": faults.get(number)},
            )
            for number in range(limit or 10)
        ]
