"""One agent's way through one episode: what is executed, measured and recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from navila.actions import STOP, UNITS, Action
from navila.episodes import language_of
from navila.errors import SimulatorError, SimulatorUnavailable
from navila.simulation import Embodiment, Episode, Observation, Position, Rotation, Simulator

from navila_eval.navigation_metrics import distances_to_goal, episode_metrics, path_length
from navila_eval.simulator_process import check_observation, told

Record = dict[str, Any]
Outcome = Literal["stopped", "time-out", "failed"]


@dataclass
class Timing:
    """Where the time of a walk went; apart from its record, which is the same on every machine."""

    began: float = field(default_factory=time.monotonic)
    simulator: float = 0.0
    """Seconds for loading, moving, rendering and measuring."""
    deciding: float = 0.0
    """Seconds for decisions, each shared by the walks it was for."""
    decisions: int = 0
    batched: int = 0
    """Walks that were decided for at once, over all decisions."""

    def decided(self, seconds: float, walks: int) -> None:
        """Count one decision for so many walks."""
        self.deciding += seconds / walks
        self.decisions += 1
        self.batched += walks

    def facts(self) -> dict[str, float]:
        """As a line of `timings.jsonl`."""
        seconds = {"seconds": time.monotonic() - self.began, "simulator": self.simulator, "deciding": self.deciding}
        mean_batch = self.batched / self.decisions if self.decisions else 0.0
        return {**{name: round(value, 4) for name, value in seconds.items()}, "batch": round(mean_batch, 2)}


@dataclass(eq=False)
class Walk:
    """An episode in progress in one simulator."""

    episode: Episode
    simulator: Simulator
    instruction: str
    """What the agent was told, which may differ from the episode's instruction."""
    max_steps: int
    success_distance: float
    positions: list[Position] = field(default_factory=list)
    rotations: list[Rotation] = field(default_factory=list)
    primitives: list[int] = field(default_factory=list)
    collided: list[bool] = field(default_factory=list)
    decisions: list[Record] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    error: str | None = None
    timing: Timing = field(default_factory=Timing)

    def start(self) -> Observation:
        """Reset the simulator to the episode."""
        observation = self.simulator.reset(self.episode)
        self._saw(observation)
        return observation

    def execute(self, action: Action) -> list[Observation]:
        """Execute an action and return what was seen after each primitive; ends early at STOP or the step limit."""
        primitives = own_primitives(action, self.simulator.embodiment)
        self.decisions.append(
            {
                "step": len(self.primitives),
                "text": action.text,
                "primitives": list(primitives),
                "status": action.status,
            }
        )
        seen: list[Observation] = []
        for primitive in primitives:
            if self.over:
                break
            observation = self.simulator.step(primitive)
            self.primitives.append(primitive)
            self.collided.append(observation.collided)
            self._saw(observation)
            seen.append(observation)
        return seen

    def _saw(self, observation: Observation) -> None:
        check_observation(observation, self.simulator.embodiment)
        self.positions.append(_triple(observation.position))
        self.rotations.append(tuple(map(float, observation.rotation)))  # pyright: ignore[reportArgumentType]

    @property
    def stopped(self) -> bool:
        return bool(self.primitives) and self.primitives[-1] == STOP

    @property
    def over(self) -> bool:
        """Whether STOP was executed, the step limit is reached, or the simulator failed."""
        return self.error is not None or self.stopped or len(self.primitives) >= self.max_steps

    def measure(self) -> None:
        """Ask the simulator for the distance to the goal along the way."""
        goals = self.episode.goals
        if not goals:
            return
        distances = distances_to_goal(self.positions, lambda position: self.simulator.geodesic(position, goals))
        if any(math.isnan(distance) or distance < 0 for distance in distances):
            raise SimulatorError("The simulator gave a distance to the goal that is none.")
        self.distances = distances

    def record(self) -> Record:
        """All that is needed to score the walk again without model and simulator."""
        outcome: Outcome = "failed" if self.error is not None else "stopped" if self.stopped else "time-out"
        record: Record = {
            "episode_id": self.episode.episode_id,
            "scene_id": self.episode.scene_id,
            "outcome": outcome,
            "error": self.error,
            "instruction": self.instruction,
            "episode_instruction": self.episode.instruction,
            "goals": self.episode.goals,
            "success_distance": self.success_distance,
            "gt_locations": self.episode.gt_locations,
            "positions": self.positions,
            "rotations": self.rotations,
            "distances": self.distances,
            "primitives": self.primitives,
            "collided": self.collided,
            "decisions": self.decisions,
        }
        if language := language_of(self.episode):
            record["language"] = language
        record["metrics"] = score(record)
        return record


def own_primitives(action: Action, body: Embodiment) -> tuple[int, ...]:
    """The primitives of a body that come nearest to what was said, at least one: its turns may be of 30 degrees."""
    primitive = action.primitives[0]
    unit = (0, round(body.forward_step * 100), body.turn_angle, body.turn_angle)[primitive]
    if unit == UNITS[primitive]:
        return action.primitives
    return (primitive,) * max(1, math.floor(action.magnitude / unit + 0.5))


def score(record: Mapping[str, Any]) -> dict[str, float]:
    """The measures of a recorded walk; one the simulator broke off counts as a failure at an unknown distance.

    A walk without goal has a length, and no number in place of what is measured against a goal.
    """
    of_goal = ("distance_to_goal", "oracle_navigation_error")
    of_path = ("ndtw", "ndtw_exact", "sdtw", "cls")
    fractions = ("success", "spl", "oracle_success", "oracle_spl", *of_path)
    counts = ("path_length", "steps_taken", "collisions")
    if record["outcome"] == "failed":
        unknown = (*of_goal, *(() if record["goals"] else fractions), *(() if record["gt_locations"] else of_path))
        return {**dict.fromkeys((*fractions, *counts), 0.0), **dict.fromkeys(unknown, math.nan)}
    if not record["goals"]:
        lengths = (path_length(record["positions"]), len(record["primitives"]), sum(map(bool, record["collided"])))
        walked = dict(zip(counts, map(float, lengths), strict=True))
        return {**dict.fromkeys((*of_goal, *fractions), math.nan), **walked}
    return episode_metrics(
        record["positions"],
        [finite_or(value, math.inf) for value in record["distances"]],
        stopped=record["outcome"] == "stopped",
        gt_locations=record["gt_locations"],
        success_distance=record["success_distance"],
        collisions=sum(map(bool, record["collided"])),
    )


def measures(record: Mapping[str, Any]) -> dict[str, float]:
    """The measures as recorded; null stands for a value that is not finite."""
    return {name: finite_or(value, math.nan) for name, value in record["metrics"].items()}


def finite_or(value: float | None, otherwise: float) -> float:
    """`value`, or what stands for the null that strict JSON has instead of NaN and infinity."""
    return otherwise if value is None else float(value)


def attempt(walk: Walk, call: Callable[[], Any]) -> Any:
    """The result of a call of the simulator, which is timed; what it raises costs this episode, not the run.

    Raises:
        SimulatorUnavailable: there is no simulator for any further episode.
    """
    began = time.monotonic()
    try:
        return call()
    except SimulatorUnavailable:
        raise
    except Exception as error:
        walk.error = told(error)
        return None
    finally:
        walk.timing.simulator += time.monotonic() - began


def _triple(position: Sequence[float]) -> Position:
    x, y, z = map(float, position)
    return x, y, z
