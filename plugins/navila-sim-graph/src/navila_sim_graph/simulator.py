"""Connectivity graphs behind `navila.simulation`."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from navila.actions import STOP
from navila.connectivity import ConnectivityGraph, ConnectivityGraphs, graph_of
from navila.errors import ConfigError, SceneError
from navila.simulation import (
    Embodiment,
    Episode,
    Observation,
    Position,
    Simulator,
    TopDownMap,
    check_step,
    yaw_of,
)

from navila_sim_graph.drawing import first_person, from_above
from navila_sim_graph.motion import Pose, advance, follow
from navila_sim_graph.ways import Remaining, Ways

#: Scene of `GraphSimulator.tiny`.
TINY_SCENE = "tiny"


@dataclass(frozen=True)
class AgentState:
    """What `snapshot` hands out."""

    episode: Episode
    pose: Pose
    collided: bool = False
    done: bool = False


class GraphSimulator(Simulator):
    """Walks the edges of connectivity graphs; distances are those along the graph.

    `scene_root` is the folder or file of the graphs (`navila.connectivity`), or a mapping of graphs by scan. The scan
    of a `scene_id` is the name of its file: `mp3d/<scan>/<scan>.glb`, or the scan alone.
    """

    def __init__(
        self,
        embodiment: Embodiment | None = None,
        scene_root: str | Path | dict[str, ConnectivityGraph] = "connectivity",
    ) -> None:
        self.embodiment = embodiment if embodiment is not None else Embodiment()
        turn = self.embodiment.turn_angle
        if not 0 < turn <= 45 or 360 % turn:
            raise ConfigError(f"The simulator 'graph' turns by parts of a circle, not by {turn} degrees: give e.g. 15.")
        if self.embodiment.depth:
            raise ConfigError("The simulator 'graph' has no depth images: leave depth out of the embodiment.")
        self._graphs = scene_root if isinstance(scene_root, dict) else ConnectivityGraphs(scene_root)
        self._ways: dict[str, Ways] = {}
        self._remaining: dict[tuple[str, tuple[Position, ...]], Remaining] = {}
        self._state: AgentState | None = None

    @classmethod
    def tiny(cls) -> GraphSimulator:
        """A square of rooms with a stair, in 64 x 64 images, for tests."""
        points = {
            "a": (0.0, 0.0, 0.0),
            "b": (0.0, 0.0, -3.0),
            "c": (3.0, 0.0, -3.0),
            "d": (3.0, 0.0, 0.0),
            "e": (6.0, 1.5, -3.0),
        }
        graph = graph_of(TINY_SCENE, points, ["ab", "bc", "cd", "ce"])
        return cls(Embodiment(name="tiny", width=64, height=64), {TINY_SCENE: graph})

    def fork(self) -> Self:
        other = copy.copy(self)
        other._state = None
        other._remaining = {}
        return other

    def reset(self, episode: Episode) -> Observation:
        ways = self._scene(episode)
        places = ways.snap(episode.start_position)
        if not places:
            x, y, z = episode.start_position
            raise SceneError(
                f"The start ({x:.2f}, {y:.2f}, {z:.2f}) of episode {episode.episode_id!r} is off the graph of"
                f" {episode.scene_id!r}; check that the episode was made for this scan."
            )
        self._remaining = {}
        # The goals of test splits are not public.
        if episode.goals and not math.isfinite(self._to(ways, episode.goals).at(places[0])):
            raise SceneError(
                f"No goal of episode {episode.episode_id!r} can be reached from its start in {episode.scene_id!r};"
                " correct its goals or leave the episode out."
            )
        self._state = AgentState(episode, Pose(places[0], yaw_of(episode.start_rotation)))
        return self._observe()

    def step(self, primitive: int) -> Observation:
        """Execute 0 stop, 1 forward, 2 turn left, 3 turn right.

        Raises:
            ConfigError: the primitive is none of these, or the episode has ended.
        """
        state = self._current()
        check_step(primitive, state.episode, done=state.done)
        pose, collided = advance(self._here(), state.pose, primitive, self.embodiment)
        self._state = replace(state, pose=pose, collided=collided, done=primitive == STOP)
        return self._observe()

    def geodesic(self, start: Position, goals: Sequence[Position]) -> float:
        """Metres along the graph between the points of it that are nearest; `inf` beyond a metre of it."""
        ways = self._here()
        left = self._to(ways, goals)
        return min(map(left.at, ways.snap(start)), default=math.inf)

    def shortest_path(self, start: Position, goal: Position) -> tuple[Position, ...]:
        ways = self._here()
        left = self._to(ways, (goal,))
        places = ways.snap(start)
        return left.ahead(min(places, key=left.at)) if places else ()

    def expert_action(self, goal: Position, goal_radius: float) -> int:
        """The primitive the shortest-path follower takes; 0 once well inside `goal_radius` (0.6 of it).

        When `goal` is one of the current episode's goals, the nearest of them counts, as in its success.
        """
        goals = self._current().episode.goals
        return self.expert_run(goals if goal in goals else (goal,), goal_radius, 1)[0]

    def expert_run(self, goals: Sequence[Position], goal_radius: float, longest: int) -> tuple[int, ...]:
        ways, pose = self._here(), self._current().pose
        left = self._to(ways, goals)
        run = [follow(ways, pose, left, goal_radius, self.embodiment)]
        while run[0] != STOP and len(run) < longest:
            pose, _ = advance(ways, pose, run[0], self.embodiment)
            if follow(ways, pose, left, goal_radius, self.embodiment) != run[0]:
                break
            run.append(run[0])
        return tuple(run)

    def top_down_map(self) -> TopDownMap:
        return from_above(self._here(), self._here().position(self._current().pose.place)[1])

    def snapshot(self) -> AgentState:
        return self._current()

    def restore(self, state: Any) -> Observation:
        """Return to a state `snapshot` gave.

        Raises:
            ConfigError: `state` did not come from `snapshot`.
        """
        if not isinstance(state, AgentState):
            raise ConfigError("restore takes what snapshot returned.")
        self._state = state
        return self._observe()

    def _current(self) -> AgentState:
        if self._state is None:
            raise ConfigError("No episode is running; call reset first.")
        return self._state

    def _here(self) -> Ways:
        return self._scene(self._current().episode)

    def _scene(self, episode: Episode) -> Ways:
        scan = PurePosixPath(episode.scene_id).stem
        if scan not in self._ways:
            self._ways[scan] = Ways(self._graphs[scan])
        return self._ways[scan]

    def _to(self, ways: Ways, goals: Sequence[Position]) -> Remaining:
        """Distances to some goals, computed once an episode."""
        key = (ways.graph.scan, tuple(goals))
        if key not in self._remaining:
            self._remaining[key] = Remaining(ways, goals)
        return self._remaining[key]

    def _observe(self) -> Observation:
        state, body = self._current(), self.embodiment
        position = self._here().position(state.pose.place)
        if self.render_images:
            rgb = first_person(self._here(), position, state.pose.yaw(body), body)
        else:
            rgb = np.zeros((body.height, body.width, 3), np.uint8)
        return Observation(
            rgb=rgb,
            position=position,
            rotation=state.pose.rotation(body),
            collided=state.collided,
            done=state.done,
        )
