"""The agent's pose, what each primitive does to it, and the shortest-path follower."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

from navila.actions import FORWARD, LEFT, RIGHT, STOP
from navila.simulation import Embodiment, Position, Rotation, rotation_of, yaw_of

#: Share of a turn the follower may be off its way before it turns. At one half, a turn would end as far off to the
#: other side: a model that learns from it and errs by a degree would turn to and fro for ever.
HEADING_TOLERANCE = 0.75


class Ground(Protocol):
    """What one walks on: the floor grid of a house or the navigation mesh of a scan."""

    def step(self, position: Position, dx: float, dz: float, *, sliding: bool) -> tuple[Position, bool]:
        """Where a move by (dx, dz) metres ends, and whether something stopped or deflected it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the agent stands and looks."""

    x: float
    y: float
    z: float
    yaw: float
    """Radians in (-pi, pi]; 0 looks along -z, positive turns left."""

    @classmethod
    def at(cls, position: Position, rotation: Rotation) -> Self:
        """The pose at a point, looking where a quaternion points."""
        x, y, z = position
        return cls(x=x, y=y, z=z, yaw=wrap(yaw_of(rotation)))

    @property
    def position(self) -> Position:
        return self.x, self.y, self.z

    @property
    def rotation(self) -> Rotation:
        return rotation_of(self.yaw)


def wrap(angle: float) -> float:
    """`angle` in radians brought into (-pi, pi]."""
    return math.pi - (math.pi - angle) % (2 * math.pi)


def bearing_to(pose: Pose, x: float, z: float) -> float:
    """Angle in radians from where the agent looks to (x, z), positive to the left, in (-pi, pi]."""
    return wrap(math.atan2(pose.x - x, pose.z - z) - pose.yaw)


def advance(pose: Pose, primitive: int, ground: Ground, body: Embodiment) -> tuple[Pose, bool]:
    """Execute a primitive; return the new pose and whether an obstacle stopped or deflected it."""
    if primitive in (LEFT, RIGHT):
        turn = math.radians(body.turn_angle) * (1 if primitive == LEFT else -1)
        return Pose(x=pose.x, y=pose.y, z=pose.z, yaw=wrap(pose.yaw + turn)), False
    if primitive == FORWARD:
        dx, dz = -math.sin(pose.yaw) * body.forward_step, -math.cos(pose.yaw) * body.forward_step
        (x, y, z), collided = ground.step(pose.position, dx, dz, sliding=body.sliding)
        return Pose(x=x, y=y, z=z, yaw=pose.yaw), collided
    return pose, False


def follow(pose: Pose, path: list[tuple[float, float]], ground: Ground, body: Embodiment) -> int:
    """The primitive that brings the agent along `path` ((x, z) way points, its own position first).

    Turns towards the way point until within `HEADING_TOLERANCE`, then walks; where that way is blocked, takes the
    heading nearest to it that is open. 0 when there is none.
    """
    target = next((p for p in path[1:] if math.hypot(p[0] - pose.x, p[1] - pose.z) > 0.15), path[-1])
    wanted = bearing_to(pose, *target)
    turn = math.radians(body.turn_angle)
    half_circle = max(1, math.floor(math.pi / turn))
    saved_turn = (2 * HEADING_TOLERANCE - 1) * turn

    def off(k: int) -> float:
        """How far heading `k` is from the wanted one; staying is favoured, so that turning once is enough."""
        error = abs(wrap(k * turn - wanted))
        return round(max(error - saved_turn, 0.0) if k == 0 else error, 6)

    # Headings the agent can reach by turning; which are open depends on the position only, so it never dithers.
    headings = sorted(range(-half_circle, half_circle + 1), key=lambda k: (off(k), -k))
    cut_short = 0
    for k in headings:
        start = Pose(x=pose.x, y=pose.y, z=pose.z, yaw=wrap(pose.yaw + k * turn))
        ahead, collided = advance(start, FORWARD, ground, body)
        if math.hypot(ahead.x - pose.x, ahead.z - pose.z) <= 0.4 * body.forward_step:
            continue
        primitive = FORWARD if k == 0 else LEFT if k > 0 else RIGHT
        if body.sliding or not collided:
            return primitive
        # An agent that cannot slide would stick to the wall where a step is cut short.
        cut_short = cut_short or primitive
    return cut_short or STOP
