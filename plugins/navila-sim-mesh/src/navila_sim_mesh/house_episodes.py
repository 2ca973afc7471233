"""Episodes in procedural houses, by level and seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from navila.errors import ConfigError
from navila.simulation import Embodiment, Episode, Position

from navila_sim_mesh.agent import Pose, bearing_to
from navila_sim_mesh.expert import expert_walk
from navila_sim_mesh.houses import House, PlacedLandmark
from navila_sim_mesh.instructions import instruct, passages
from navila_sim_mesh.renderer import Camera
from navila_sim_mesh.world import HouseWorld

#: Metres; the nearest of the goal points around a landmark counts.
GOAL_RADIUS = 1.0
EPISODES_A_HOUSE = 5
#: Some houses have no task of a level; more than so many for each episode means that none ever will.
MOST_HOUSES_AN_EPISODE = 20
#: 0 the landmark is in view; 1 it is in the same room; 2 it is in a neighbouring room; 3 it is several doors away.
LEVELS = (0, 1, 2, 3)
#: Shortest and longest way to the goal by level, metres.
DISTANCES = {0: (2.5, 6.0), 1: (2.5, 6.0), 2: (3.0, 13.0), 3: (8.0, 30.0)}
#: Share of the pixels of a 64 x 64 image a landmark must fill to count as in view.
IN_VIEW_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A start and a target that fit a level."""

    pose: Pose
    target: PlacedLandmark
    goals: tuple[Position, ...]
    distance: float
    path: tuple[Position, ...]
    instruction: str


def make_episodes(
    world_of: Callable[[str], HouseWorld], body: Embodiment, *, level: int, seed: int, count: int
) -> tuple[Episode, ...]:
    """Make `count` episodes of `level`, a few a house, in houses that only this `seed` uses.

    Raises:
        ConfigError: the level does not exist, or the body is too large for the houses.
    """
    if seed < 0 or count < 0:
        raise ConfigError(f"Seed {seed} and count {count} of procedural episodes must not be negative.")
    if level not in LEVELS:
        raise ConfigError(
            f"There is no level {level} of procedural episodes; choose one of {', '.join(map(str, LEVELS))}."
        )
    episodes: list[Episode] = []
    number = 0
    while len(episodes) < count:
        # The seed of a house does not depend on the level: the levels of one seed share their houses.
        state = np.random.SeedSequence([seed, number, 0x45504953]).generate_state(2)
        scene_id = f"houses/{int(state[0]) << 16 | int(state[1]) & 0xFFFF}"
        world = world_of(scene_id)
        rng = np.random.default_rng(np.random.SeedSequence([seed, number, level, 0x5441534B]))
        for _ in range(min(EPISODES_A_HOUSE, count - len(episodes))):
            task = _draw(world, body, rng, level)
            if task is None:
                break
            episodes.append(_episode(world, body, task, level, f"houses-{level}-{seed}-{len(episodes)}"))
        number += 1
        if number > MOST_HOUSES_AN_EPISODE * count:
            raise ConfigError(
                f"Hardly any episode of level {level} fits an agent of radius {body.agent_radius} m; make it smaller."
            )
    return tuple(episodes)


def goal_points(world: HouseWorld, mark: PlacedLandmark) -> tuple[Position, ...]:
    """Walkable points in a ring close round a landmark."""
    floor = world.floor
    obstacle = mark.obstacle
    points = []
    for k in range(16):
        angle = 2 * math.pi * k / 16
        s, c = math.sin(angle), math.cos(angle)
        hx, hz = obstacle.half_size
        reach = hx if obstacle.round else min(hx / abs(s) if s else math.inf, hz / abs(c) if c else math.inf)
        reach += floor.radius + 0.1
        x, z = round(obstacle.x + s * reach, 3), round(obstacle.z + c * reach, 3)
        if floor.is_walkable(x, z):
            points.append((x, 0.0, z))
    return tuple(points)


def retarget(world: HouseWorld, episode: Episode, landmark: str, seed: int) -> Episode:
    """`episode` with another landmark of its room as the goal.

    Raises:
        ConfigError: the house has no such landmark.
    """
    marks = world.house.landmarks if world.house is not None else ()
    mark = next((mark for mark in marks if mark.name == landmark), None)
    if mark is None or world.house is None:
        raise ConfigError(f"There is no landmark {landmark!r} in {episode.scene_id!r}; sim.landmarks() lists them.")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x52455441]))
    goals = goal_points(world, mark)
    path = world.path(episode.start_position, goals)
    pose = Pose.at(episode.start_position, episode.start_rotation)
    names = [other.name for other in marks if other.room == mark.room and other is not mark]
    return replace(
        episode,
        goals=goals,
        instruction=instruct(rng, world.house, int(episode.info.get("level", 1)), pose, path, mark),
        reference_path=(),
        gt_locations=(),
        geodesic_distance=world.distance(episode.start_position, goals) if goals else math.inf,
        info={**episode.info, "landmark": mark.name, "other_landmarks": names},
    )


def _draw(world: HouseWorld, body: Embodiment, rng: np.random.Generator, level: int) -> _Task | None:
    house = world.house
    assert house is not None
    for _ in range(300):
        target = house.landmarks[int(rng.integers(len(house.landmarks)))]
        if sum(mark.room == target.room for mark in house.landmarks) < 4:
            continue
        task = _task(world, house, body, rng, target, level)
        if task is not None:
            return task
    return None


def _task(
    world: HouseWorld, house: House, body: Embodiment, rng: np.random.Generator, target: PlacedLandmark, level: int
) -> _Task | None:
    """A start from which going to `target` is a task of `level`; None when the one drawn does not fit."""
    start_rooms = [target.room] if level < 2 else [room for room in range(len(house.rooms)) if room != target.room]
    # No draw for a single room: episodes of levels 0 and 1 keep their random numbers.
    room = start_rooms[int(rng.integers(len(start_rooms)))] if len(start_rooms) > 1 else start_rooms[0]
    pose = _random_pose(world, rng, house, room)
    if pose is None:
        return None
    obstacle = target.obstacle
    if level == 0:
        offset = math.radians(rng.uniform(-38.0, 38.0))
        yaw = pose.yaw + bearing_to(pose, obstacle.x, obstacle.z) + offset
        pose = Pose(x=pose.x, y=pose.y, z=pose.z, yaw=math.remainder(yaw, 2 * math.pi))
    goals = goal_points(world, target)
    distance = world.distance(pose.position, goals) if goals else math.inf
    shortest, longest = DISTANCES[level]
    if not shortest <= distance <= longest:
        return None
    if level == 0 and share_in_view(world, house, body, pose)[house.landmarks.index(target)] < IN_VIEW_SHARE:
        return None
    path = world.path(pose.position, goals)
    doors = len(passages(house, path))
    if (level == 2 and doors != 1) or (level == 3 and doors < 2):
        return None
    return _Task(
        pose=pose,
        target=target,
        goals=goals,
        distance=distance,
        path=path,
        instruction=instruct(rng, house, level, pose, path, target),
    )


def share_in_view(world: HouseWorld, house: House, body: Embodiment, pose: Pose) -> list[float]:
    """Share of a 64 x 64 image at 90 degrees that each landmark fills, whatever the agent's own camera."""
    camera = Camera(64, 64, 90.0)
    seen = world.renderer.triangles_seen(camera, (pose.x, pose.y + body.camera_height, pose.z), pose.yaw)
    marks = house.landmark_of_triangle[seen[seen >= 0]]
    counts = np.bincount(marks[marks >= 0], minlength=len(house.landmarks))
    return (counts / seen.size).tolist()


def _random_pose(world: HouseWorld, rng: np.random.Generator, house: House, room: int) -> Pose | None:
    """A pose in a room, an arm's length from everything, on the part of the floor all doors belong to."""
    rect, floor = house.rooms[room], world.floor
    x = round(float(rng.uniform(rect.x0 + 0.3, rect.x1 - 0.3)), 3)
    z = round(float(rng.uniform(rect.z0 + 0.3, rect.z1 - 0.3)), 3)
    yaw = math.radians(round(float(rng.uniform(-180.0, 180.0)), 2))
    if floor.clearance_at(x, z)[0] < floor.radius + 0.25:
        return None
    return Pose(x=x, y=floor.floor_height(x, z), z=z, yaw=yaw)


def _episode(world: HouseWorld, body: Embodiment, task: _Task, level: int, episode_id: str) -> Episode:
    house = world.house
    assert house is not None
    # The goal the expert walks to comes first, for callers that look at one goal only.
    goals = sorted(task.goals, key=lambda goal: math.dist(goal, task.path[-1]))
    return Episode(
        episode_id=episode_id,
        trajectory_id=episode_id,
        scene_id=world.scene_id,
        start_position=task.pose.position,
        start_rotation=task.pose.rotation,
        goals=tuple(goals),
        goal_radius=GOAL_RADIUS,
        instruction=task.instruction,
        reference_path=task.path,
        gt_locations=expert_walk(world, body, task.pose, task.goals, GOAL_RADIUS),
        geodesic_distance=task.distance,
        info={
            "level": level,
            "landmark": task.target.name,
            "other_landmarks": [
                mark.name for mark in house.landmarks if mark.room == task.target.room and mark is not task.target
            ],
        },
    )
