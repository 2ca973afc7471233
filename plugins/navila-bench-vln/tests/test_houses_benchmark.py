"""The task `houses`, from its description to a model's score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from navila.cli import main
from navila.errors import ConfigError
from navila.plugins import default_host
from navila.testing import BenchmarkContract

pytest.importorskip("navila_sim_mesh", reason="needs the plugin navila-sim-mesh")


class TestHouses(BenchmarkContract):
    name = "houses"


@pytest.fixture(scope="module")
def houses() -> Any:
    return default_host().registry("benchmark").load("houses").tiny()


def test_a_longer_list_starts_with_the_shorter_one_and_seeds_differ(houses: Any) -> None:
    four = houses.episodes("level0", seed=1, limit=4)
    assert len(four) == 4
    assert houses.episodes("level0", seed=1, limit=2) == four[:2]
    assert houses.episodes("level0", seed=2, limit=2) != four[:2]
    assert {episode.info["level"] for episode in houses.episodes("level1", seed=1, limit=2)} == {1}


def test_success_is_stopping_within_the_episodes_own_radius(houses: Any) -> None:
    episode = houses.episodes("level0", seed=1, limit=1)[0]
    assert houses.success_distance(episode) == episode.goal_radius < 3.0


def test_an_unknown_split_is_named(houses: Any) -> None:
    with pytest.raises(ConfigError, match="no split 'val_unseen'"):
        houses.episodes("val_unseen", seed=0, limit=1)


@pytest.mark.parametrize("size", ["abc", 0, 64.5, True])
def test_a_camera_of_no_size_is_refused(size: Any) -> None:
    component: Any = default_host().registry("benchmark").load("houses")
    with pytest.raises(ConfigError, match=f"image_size of the task houses is {size!r}"):
        component(image_size=size)


def test_the_camera_is_the_one_asked_for() -> None:
    component: Any = default_host().registry("benchmark").load("houses")
    simulator = component(image_size=40).simulator()
    episode = simulator.make_episodes(level=0, seed=0, count=1)[0]
    assert simulator.reset(episode).rgb.shape == (40, 40, 3)


@pytest.fixture(scope="module")
def checkpoint(goldens: Path) -> Path:
    return goldens / "H_full_model" / "llama_siglip" / "ckpt"


def test_a_checkpoint_is_scored_in_real_houses(checkpoint: Path, tmp_path: Path) -> None:
    arguments = [
        *("eval", "-m", str(checkpoint), "-t", "houses", "--limit", "2", "--num-envs", "2", "--max-steps", "5"),
        *("--device", "cpu", "--decoding", "grammar", "--output-dir", str(tmp_path)),
    ]
    assert main(arguments) == 0
    folder = tmp_path / "ckpt" / "houses"
    records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        assert 1 <= len(record["primitives"]) <= 5
        assert all(decision["status"] == "ok" for decision in record["decisions"])
        assert record["instruction"] == record["episode_instruction"]
    results = json.loads((folder / "results.json").read_text())
    assert set(results["results"]["houses"]) == {
        metric.name for metric in default_host().registry("benchmark").spec("houses").metrics
    }
    assert results["run"]["model_sha256"]
    assert results["run"]["decoding"] == results["agent"]["decoding"] == "grammar"
    assert results["agent"]["num_frames"] == 8
    assert "robot programmed for navigation tasks" in results["agent"]["prompt"]
    assert results["counters"]["unparsed"] == 0
    assert "data:image/jpeg" in (folder / "report.html").read_text()


@pytest.mark.slow  # imports torch and transformers
def test_records_of_a_misled_model_do_not_depend_on_the_batch(checkpoint: Path, tmp_path: Path) -> None:
    import navila
    from navila_eval.agents import ModelAgent, wrong_instruction
    from navila_eval.navigation import evaluate_agent

    component: Any = default_host().registry("benchmark").load("houses")
    benchmark = component(image_size=64)
    simulators = [benchmark.simulator() for _ in range(3)]
    task = benchmark.task("houses", "level0", simulators[0], limit=4, max_steps=8)
    model = navila.load(checkpoint, device="cpu", dtype="float32")
    answers = []
    for count in (1, 3):
        folder = tmp_path / str(count)
        agent = ModelAgent(model, decoding="grammar", instruction=wrong_instruction(0))
        evaluate_agent(task, lambda agent=agent: agent, simulators[:count], folder, identity={}, quiet=True)
        records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
        answers.append({record["episode_id"]: record for record in records})
    assert answers[0] == answers[1]
    assert all(record["instruction"] != record["episode_instruction"] for record in answers[0].values())
