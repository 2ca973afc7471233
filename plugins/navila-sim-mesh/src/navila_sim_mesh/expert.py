"""The expert: what the shortest-path follower does in a world."""

from __future__ import annotations

from navila.actions import STOP
from navila.simulation import Embodiment, Position

from navila_sim_mesh.agent import Pose, advance, follow
from navila_sim_mesh.navigation import polyline_length
from navila_sim_mesh.world import World

#: The expert stops once within this share of the goal radius, so that rounding never costs it the success.
STOP_SHARE = 0.6


def expert_primitive(world: World, body: Embodiment, pose: Pose, goals: tuple[Position, ...], radius: float) -> int:
    """What the shortest-path follower does; 0 once within `STOP_SHARE` of `radius`, or where no way leads on."""
    path = world.path(pose.position, goals)
    if not path or polyline_length(path) <= STOP_SHARE * radius:
        return STOP
    return follow(pose, [(x, z) for x, _, z in path], world.ground, body)


def expert_primitives(
    world: World, body: Embodiment, pose: Pose, goals: tuple[Position, ...], radius: float, longest: int
) -> tuple[int, ...]:
    """The equal primitives, up to `longest`, that the follower would take next."""
    run = [expert_primitive(world, body, pose, goals, radius)]
    while run[0] != STOP and len(run) < longest:
        pose, _ = advance(pose, run[0], world.ground, body)
        if expert_primitive(world, body, pose, goals, radius) != run[0]:
            break
        run.append(run[0])
    return tuple(run)


def expert_walk(
    world: World, body: Embodiment, pose: Pose, goals: tuple[Position, ...], radius: float, max_steps: int = 500
) -> tuple[Position, ...]:
    """Positions of the expert from `pose` on, one a step, without rendering."""
    positions = [pose.position]
    while len(positions) <= max_steps:
        primitive = expert_primitive(world, body, pose, goals, radius)
        if primitive == STOP:
            break
        pose, _ = advance(pose, primitive, world.ground, body)
        positions.append(pose.position)
    return tuple(positions)
