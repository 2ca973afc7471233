"""Contract of simulators."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from navila.simulation import Episode, Observation, ProceduralSimulator, Simulator, yaw_of
from navila.testing.contract import ComponentContract

STOP, FORWARD, LEFT, RIGHT = range(4)


class SimulatorContract(ComponentContract):
    """Tests every simulator passes. One that makes no episodes itself overrides the fixture `episode`."""

    kind = "simulator"
    max_steps: int = 500
    """Within which the expert reaches the goal of `episode`."""

    @pytest.fixture
    def episode(self, tiny: Simulator) -> Episode:
        """A task in a scene that needs no files."""
        if not isinstance(tiny, ProceduralSimulator):
            pytest.fail("override the fixture `episode`: this simulator makes none itself")
        return tiny.make_episodes(level=1, seed=0, count=1)[0]

    def test_an_observation_has_the_declared_shape(self, tiny: Simulator, episode: Episode, spec: Any) -> None:
        seen = tiny.reset(episode)
        size = (tiny.embodiment.height, tiny.embodiment.width)
        assert seen.rgb.shape == (*size, 3)
        assert seen.rgb.dtype == "uint8"
        if tiny.embodiment.depth:
            assert seen.depth is not None
            assert seen.depth.shape == size
            assert seen.depth.dtype == "float32"
            assert "depth" in spec.sensors
        else:
            assert seen.depth is None

    def test_an_episode_starts_where_it_says(self, tiny: Simulator, episode: Episode) -> None:
        seen = tiny.reset(episode)
        assert math.dist(seen.position, episode.start_position) < 0.1
        assert same_rotation(seen.rotation, episode.start_rotation)
        assert not seen.done
        assert not seen.collided

    def test_equal_actions_give_equal_observations(self, tiny: Simulator, episode: Episode) -> None:
        first = [tiny.reset(episode), *(tiny.step(action) for action in (LEFT, FORWARD, RIGHT, FORWARD))]
        again = [tiny.reset(episode), *(tiny.step(action) for action in (LEFT, FORWARD, RIGHT, FORWARD))]
        assert all(same_observation(a, b) for a, b in zip(first, again, strict=True))

    def test_a_full_turn_ends_where_it_began(self, tiny: Simulator, episode: Episode) -> None:
        start = tiny.reset(episode)
        seen = start
        for _ in range(round(360 / tiny.embodiment.turn_angle)):
            seen = tiny.step(LEFT)
        assert same_rotation(seen.rotation, start.rotation)
        assert math.dist(seen.position, start.position) < 1e-3

    def test_left_turns_by_the_declared_angle_and_right_turns_back(self, tiny: Simulator, episode: Episode) -> None:
        start = tiny.reset(episode)
        turned = tiny.step(LEFT)
        change = (math.degrees(yaw_of(turned.rotation) - yaw_of(start.rotation)) + 180) % 360 - 180
        assert change == pytest.approx(tiny.embodiment.turn_angle, abs=0.01)
        assert same_rotation(tiny.step(RIGHT).rotation, start.rotation)

    def test_forward_moves_along_the_view_by_the_declared_step(self, tiny: Simulator, episode: Episode) -> None:
        tiny.reset(episode)
        free = 0
        for _ in range(round(360 / tiny.embodiment.turn_angle)):
            state = tiny.snapshot()
            start = tiny.restore(state)
            moved = tiny.step(FORWARD)
            step = math.dist(start.position, moved.position)
            assert step <= tiny.embodiment.forward_step + 1e-3
            if not moved.collided:
                free += 1
                # Yaw 0 looks along -z, and a left turn raises it.
                heading = yaw_of(start.rotation)
                ahead = (moved.position[0] - start.position[0]) * -math.sin(heading)
                ahead += (moved.position[2] - start.position[2]) * -math.cos(heading)
                assert ahead == pytest.approx(tiny.embodiment.forward_step, abs=0.02)
            tiny.restore(state)
            tiny.step(LEFT)
        assert free, "from the start of `episode` the agent can move nowhere"

    def test_stop_ends_the_episode(self, tiny: Simulator, episode: Episode) -> None:
        start = tiny.reset(episode)
        seen = tiny.step(STOP)
        assert seen.done
        assert seen.position == start.position

    def test_a_snapshot_is_returned_to_exactly(self, tiny: Simulator, episode: Episode) -> None:
        tiny.reset(episode)
        here = tiny.step(LEFT)
        state = tiny.snapshot()
        ahead = [tiny.step(action) for action in (FORWARD, LEFT, FORWARD)]
        assert same_observation(tiny.restore(state), here)
        again = [tiny.step(action) for action in (FORWARD, LEFT, FORWARD)]
        assert all(same_observation(a, b) for a, b in zip(ahead, again, strict=True))
        assert same_observation(tiny.restore(state), here), "a snapshot serves more than once"

    def test_the_shortest_path_is_as_long_as_the_geodesic_distance(self, tiny: Simulator, episode: Episode) -> None:
        tiny.reset(episode)
        start, goal = episode.start_position, episode.goals[0]
        path = tiny.shortest_path(start, goal)
        length = sum(math.dist(a, b) for a, b in itertools.pairwise(path))
        distance = tiny.geodesic(start, [goal])
        assert math.dist(path[0], start) < 0.1
        assert math.dist(path[-1], goal) < 0.1
        assert distance == pytest.approx(length, rel=0.02, abs=0.1)
        assert distance >= math.dist(start, goal) - 0.1

    def test_geodesic_distance_is_a_distance(self, tiny: Simulator, episode: Episode) -> None:
        tiny.reset(episode)
        start, goal = episode.start_position, episode.goals[0]
        there = tiny.geodesic(start, [goal])
        assert 0 < there < math.inf
        assert tiny.geodesic(goal, [goal]) == pytest.approx(0, abs=1e-6)
        assert tiny.geodesic(goal, [start]) == pytest.approx(there, rel=0.02)
        assert tiny.geodesic(start, [goal, start]) == pytest.approx(0, abs=1e-6), "the nearest goal counts"

    def test_the_expert_reaches_the_goal(self, tiny: Simulator, episode: Episode) -> None:
        seen = tiny.reset(episode)
        goal, radius = episode.goals[0], min(episode.goal_radius, 1.0)
        for _ in range(self.max_steps):
            action = tiny.expert_action(goal, radius)
            if action == STOP:
                break
            seen = tiny.step(action)
        else:
            pytest.fail(f"the expert is still walking after {self.max_steps} steps")
        assert tiny.geodesic(seen.position, [goal]) <= radius + 1e-3

    def test_the_map_shows_where_the_agent_stands(self, tiny: Simulator, episode: Episode) -> None:
        seen = tiny.reset(episode)
        floor = tiny.top_down_map()
        assert floor.rgb.shape == (*floor.walkable.shape, 3)
        assert floor.rgb.dtype == "uint8"
        column = round((seen.position[0] - floor.origin[0]) / floor.resolution)
        row = round((seen.position[2] - floor.origin[1]) / floor.resolution)
        around = floor.walkable[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        assert around.any()

    def test_equal_seeds_make_equal_episodes(self, tiny: Simulator) -> None:
        if not isinstance(tiny, ProceduralSimulator):
            pytest.skip("this simulator makes no episodes itself")
        first = tiny.make_episodes(level=0, seed=3, count=2)
        assert len(first) == 2
        assert tiny.make_episodes(level=0, seed=3, count=2) == first
        assert tiny.make_episodes(level=0, seed=4, count=2) != first


def same_rotation(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two unit quaternions are one rotation; q and -q are."""
    return abs(sum(p * q for p, q in zip(a, b, strict=True))) > 1 - 1e-6


def same_observation(a: Observation, b: Observation) -> bool:
    """Whether pose and every pixel agree."""
    import numpy as np

    return (
        math.dist(a.position, b.position) < 1e-6
        and same_rotation(a.rotation, b.rotation)
        and np.array_equal(a.rgb, b.rgb)
        and (a.collided, a.done) == (b.collided, b.done)
    )
