"""Instructions of procedural episodes: templates filled by seed, and routes told door by door."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from navila.simulation import Position

from navila_sim_mesh.agent import Pose, bearing_to
from navila_sim_mesh.houses import Door, House, PlacedLandmark

IN_VIEW = (
    "Go to the {target}.",
    "Walk to the {target} and stop.",
    "Stop next to the {target}.",
    "Move to the {target} and stop in front of it.",
    "Head over to the {target}.",
    "Approach the {target} and wait there.",
)
SAME_ROOM = (
    "Find the {target} in this room and walk to it.",
    "Look around for the {target} and stop next to it.",
    "Turn until you see the {target}, then go to it.",
    "Go to the {target} in this room.",
    "Somewhere in this room is a {target}. Walk to it and stop.",
    "Walk to the {target} and stop beside it.",
)
NEXT_ROOM = (
    "Go through the door {side} and walk to the {target}.",
    "Take the door {side} and stop at the {target}.",
    "Leave this room through the door {side}, then find the {target} and stop next to it.",
    "Walk through the door {side} into the next room and go to the {target}.",
)
LEAVE = (
    "Leave this room through the door {side}.",
    "Take the door {side}.",
    "Go through the door {side}.",
)
CROSS = (
    "Cross the next room and take the door {side}.",
    "In the next room, take the door {side}.",
)
CROSS_PASSING = (
    "Walk past the {passed} and take the door {side}.",
    "In the next room, pass the {passed} and go through the door {side}.",
)
ARRIVE = (
    "Stop at the {target}.",
    "Walk to the {target} and stop.",
    "Then go to the {target}.",
)
#: How near to the route a landmark must stand for the instruction to say that one passes it, metres.
PASSING_DISTANCE = 2.0


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A door on a route."""

    door: Door
    room: int
    """The room one leaves."""
    yaw: float
    """Direction in which one walks through, radians."""
    leg: int
    """Number of the part of the path, between way points `leg` and `leg + 1`, that crosses the door."""


def pick(rng: np.random.Generator, templates: tuple[str, ...], **words: str) -> str:
    """One of `templates`, filled with `words`."""
    return templates[int(rng.integers(len(templates)))].format(**words)


def instruct(
    rng: np.random.Generator,
    house: House,
    level: int,
    pose: Pose,
    path: Sequence[Position],
    target: PlacedLandmark,
) -> str:
    """What to tell an agent at `pose` that is to walk `path` to `target`."""
    if level == 0:
        return pick(rng, IN_VIEW, target=target.name)
    route = passages(house, path) if level > 1 else []
    if not route:
        return pick(rng, SAME_ROOM, target=target.name)
    if len(route) == 1:
        return pick(rng, NEXT_ROOM, target=target.name, side=_side(pose, route[0].door))
    sentences = [pick(rng, LEAVE, side=_side(pose, route[0].door))]
    for before, after in pairwise(route):
        x, z = before.door.floor.centre
        side = _side(Pose(x=x, y=0.0, z=z, yaw=before.yaw), after.door)
        passed = _passed(house, after.room, path[before.leg : after.leg + 2])
        templates = CROSS if passed is None else CROSS_PASSING
        sentences.append(pick(rng, templates, side=side, passed=passed.name if passed else ""))
    return " ".join([*sentences, pick(rng, ARRIVE, target=target.name)])


def passages(house: House, path: Sequence[Position]) -> list[Passage]:
    """The doors that `path` goes through, in order."""
    found: list[tuple[int, float, Passage]] = []
    for leg in range(len(path) - 1):
        (x0, _, z0), (x1, _, z1) = path[leg], path[leg + 1]
        for door in house.doors:
            # Along the wall (s) and across it (t), so that one rule serves walls of both directions.
            (s0, t0), (s1, t1) = ((x0, z0), (x1, z1)) if door.along_x else ((z0, x0), (z1, x1))
            ct = door.floor.centre[1 if door.along_x else 0]
            low, high = (door.floor.x0, door.floor.x1) if door.along_x else (door.floor.z0, door.floor.z1)
            if (t0 < ct) == (t1 < ct):
                continue
            share = (ct - t0) / (t1 - t0)
            if not low <= s0 + share * (s1 - s0) <= high:
                continue
            # The first room of a door lies on the side of the smaller coordinate.
            up = t1 > t0
            yaw = (math.pi if up else 0.0) if door.along_x else (-math.pi / 2 if up else math.pi / 2)
            found.append((leg, share, Passage(door=door, room=door.rooms[0 if up else 1], yaw=yaw, leg=leg)))
    return [passage for _, _, passage in sorted(found, key=lambda item: item[:2])]


def _side(pose: Pose, door: Door) -> str:
    bearing = math.degrees(bearing_to(pose, *door.floor.centre))
    if abs(bearing) <= 45:
        return "ahead of you"
    if abs(bearing) > 135:
        return "behind you"
    return "on your left" if bearing > 0 else "on your right"


def _passed(house: House, room: int, path: Sequence[Position]) -> PlacedLandmark | None:
    """The landmark of `room` nearest to `path`, if near enough to be named."""
    best: tuple[float, PlacedLandmark] | None = None
    for mark in house.landmarks:
        if mark.room != room:
            continue
        away = min(_distance_to_leg(mark, a, b) for a, b in pairwise(path))
        if away <= PASSING_DISTANCE and (best is None or away < best[0]):
            best = away, mark
    return best[1] if best else None


def _distance_to_leg(mark: PlacedLandmark, a: Position, b: Position) -> float:
    px, pz, dx, dz = mark.obstacle.x - a[0], mark.obstacle.z - a[2], b[0] - a[0], b[2] - a[2]
    square = dx * dx + dz * dz
    share = min(1.0, max(0.0, (px * dx + pz * dz) / square)) if square else 0.0
    return math.hypot(px - share * dx, pz - share * dz)
