"""What each primitive does to an agent on a graph, and what the shortest-path follower does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from navila.actions import FORWARD, LEFT, RIGHT, STOP
from navila.simulation import Embodiment, Rotation, rotation_of
from scipy.optimize import linear_sum_assignment

from navila_sim_graph.ways import Place, Remaining, Ways

#: Radians that the view may be off an edge for a step along it to be a whole one.
_FREE_ANGLE = math.radians(22.5)
#: The expert stops once within this share of the goal radius, as in the simulator of meshes.
STOP_SHARE = 0.6


@dataclass(frozen=True)
class Pose:
    """Where the agent stands, and its yaw at the start and left turns since."""

    place: Place
    first_yaw: float
    """Radians; 0 looks along -z, positive is to the left."""
    turns: int = 0

    def yaw(self, body: Embodiment) -> float:
        return self.first_yaw + self.turns * math.radians(body.turn_angle)

    def rotation(self, body: Embodiment) -> Rotation:
        return rotation_of(self.yaw(body))


def headings(body: Embodiment) -> int:
    """Number of directions that turning leads through."""
    return round(360 / body.turn_angle)


def directions(ways: Ways, viewpoint: str, body: Embodiment) -> int:
    """Number of left turns told apart at a viewpoint: once round, or twice where it has more ways on than headings."""
    return headings(body) * max(1, math.ceil(len(ways.graph.neighbours[viewpoint]) / headings(body)))


def exits(ways: Ways, viewpoint: str, first_yaw: float, body: Embodiment) -> dict[int, str]:
    """Left turns since the start, below `directions` -> the viewpoint that a step in this direction leads towards.

    Every way on has a direction of its own, the nearest to it on the whole: of two that lie in one direction neither
    is out of reach, as it would be if a step took the one that is nearest to the view.
    """
    others = sorted(ways.graph.neighbours[viewpoint])
    bearings = np.array([ways.bearing(viewpoint, other) for other in others])
    views = first_yaw + np.arange(directions(ways, viewpoint, body)) * math.radians(body.turn_angle)
    off = np.abs(_wrap(bearings[:, None] - views))
    rows, columns = linear_sum_assignment(off**2)
    return {int(column): others[row] for row, column in zip(rows, columns, strict=True)}


def advance(ways: Ways, pose: Pose, primitive: int, body: Embodiment) -> tuple[Pose, bool]:
    """Execute a primitive; return the new pose and whether the graph stopped or deflected it.

    A step ends at the next viewpoint. Where nothing leads on in the direction of view, a body that slides goes along
    the nearest way as far as the view has a part in it.
    """
    if primitive in (LEFT, RIGHT):
        return replace(pose, turns=pose.turns + (1 if primitive == LEFT else -1)), False
    if primitive != FORWARD:
        return pose, False
    found = _way(ways, pose, body)
    if found is None:
        return pose, True
    way, off = found
    share = 1.0 if off <= _FREE_ANGLE else math.cos(off) if body.sliding else 0.0
    if share <= 0:
        return pose, True
    return replace(pose, place=ways.moved(way, share * body.forward_step)), off > _FREE_ANGLE


def _way(ways: Ways, pose: Pose, body: Embodiment) -> tuple[Place, float] | None:
    """The way that a step takes and the radians it is off the view."""
    yaw = pose.yaw(body)
    onward = ways.onward(pose.place)
    if not onward:
        return None
    if pose.place.start == pose.place.end:
        turns = pose.turns % directions(ways, pose.place.start, body)
        towards = exits(ways, pose.place.start, pose.first_yaw, body).get(turns)
        if towards is not None:
            return Place(pose.place.start, towards), 0.0
    off = {way: abs(float(_wrap(ways.bearing(way.start, way.end) - yaw))) for way in onward}
    way = min(onward, key=lambda way: off[way])
    return way, off[way]


def follow(ways: Ways, pose: Pose, left: Remaining, radius: float, body: Embodiment) -> int:
    """The primitive that the shortest-path follower takes; 0 well within `radius`, or where no way leads on."""
    if not STOP_SHARE * radius < left.at(pose.place) < math.inf:
        return STOP
    count = headings(body)
    if pose.place.start == pose.place.end:
        towards: Mapping[int, str] = exits(ways, pose.place.start, pose.first_yaw, body)
        if not towards:
            return STOP
        count = directions(ways, pose.place.start, body)
        wanted = min(towards, key=lambda turns: left.via(Place(pose.place.start, towards[turns])))
    else:
        way = min(ways.onward(pose.place), key=left.via)
        off = float(_wrap(ways.bearing(way.start, way.end) - pose.yaw(body)))
        if abs(off) <= _FREE_ANGLE:
            return FORWARD
        wanted = pose.turns + round(off / math.radians(body.turn_angle))
    turn = (wanted - pose.turns) % count
    return FORWARD if turn == 0 else LEFT if 2 * turn <= count else RIGHT


def _wrap(angle: np.ndarray | float) -> np.ndarray | float:
    """Radians brought into [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
