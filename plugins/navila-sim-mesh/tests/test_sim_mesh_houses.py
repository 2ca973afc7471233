"""Procedural houses and their episodes: the same by seed, and what each level promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from navila.episodes import read_episodes, write_episodes
from navila.errors import ConfigError
from navila.simulation import Embodiment, Episode
from navila_sim_mesh.house_episodes import goal_points
from navila_sim_mesh.houses import build_house
from navila_sim_mesh.instructions import passages
from navila_sim_mesh.navigation import polyline_length
from navila_sim_mesh.simulator import MeshSimulator
from navila_sim_mesh.world import HouseWorld

LEVELS = (0, 1, 2, 3)
COUNT = 40


@pytest.fixture(scope="module")
def sim() -> MeshSimulator:
    return MeshSimulator(Embodiment(width=64, height=64), scenes_kept=12)


@pytest.fixture(scope="module")
def episodes(sim: MeshSimulator) -> dict[int, tuple[Episode, ...]]:
    return {level: sim.make_episodes(level=level, seed=11, count=COUNT) for level in LEVELS}


def test_equal_seeds_build_equal_houses_and_others_do_not() -> None:
    first, again, other = build_house(4), build_house(4), build_house(5)
    assert np.array_equal(first.surface.triangles, again.surface.triangles)
    assert np.array_equal(first.surface.rgb, again.surface.rgb)
    assert first.landmarks == again.landmarks
    assert first.landmarks != other.landmarks


@pytest.mark.parametrize("seed", range(12))
def test_a_house_is_as_it_is_described(seed: int) -> None:
    world = HouseWorld(f"houses/{seed}", seed, 0.1)
    house = world.house
    assert house is not None
    assert 3 <= len(house.rooms) <= 6
    assert all(5.9 <= side <= 9.1 for r in house.rooms for side in (r.x1 - r.x0, r.z1 - r.z0))
    assert all(max(d.floor.x1 - d.floor.x0, d.floor.z1 - d.floor.z0) >= 1.0 - 1e-6 for d in house.doors)
    assert len({mark.name for mark in house.landmarks}) == len(house.landmarks)
    for room in range(len(house.rooms)):
        marks = [mark for mark in house.landmarks if mark.room == room]
        assert 4 <= len(marks) <= 5
        assert len({mark.colour for mark in marks}) == len({mark.shape for mark in marks}) == len(marks)
        for a, b in itertools.combinations(marks, 2):
            assert math.dist((a.obstacle.x, a.obstacle.z), (b.obstacle.x, b.obstacle.z)) >= 2.6 - 0.08
    # One connected floor: every landmark can be reached from every other.
    start = goal_points(world, house.landmarks[0])[0]
    for mark in house.landmarks:
        assert math.isfinite(world.distance(start, goal_points(world, mark)))
        assert house.landmark_of_triangle.tolist().count(house.landmarks.index(mark)) > 0


def test_goal_zones_of_one_room_hardly_touch() -> None:
    touching = pairs = 0
    for seed in range(12):
        world = HouseWorld(f"houses/{seed}", seed, 0.1)
        assert world.house is not None
        for a, b in itertools.combinations(world.house.landmarks, 2):
            if a.room == b.room:
                gaps = [math.dist(p, q) for p in goal_points(world, a) for q in goal_points(world, b)]
                pairs += 1
                touching += min(gaps) < 2.0
    assert touching / pairs < 0.1


def test_equal_seeds_make_equal_episodes_and_images(episodes: dict[int, tuple[Episode, ...]]) -> None:
    fresh, again = (MeshSimulator(Embodiment(width=64, height=64)) for _ in range(2))
    assert fresh.make_episodes(level=0, seed=11, count=6) == episodes[0][:6]
    for episode in episodes[0][:3]:
        assert np.array_equal(fresh.reset(episode).rgb, again.reset(episode).rgb)


def test_other_seeds_use_other_houses(sim: MeshSimulator, episodes: dict[int, tuple[Episode, ...]]) -> None:
    here = {episode.scene_id for level in LEVELS for episode in episodes[level]}
    for seed in (0, 1, 12):
        assert here.isdisjoint(e.scene_id for e in MeshSimulator.tiny().make_episodes(level=1, seed=seed, count=10))


def test_the_image_size_does_not_change_the_episodes(episodes: dict[int, tuple[Episode, ...]]) -> None:
    wide = MeshSimulator(Embodiment(width=48, height=32, hfov=79.0))
    assert wide.make_episodes(level=0, seed=11, count=5) == episodes[0][:5]


@pytest.mark.parametrize("level", LEVELS)
def test_every_episode_names_its_landmark_among_others(
    sim: MeshSimulator, episodes: dict[int, tuple[Episode, ...]], level: int
) -> None:
    assert len(episodes[level]) == COUNT
    assert len({episode.episode_id for episode in episodes[level]}) == COUNT
    for episode in episodes[level]:
        target, others = episode.info["landmark"], episode.info["other_landmarks"]
        assert episode.info["level"] == level
        assert target in episode.instruction
        assert target not in others
        assert len(set(others)) == len(others) >= 3
        sim.reset(episode)
        rooms = {mark.name: mark.room for mark in sim.landmarks()}
        assert all(rooms[name] == rooms[target] for name in others)
        assert not any(name in episode.instruction for name in others)


def test_level_0_starts_with_the_landmark_in_view(sim: MeshSimulator, episodes: dict[int, tuple[Episode, ...]]) -> None:
    for episode in episodes[0]:
        sim.reset(episode)
        (mark,) = (mark for mark in sim.landmarks() if mark.name == episode.info["landmark"])
        assert mark.visible_fraction >= 0.01
        assert abs(mark.bearing) <= 40
        assert episode.geodesic_distance is not None
        assert 2.5 <= episode.geodesic_distance <= 6.0


def test_level_1_often_starts_with_the_landmark_out_of_view(
    sim: MeshSimulator, episodes: dict[int, tuple[Episode, ...]]
) -> None:
    unseen = 0
    for episode in episodes[1]:
        sim.reset(episode)
        (mark,) = (mark for mark in sim.landmarks() if mark.name == episode.info["landmark"])
        unseen += mark.visible_fraction == 0
        assert mark.distance < 9.0
    assert unseen > COUNT / 2


@pytest.mark.parametrize("level", [2, 3])
def test_levels_2_and_3_lead_through_doors_that_the_instruction_tells(
    sim: MeshSimulator, episodes: dict[int, tuple[Episode, ...]], level: int
) -> None:
    for episode in episodes[level]:
        house = build_house(int(episode.scene_id.removeprefix("houses/")))
        doors = passages(house, episode.reference_path)
        assert len(doors) == 1 if level == 2 else len(doors) >= 2
        assert episode.instruction.count("door") == len(doors)
        (target,) = (mark for mark in house.landmarks if mark.name == episode.info["landmark"])
        assert house.rooms[target.room].contains(*episode.reference_path[-1][::2])
        assert not house.rooms[target.room].contains(*episode.start_position[::2])
        assert doors[-1].room != target.room


def test_a_door_is_told_on_the_side_where_it_is(sim: MeshSimulator, episodes: dict[int, tuple[Episode, ...]]) -> None:
    sides = {"on your left": (45, 135), "on your right": (-135, -45), "ahead of you": (-45, 45)}
    told = set()
    for episode in episodes[2]:
        house = build_house(int(episode.scene_id.removeprefix("houses/")))
        x, z = passages(house, episode.reference_path)[0].door.floor.centre
        qy, qw = episode.start_rotation[1], episode.start_rotation[3]
        ahead = np.array([-2 * qy * qw, -(1 - 2 * qy * qy)])
        away = np.array([x - episode.start_position[0], z - episode.start_position[2]])
        # Positive to the left; seen from above, x runs to the right and z down.
        angle = math.degrees(math.atan2(ahead[1] * away[0] - ahead[0] * away[1], ahead @ away))
        side = next((side for side in sides if side in episode.instruction), "behind you")
        told.add(side)
        low, high = sides.get(side, (135, 225))
        assert low - 1e-6 <= (angle if low >= -135 and high <= 135 else angle % 360) <= high + 1e-6
    assert len(told) >= 3


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sliding", [True, False])
def test_the_expert_succeeds_on_a_short_path(level: int, sliding: bool) -> None:
    body = Embodiment(width=8, height=8, sliding=sliding)
    sim = MeshSimulator(body, scenes_kept=8)
    spl = []
    for episode in sim.make_episodes(level=level, seed=23, count=COUNT if sliding else 10):
        sim.render_images = False
        sim.reset(episode)
        left = sim.geodesic(episode.gt_locations[-1], episode.goals)
        walked = polyline_length(episode.gt_locations)
        assert episode.geodesic_distance is not None
        spl.append((left < episode.goal_radius) * episode.geodesic_distance / max(episode.geodesic_distance, walked))
    assert np.mean(np.array(spl) > 0) >= 0.99
    assert np.mean(spl) >= 0.95


def test_the_expert_of_the_simulator_walks_the_recorded_path(
    sim: MeshSimulator, episodes: dict[int, tuple[Episode, ...]]
) -> None:
    for episode in (episodes[0][0], episodes[3][0]):
        seen = sim.reset(episode)
        positions = [seen.position]
        while not seen.done:
            run = sim.expert_run(episode.goals, episode.goal_radius, 3)
            action = sim.expert_action(episode.goals[0], episode.goal_radius)
            assert run[0] == action
            seen = sim.step(action)
            if not seen.done:
                positions.append(seen.position)
        assert tuple(positions) == episode.gt_locations


def test_an_episode_can_be_given_another_landmark_of_its_room(
    sim: MeshSimulator, episodes: dict[int, tuple[Episode, ...]]
) -> None:
    for level in LEVELS:
        episode = episodes[level][0]
        other = episode.info["other_landmarks"][0]
        changed = sim.retarget(episode, other, seed=1)
        assert changed == sim.retarget(episode, other, seed=1)
        assert other in changed.instruction
        assert episode.info["landmark"] in changed.info["other_landmarks"]
        assert changed.start_position == episode.start_position
        sim.reset(changed)
        assert sim.geodesic(changed.start_position, changed.goals) == changed.geodesic_distance
        if level > 1:
            house = build_house(int(episode.scene_id.removeprefix("houses/")))
            path = sim.shortest_path(episode.start_position, changed.goals[0])
            assert changed.instruction.count("door") >= len(passages(house, path)) > 0
    with pytest.raises(ConfigError, match="no landmark 'mauve piano'"):
        sim.retarget(episodes[0][0], "mauve piano", seed=0)


def test_episodes_survive_a_vln_ce_file(tmp_path, episodes: dict[int, tuple[Episode, ...]]) -> None:
    every = tuple(episode for level in LEVELS for episode in episodes[level])
    write_episodes(tmp_path / "houses.json.gz", every)
    assert read_episodes(tmp_path / "houses.json.gz") == every


@pytest.mark.parametrize(("wrong", "match"), [({"level": 4}, "no level 4"), ({"seed": -1}, "not be negative")])
def test_impossible_wishes_are_one_sentence(wrong: dict[str, int], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        MeshSimulator.tiny().make_episodes(**({"level": 0, "seed": 0, "count": 1} | wrong))


def test_an_agent_too_large_for_the_houses_is_told_so() -> None:
    giant = MeshSimulator(Embodiment(width=8, height=8, agent_radius=1.6))
    with pytest.raises(ConfigError, match=r"radius 1\.6 m"):
        giant.make_episodes(level=2, seed=0, count=1)
