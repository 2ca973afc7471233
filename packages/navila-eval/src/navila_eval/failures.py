"""Why a walk failed, read from its recorded poses: a pure function, so that it can be asked of any run again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from navila.actions import FORWARD, LEFT, RIGHT
from numpy.typing import NDArray

FailureKind = Literal["simulator", "no-stop", "overshoot", "collision", "loop", "wrong-turn", "early-stop", "too-slow"]
#: What each kind means, in the order in which they are tried: the first that fits is the failure's.
FAILURES: Mapping[str, str] = {
    "simulator": "the simulator broke the episode off",
    "no-stop": "stood within the success distance when its steps ran out",
    "overshoot": "was within the success distance and went away again",
    "collision": "ran against something: a third of its forward steps, and five at least, moved it less than 5 cm",
    "loop": "went in circles: a third of its steps were where it had been before, or it turned round twice on the spot",
    "wrong-turn": "ended a success distance or more beside the expert's path",
    "early-stop": "stopped on the expert's path, short of the goal",
    "too-slow": "ran out of steps on the expert's path",
}
#: Metres under which a forward step went nowhere.
BLOCKED = 0.05
#: Forward steps that went nowhere at least, and their share of all.
BLOCKED_STEPS, BLOCKED_SHARE = 5, 1 / 3
#: Metres within which a place is the same, and beyond which it was left in between.
SAME_PLACE, LEFT_PLACE = 0.5, 1.0
#: Share of a walk's steps in places where it had been.
LOOP_SHARE = 1 / 3
#: Turns in one direction without a step in between that make two full circles, at 15 degrees each.
SPIN = 48


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What went wrong, and when."""

    kind: FailureKind
    step: int
    """Primitives executed before: when it left the goal or the path, first ran against something, or came back."""


def failure_of(record: Mapping[str, Any]) -> Failure | None:
    """Why a recorded walk failed; None when it succeeded, or had no goal to fail at."""
    primitives: Sequence[int] = record["primitives"]
    last = len(primitives)
    if record["outcome"] == "failed":
        return Failure(kind="simulator", step=last)
    if not record["goals"]:
        return None
    radius = record["success_distance"]
    near = [distance is not None and distance < radius for distance in record["distances"]]
    stopped = record["outcome"] == "stopped"
    if near[-1]:
        return None if stopped else Failure(kind="no-stop", step=last)
    if any(near):
        return Failure(kind="overshoot", step=len(near) - near[::-1].index(True))
    positions = np.asarray(record["positions"], float)
    blocked = _blocked(positions, primitives)
    if len(blocked) >= max(BLOCKED_STEPS, BLOCKED_SHARE * sum(primitive == FORWARD for primitive in primitives)):
        return Failure(kind="collision", step=blocked[0])
    circling = _circling(positions, primitives)
    if circling is not None:
        return Failure(kind="loop", step=circling)
    beside = _beside(positions, record, radius)
    if beside[-1]:
        on_path = np.flatnonzero(~beside)
        return Failure(kind="wrong-turn", step=int(on_path[-1]) if len(on_path) else 0)
    return Failure(kind="early-stop" if stopped else "too-slow", step=last)


def _blocked(positions: NDArray[np.float64], primitives: Sequence[int]) -> list[int]:
    """Steps at which going forward went nowhere."""
    moved = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return [step for step, primitive in enumerate(primitives) if primitive == FORWARD and moved[step] < BLOCKED]


def _circling(positions: NDArray[np.float64], primitives: Sequence[int]) -> int | None:
    """The step at which a walk that goes in circles first came back or began to spin; None for one that does not."""
    step = 0
    for primitive, run in itertools.groupby(primitives):
        count = len(list(run))
        if primitive in (LEFT, RIGHT) and count >= SPIN:
            return step
        step += count
    # (T, T): distance of the place at each time (row) to those before.
    apart = np.tril(np.linalg.norm(positions[:, None] - positions[None], axis=-1))
    # The farthest it was from there between then and now.
    between = np.maximum.accumulate(apart[:, ::-1], axis=1)[:, ::-1]
    back = (np.tril(apart < SAME_PLACE, -1) & (between > LEFT_PLACE)).any(axis=1)
    return int(np.flatnonzero(back)[0]) if back.sum() >= LOOP_SHARE * len(back) else None


def _beside(positions: NDArray[np.float64], record: Mapping[str, Any], radius: float) -> NDArray[np.bool_]:
    """Whether the walk was a success distance or more off the expert's path, at each time.

    Where there is no such path: whether it was so much farther from the goal than it had been.
    """
    path = np.asarray(record["gt_locations"], float)
    if not len(path):
        distances = np.array([np.inf if d is None else d for d in record["distances"]])
        return distances >= np.minimum.accumulate(distances) + radius
    begin, end = (path[:-1], path[1:]) if len(path) > 1 else (path, path)
    along = end - begin
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip(((positions[:, None] - begin[None]) * along[None]).sum(axis=-1) / length, 0.0, 1.0)
    nearest = begin[None] + share[..., None] * along[None]
    return np.linalg.norm(positions[:, None] - nearest, axis=-1).min(axis=1) >= radius
