"""Several agents in one scene, and tasks made from other tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from navila.errors import ConfigError
from navila_sim_mesh.simulator import MeshSimulator


@pytest.fixture(scope="module")
def simulator() -> MeshSimulator:
    return MeshSimulator.tiny()


def test_a_fork_shares_the_scene_and_moves_alone(simulator: MeshSimulator):
    first, second = simulator.make_episodes(level=0, seed=3, count=2)
    fork = simulator.fork()
    seen = simulator.reset(first)
    fork.reset(second)
    assert fork._world(second.scene_id) is simulator._world(first.scene_id)
    for _ in range(3):
        fork.step(2)
    assert simulator.restore(simulator.snapshot()).position == first.start_position
    np.testing.assert_array_equal(simulator.restore(simulator.snapshot()).rgb, seen.rgb)


def test_the_expert_reaches_a_retargeted_landmark_by_its_runs(simulator: MeshSimulator):
    (episode,) = simulator.make_episodes(level=1, seed=4, count=1)
    for name in episode.info["other_landmarks"]:
        task = simulator.retarget(episode, name, seed=1)
        assert name in task.instruction
        assert task.info["landmark"] == name
        assert episode.info["landmark"] in task.info["other_landmarks"]
        observation = simulator.reset(task)
        for _ in range(100):
            run = simulator.expert_run(task.goals, task.goal_radius, 3)
            assert 1 <= len(run) <= 3
            assert len(set(run)) == 1
            # A run is what single steps would do.
            assert run[0] == simulator.expert_action(task.goals[0], task.goal_radius)
            if run[0] == 0:
                break
            for primitive in run:
                observation = simulator.step(primitive)
        assert simulator.geodesic(observation.position, task.goals) < task.goal_radius


def test_retargeting_to_an_unknown_landmark_is_one_sentence(simulator: MeshSimulator):
    (episode,) = simulator.make_episodes(level=1, seed=4, count=1)
    with pytest.raises(ConfigError, match="no landmark 'grey piano'"):
        simulator.retarget(episode, "grey piano", seed=0)


def test_strips_say_where_in_the_image_a_landmark_is(simulator: MeshSimulator):
    for episode in simulator.make_episodes(level=0, seed=5, count=10):
        simulator.reset(episode)
        for mark in simulator.landmarks():
            assert sum(mark.strips) > 0 if mark.visible_fraction else sum(mark.strips) == 0
            if mark.visible_fraction > 0.03 and abs(mark.bearing) < 30:
                centre = sum((i + 0.5) * share for i, share in enumerate(mark.strips)) / sum(mark.strips)
                assert (centre < 3) == (mark.bearing > 0) or abs(centre - 3) < 1.5


@pytest.mark.parametrize("option", [{"up": "w"}, {"scenes_kept": "many"}, {"scenes_kept": 0}])
def test_options_that_mean_nothing_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"option {next(iter(option))} of the simulator mesh"):
        MeshSimulator(**option)
