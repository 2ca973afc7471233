"""How the agent moves: steps, turns, walls, sliding, and what cannot be asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from navila.actions import FORWARD, LEFT, RIGHT
from navila.errors import ConfigError, SceneError
from navila.simulation import Embodiment, Episode
from navila_sim_mesh.agent import Pose, advance, bearing_to, wrap
from navila_sim_mesh.navigation import CELL, FloorGrid
from navila_sim_mesh.simulator import MeshSimulator

BODY = Embodiment(width=16, height=16)


def room(width: float = 4.0, depth: float = 4.0) -> FloorGrid:
    """A bare room from (0, 0) to (width, depth)."""
    free = np.zeros((round(depth / CELL) + 4, round(width / CELL) + 4), np.bool_)
    free[2:-2, 2:-2] = True
    origin = (-1.5 * CELL, -1.5 * CELL)
    return FloorGrid.build(origin=origin, free=free, height=np.zeros(free.shape, np.float32), radius=0.1)


def walk(pose: Pose, primitives: list[int], floor: FloorGrid, body: Embodiment) -> tuple[Pose, list[bool]]:
    touched = []
    for primitive in primitives:
        pose, collided = advance(pose, primitive, floor, body)
        touched.append(collided)
    return pose, touched


@pytest.mark.parametrize(
    ("degrees", "dx", "dz"), [(0, 0, -0.25), (90, -0.25, 0), (180, 0, 0.25), (-90, 0.25, 0), (30, -0.125, -0.216506)]
)
def test_forward_covers_a_quarter_metre_where_the_agent_looks(degrees: float, dx: float, dz: float) -> None:
    pose, collided = advance(Pose(x=2, y=0, z=2, yaw=math.radians(degrees)), FORWARD, room(), BODY)
    assert (pose.x - 2, pose.z - 2) == pytest.approx((dx, dz), abs=1e-5)
    assert not collided


def test_left_turns_counter_clockwise_by_fifteen_degrees() -> None:
    pose, _ = advance(Pose(x=2, y=0, z=2, yaw=0.0), LEFT, room(), BODY)
    assert math.degrees(pose.yaw) == pytest.approx(15)
    ahead, _ = advance(pose, FORWARD, room(), BODY)
    assert ahead.x < pose.x, "seen from above with -z up, the left is -x"
    back, _ = advance(pose, RIGHT, room(), BODY)
    assert back.yaw == pytest.approx(0.0)


def test_a_rotation_survives_the_way_through_a_quaternion() -> None:
    for degrees in range(-179, 181, 7):
        pose = Pose(x=0, y=0, z=0, yaw=math.radians(degrees))
        for rotation in (pose.rotation, tuple(-q for q in pose.rotation)):
            assert Pose.at(pose.position, rotation).yaw == pytest.approx(pose.yaw)  # pyright: ignore[reportArgumentType]


def test_bearings_are_positive_to_the_left_and_at_most_half_a_turn() -> None:
    pose = Pose(x=0, y=0, z=0, yaw=0.0)
    assert math.degrees(bearing_to(pose, -1, -1)) == pytest.approx(45)
    assert math.degrees(bearing_to(pose, 1, 0)) == pytest.approx(-90)
    assert wrap(-math.pi) == pytest.approx(math.pi)


def test_an_agent_never_comes_closer_to_a_wall_than_its_radius() -> None:
    rng = np.random.default_rng(0)
    for sliding in (True, False):
        pose = Pose(x=2, y=0, z=2, yaw=0.3)
        for primitive in rng.choice([1, 1, 1, 2, 3], 600):
            pose, _ = advance(pose, int(primitive), room(), replace(BODY, sliding=sliding))
            assert min(pose.x, pose.z, 4 - pose.x, 4 - pose.z) >= 0.1 - 5e-3


def test_running_straight_into_a_wall_stops_at_it_and_says_so() -> None:
    for sliding in (True, False):
        body = replace(BODY, sliding=sliding)
        pose, touched = walk(Pose(x=2, y=0, z=0.5, yaw=0.0), [FORWARD] * 3, room(), body)
        assert touched == [False, True, True]
        assert pose.z == pytest.approx(0.1, abs=0.03)
        assert pose.x == pytest.approx(2.0, abs=0.01)


def test_sliding_carries_the_agent_along_the_wall_and_without_it_the_agent_sticks() -> None:
    start = Pose(x=2, y=0, z=0.12, yaw=math.radians(-60))
    slid, touched = walk(start, [FORWARD] * 4, room(), BODY)
    assert touched[-1]
    assert slid.x - start.x == pytest.approx(4 * 0.25 * math.sin(math.radians(60)), abs=0.08)
    stuck, touched = walk(start, [FORWARD] * 4, room(), replace(BODY, sliding=False))
    assert touched[-1]
    assert math.hypot(stuck.x - start.x, stuck.z - start.z) < 0.1


def test_a_step_never_passes_through_a_thin_wall() -> None:
    floor = room()
    free = floor.free.copy()
    free[42, :] = False
    thin = FloorGrid.build(origin=floor.origin, free=free, height=floor.height, radius=0.1)
    pose, touched = walk(Pose(x=2, y=0, z=2.5, yaw=0.0), [FORWARD] * 8, thin, replace(BODY, forward_step=0.5))
    assert pose.z > 2.0
    assert touched[-1]


@pytest.fixture(scope="module")
def sim() -> MeshSimulator:
    return MeshSimulator(BODY)


@pytest.fixture(scope="module")
def episode(sim: MeshSimulator) -> Episode:
    return sim.make_episodes(level=1, seed=5, count=1)[0]


def test_stop_ends_the_episode_and_a_step_after_it_is_refused(sim: MeshSimulator, episode: Episode) -> None:
    sim.reset(episode)
    assert sim.step(0).done
    with pytest.raises(ConfigError, match=r"has ended with STOP; reset"):
        sim.step(1)
    sim.reset(episode)
    with pytest.raises(ConfigError, match=r"no primitive 7"):
        sim.step(7)


def test_an_episode_that_does_not_fit_its_scene_is_one_sentence(sim: MeshSimulator, episode: Episode) -> None:
    with pytest.raises(SceneError, match=r"start \(500\.00, 0\.00, 0\.00\) .* off the walkable floor"):
        sim.reset(replace(episode, start_position=(500.0, 0.0, 0.0)))
    with pytest.raises(SceneError, match="off the walkable floor"):
        sim.reset(replace(episode, start_position=(*episode.start_position[:1], 3.0, *episode.start_position[2:])))
    with pytest.raises(SceneError, match=r"No goal of episode .* can be reached"):
        sim.reset(replace(episode, goals=((-40.0, 0.0, 3.0),)))
    with pytest.raises(SceneError, match=r"houses/<seed>"):
        sim.reset(replace(episode, scene_id="houses/first"))
    assert not sim.reset(replace(episode, goals=())).done, "test splits have no goals"


def test_before_the_first_reset_nothing_can_be_asked() -> None:
    fresh = MeshSimulator(BODY)
    for ask in (fresh.landmarks, fresh.top_down_map, fresh.snapshot, lambda: fresh.step(1)):
        with pytest.raises(ConfigError, match="call reset first"):
            ask()
    with pytest.raises(ConfigError, match="restore takes what snapshot returned"):
        fresh.restore({"x": 1})


@pytest.mark.parametrize("wrong", [{"width": 0}, {"turn_angle": 0.0}, {"hfov": 180.0}, {"agent_radius": -0.1}])
def test_an_impossible_embodiment_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MeshSimulator(replace(BODY, **wrong))


def test_without_images_the_agent_moves_the_same(sim: MeshSimulator, episode: Episode) -> None:
    actions = [2, 1, 1, 3, 1]
    sim.reset(episode)
    seen = [sim.step(action).position for action in actions]
    marks = sim.landmarks()
    sim.render_images = False
    try:
        blind = [sim.reset(episode), *(sim.step(action) for action in actions)]
        assert [step.position for step in blind[1:]] == seen
        assert not any(step.rgb.any() for step in blind)
        assert sim.landmarks() == marks
    finally:
        sim.render_images = True
