"""Environments in processes of their own: the same walks, and what breaks there costs one episode."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from navila.errors import ConfigError, NavilaError, SceneError, SimulatorError
from navila.plugins import default_host
from navila.simulation import Episode
from navila_eval.agents import swapped_sides
from navila_eval.benchmark import Request, Results
from navila_eval.episode_queue import EpisodeQueue
from navila_eval.jsonl import read_jsonl
from navila_eval.perturbations import Perturbation, PerturbedSimulator
from navila_eval.run_folder import RunFolder
from navila_eval.simulator_process import start_simulators


@pytest.fixture
def corridor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the task `corridor`, whose plugin is a file that processes have to load themselves."""
    monkeypatch.setenv("NAVILA_PLUGINS", str(Path(__file__).parent / "corridor.py"))
    return default_host().registry("benchmark").load("corridor")


def no_model() -> Any:
    raise AssertionError("nobody asked for a model")


def run(benchmark: Any, folder: Path, **asked: Any) -> Results:
    settings = {"agent": "random", "batch_size": 1, "identity": {}, "quiet": True, "limit": 9, **asked}
    request = Request(
        task="corridor", split="val", output_dir=folder, model_name="none", **{"load_model": no_model, **settings}
    )
    return benchmark.run(request)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return RunFolder(folder).records()


def test_eight_processes_walk_what_one_environment_walks_here(corridor: Any, tmp_path: Path) -> None:
    here = run(corridor(), tmp_path / "one")
    apart = run(corridor(), tmp_path / "eight", batch_size=8, env_processes=True)
    assert records(tmp_path / "one") == records(tmp_path / "eight")
    assert apart.content["results"] == here.content["results"]
    timings, _ = read_jsonl(tmp_path / "eight" / "timings.jsonl")
    assert {line["episode_id"] for line in timings} == set(records(tmp_path / "eight"))
    assert all(line["seconds"] > 0 for line in timings)


def test_two_processes_share_the_episodes_of_a_run(corridor: Any, tmp_path: Path) -> None:
    alone = run(corridor(), tmp_path / "one")
    shared = run(corridor(delay=0.01), tmp_path / "two", processes=2, model_loader=print, load_model=print, force=True)
    assert shared.content["results"] == alone.content["results"]
    assert (tmp_path / "one" / "episodes.jsonl").read_bytes() == (tmp_path / "two" / "episodes.jsonl").read_bytes()
    with pytest.raises(NavilaError, match="the corridor is too long"):
        run(corridor(delay=-1.0), tmp_path / "long", processes=2, model_loader=print, load_model=print)


def test_what_hangs_dies_or_answers_nonsense_costs_its_episode(corridor: Any, tmp_path: Path) -> None:
    faults = {
        "hangs": "did not answer 'step' within 6 s and was ended",
        "dies": "process ended by SIGKILL",
        "raises": "OSError: disk on fire",
        "nan": "the position (nan, 0.0, 0.0) instead of 3 finite numbers",
        "turned": "which is no unit quaternion",
        "shape": "an image of uint8 (3, 8, 3) instead of uint8 (6, 8, 3)",
        "dtype": "an image of float32 (6, 8, 3)",
        "expert": "RuntimeError: no way on",
    }
    began = time.monotonic()
    results = run(
        corridor(faults="+".join(faults)),
        tmp_path,
        agent="expert",
        limit=12,
        batch_size=3,
        env_processes=True,
        # Starting one takes seconds, and may take ten times that.
        sim_timeout=6.0,
    )
    assert time.monotonic() - began < 500, "a simulator that hangs is not waited for"
    failed = {case["episode_id"]: case["error"] for case in results.content["failed_episodes"]}
    assert list(failed) == [f"e{number}" for number in range(1, 9)]
    for error, sentence in zip(failed.values(), faults.values(), strict=True):
        assert sentence in error
    assert results.metrics["sr"] == 4 / 12
    assert {r["outcome"] for r in records(tmp_path).values() if r["episode_id"] not in failed} == {"stopped"}


def test_an_episode_that_does_not_fit_its_scene_leaves_the_simulator_as_it_is(corridor: Any) -> None:
    task = corridor(faults="scene")
    first, unfit = task.episodes("val", seed=0, limit=2, data_root=None)
    (simulator,) = start_simulators(task.simulator, 1, task="corridor")
    with pytest.raises(SceneError, match=r"^There is no floor here\.$"):
        simulator.reset(unfit)
    assert simulator.reset(first).position == first.start_position
    simulator.close()
    with pytest.raises(SimulatorError, match="was closed"):
        simulator.step(1)


def test_what_a_simulator_started_ends_with_it(corridor: Any) -> None:
    task = corridor(faults="engine")
    episode = task.episodes("val", seed=0, limit=2, data_root=None)[1]
    (simulator,) = start_simulators(task.simulator, 1, task="corridor")
    simulator.reset(episode)
    engine = simulator.snapshot()[-1]
    assert not ended(engine)
    simulator.kill()
    while not ended(engine):
        time.sleep(0.01)


def ended(process: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_simulators_that_cannot_start_stop_the_run_in_a_sentence(
    corridor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRIDOR_CLOSED", "1")
    with pytest.raises(NavilaError, match="cannot be started: OSError: the corridor is closed"):
        run(corridor(), tmp_path, env_processes=True)


def test_films_show_every_step_of_the_episodes_that_are_wanted(
    corridor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import av

    run(corridor(faults="raises"), tmp_path / "failed", agent="expert", limit=3, video="failed")
    assert [path.name[:2] for path in (tmp_path / "failed" / "videos").iterdir()] == ["e1"]
    run(corridor(), tmp_path / "two", agent="random", limit=3, video="2", env_processes=True)
    films = sorted((tmp_path / "two" / "videos").iterdir())
    assert [path.name[:2] for path in films] == ["e0", "e1"]
    with av.open(str(films[0])) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    walked = records(tmp_path / "two")["e0"]
    assert len(images) == len(walked["positions"]) + 8, "the end is shown a little longer"
    assert all(image[400:].max() > 100 for image in images), "there is text below"
    assert "--force" not in capsys.readouterr().err
    run(corridor(), tmp_path / "two", agent="random", limit=3, video="all", quiet=False)
    assert "two is complete, and films are made while walking: --force" in capsys.readouterr().err
    with pytest.raises(NavilaError, match="give --video all, failed, or a number"):
        run(corridor(), tmp_path / "some", video="some")


def test_what_is_seen_is_late_lost_or_blurred_as_asked(corridor: Any) -> None:
    def shown(**perturbed: Any) -> list[tuple[int, int]]:
        """Heading and steps ahead that the images tell of, while the corridor is walked."""
        simulator = PerturbedSimulator(corridor().simulator(), Perturbation(**perturbed), seed=3)
        episode = corridor().episodes("val", seed=0, limit=1, data_root=None)[0]
        seen = [simulator.reset(episode), *(simulator.step(primitive) for primitive in (2, 1, 1, 3, 1, 1))]
        return [(int(observation.rgb[0, 0, 0]), int(observation.rgb[0, 0, 2])) for observation in seen]

    plain = shown()
    assert len(set(plain)) == 7
    assert shown(latency=2) == [plain[0]] * 2 + plain[:5]
    lossy = shown(drop=0.5)
    assert lossy == shown(drop=0.5)
    lost = [number for number in range(1, 7) if lossy[number] == lossy[number - 1]]
    assert lost
    assert [lossy[number] for number in range(7) if number not in lost] == [
        plain[number] for number in range(7) if number not in lost
    ]
    assert shown(blur=2.0) != plain
    assert shown(noise=5.0) == shown(noise=5.0) != plain


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dust=1", "no perturbation 'dust'"),
        ("latency=x", "latency is 'x'"),
        ("latency=1,latency=2", "latency twice"),
        ("drop=1", "below 1"),
        ("blur=-1", "0 or"),
    ],
)
def test_a_perturbation_that_is_none_is_told(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Perturbation.parse(text)


def test_a_camera_is_mounted_elsewhere_and_the_run_says_so(corridor: Any, tmp_path: Path) -> None:
    perturbation = Perturbation.parse("pitch=-30,height=0.25")
    results = run(corridor(), tmp_path, limit=2, perturbation=perturbation)
    body = results.content["run"]["embodiment"]
    assert (body["camera_pitch"], body["camera_height"]) == (-30.0, 1.5)
    with pytest.raises(ConfigError, match="underground"):
        run(corridor(), tmp_path / "under", limit=2, perturbation=Perturbation(height=-2.0))


def test_exchanged_sides_are_told_only_where_there_are_any() -> None:
    def told(instruction: str) -> str:
        episode = Episode(
            episode_id="e",
            scene_id="s",
            start_position=(0, 0, 0),
            start_rotation=(0, 0, 0, 1),
            goals=((1, 0, 0),),
            instruction=instruction,
        )
        return swapped_sides()(episode)

    assert told("Turn left, then take the door on your right.") == "Turn right, then take the door on your left."
    assert told("Stop right before the table.") == "Stop right before the table."


def test_a_simulator_stays_in_its_scene_and_several_spread_over_scenes(corridor: Any) -> None:
    """Nine episodes in three scenes, the first of which has two more."""
    episodes = list(corridor().episodes("val", seed=0, limit=9, data_root=None))
    episodes += [replace(episodes[0], episode_id=f"more{number}") for number in range(2)]
    queue = EpisodeQueue(episodes)
    first = queue.take(None)
    assert first is not None
    assert first.episode_id == "e0", "the fullest scene is begun first"
    second = queue.take(None, busy={"corridor/0"})
    assert second is not None
    assert second.scene_id != "corridor/0"
    scenes = []
    scene: str | None = "corridor/2"
    while (episode := queue.take(scene)) is not None:
        scene = episode.scene_id
        scenes.append(scene)
    assert len(queue) == 0
    assert len(scenes) == 9
    assert sum(a != b for a, b in itertools.pairwise(scenes)) == 2, "every scene is loaded once"
