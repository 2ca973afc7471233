"""Recording: the release's format, the same bytes whatever interrupts it or however many work on it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from navila.actions import LEGAL_ANSWERS, parse
from navila.errors import ConfigError
from navila.plugins import default_host
from navila.simulation import Embodiment
from navila_data.grounding import ask, point_on, where
from navila_data.mixture import Mixture
from navila_data.procedural import RecordSettings
from navila_data.recording import record
from PIL import Image

SETTINGS = RecordSettings(sim="mesh", episodes=5, episodes_per_house=2, seed=3, image_size=32, perturb=0.2)
FLAGS = ["--sim", "mesh", "--episodes", "5", "--episodes-per-house", "2", "--seed", "3", "--image-size", "32"]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "data"
    record(SETTINGS, folder)
    return folder


def test_the_format_is_that_of_the_release(recorded: Path):
    records = json.loads((recorded / "annotations.json").read_text())
    assert {key for entry in records for key in entry} == {"video_id", "frames", "q", "a"}
    assert {entry["a"] for entry in records} <= set(LEGAL_ANSWERS)
    for entry in records:
        episode, step = map(int, entry["video_id"].split("-"))
        assert entry["frames"] == [f"{episode}/frame_{i}.jpg" for i in range(step + 1)]
    names = {frame for entry in records for frame in entry["frames"]}
    files = {str(path.relative_to(recorded / "train")) for path in (recorded / "train").rglob("*.jpg")}
    assert names == files
    with Image.open(recorded / "train" / records[0]["frames"][0]) as image:
        assert image.size == (32, 32)
    assert {int(entry["video_id"].split("-")[0]) for entry in records} == set(range(5))


def test_the_manifest_says_how_it_was_made_and_that_it_is_complete(recorded: Path):
    manifest = json.loads((recorded / "dataset.json").read_text())
    assert manifest["records"] == len(json.loads((recorded / "annotations.json").read_text()))
    assert manifest["settings"]["seed"] == 3
    assert {"navila-core", "navila-sim-mesh"} <= set(manifest["versions"])
    assert sorted(path.name for path in recorded.iterdir()) == ["annotations.json", "dataset.json", "train"]


def test_a_dataset_reads_it(recorded: Path):
    mixture = Mixture.open(str(recorded) + "/")
    assert mixture.counts() == {"vln": json.loads((recorded / "dataset.json").read_text())["records"]}
    assert all(path is None or path.is_file() for path in mixture[len(mixture) - 1].media)


def test_labels_are_the_experts_and_lead_to_the_goal(recorded: Path):
    """Replaying the recorded walk's labels from any unperturbed start reaches the goal."""
    sim = default_host().registry("simulator").load("mesh")(embodiment=Embodiment(width=16, height=16))  # type: ignore[call-arg]
    sim.render_images = False
    task = next(SETTINGS.tasks())
    episode = sim.make_episodes(level=task.level, seed=task.seed, count=2)[0]  # type: ignore[attr-defined]
    observation = sim.reset(episode)
    for _ in range(200):
        run = sim.expert_run(episode.goals, episode.goal_radius, 3)
        if run == (0,):
            break
        observation = sim.step(run[0])
    assert sim.geodesic(observation.position, episode.goals) < episode.goal_radius
    records = [r for r in json.loads((recorded / "annotations.json").read_text()) if r["video_id"].startswith("0-")]
    assert all(entry["q"] == episode.instruction for entry in records)
    assert parse(records[-1]["a"]).kind == "stop"
    sim.reset(episode)
    assert records[0]["a"] == _answer(sim, episode)


def _answer(sim, episode) -> str:
    from navila.actions import answer_for_primitives

    return answer_for_primitives(sim.expert_run(episode.goals, episode.goal_radius, 3))


def test_workers_do_not_change_a_byte(recorded: Path, tmp_path: Path):
    record(SETTINGS, tmp_path / "two", workers=2)
    assert bytes_of(tmp_path / "two") == bytes_of(recorded)


def test_a_killed_recording_resumes_to_the_same_bytes(tmp_path: Path):
    folder = tmp_path / "killed"
    program = (
        "import os; from pathlib import Path; from navila_data.recording import record; "
        "from navila_data.procedural import RecordSettings; "
        f"record({SETTINGS!r}, Path({str(folder)!r}), "
        "progress=lambda done, total: os.kill(os.getpid(), 9) if done == 2 else None)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert [path.name for path in folder.glob("parts/*.jsonl")] == ["0.jsonl"]
    # What the killed run was writing may be anything.
    (folder / "train" / "4").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "4" / "frame_0.jpg").write_bytes(b"half a")
    (folder / "train" / "4" / "frame_999.jpg").write_bytes(b"left over")
    command = [sys.executable, "-m", "navila", "data", "record", *FLAGS, "--perturb", "0.2", "--output"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record(SETTINGS, tmp_path / "whole")
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")
    before = (folder / "dataset.json").stat().st_mtime_ns
    assert subprocess.run([*command, str(folder)], capture_output=True, check=False).returncode == 0
    assert (folder / "dataset.json").stat().st_mtime_ns == before, "a finished recording is left alone"


def test_ctrl_c_says_how_to_go_on(tmp_path: Path):
    folder = tmp_path / "stopped"
    command = [sys.executable, "-m", "navila", "data", "record", "--episodes", "500", "--output", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("parts/*.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert list(folder.glob("parts/*.jsonl"))


def test_more_episodes_begin_with_the_same_ones():
    longer = RecordSettings(episodes=9, episodes_per_house=2, seed=3)
    assert [task.seed for task in longer.tasks()][:2] == [task.seed for task in SETTINGS.tasks()][:2]
    assert len({task.seed for task in longer.tasks()}) == 5


def test_a_recording_that_broke_before_its_first_house_leaves_the_folder_free(tmp_path: Path):
    with pytest.raises(ConfigError, match="no level 99"):
        record(RecordSettings(levels=(99,), episodes=1), tmp_path / "x")
    # As a kill leaves a new folder while its claim is written.
    (tmp_path / "x" / "recording.json").replace(tmp_path / "x" / ".recording.json.x1_y")
    assert record(RecordSettings(episodes=1, sim="houses"), tmp_path / "x")["episodes"] == 1
    record(RecordSettings(episodes=1, sim="mesh"), tmp_path / "x")  # the same simulator by its own name


def test_another_recording_is_not_overwritten(recorded: Path, tmp_path: Path):
    before = bytes_of(recorded)
    with pytest.raises(ConfigError, match=r"seed 3, not 4"):
        record(RecordSettings(**{**SETTINGS.__dict__, "seed": 4}), recorded)
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ConfigError, match="not empty"):
        record(SETTINGS, tmp_path)
    assert bytes_of(recorded) == before


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--perturb", "2"], "perturb is 2.0: give 0 to 1"),
        (["--episodes", "0"], "episodes is 0"),
        (["--sim", "habitatt"], "habitatt"),
        (["--level", "99"], "no level 99"),
        (["--policy", "nowhere"], "nowhere"),
        (["--stop-distance", "-1"], "stop_distance is -1.0"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, flags: list[str], match: str):
    command = [sys.executable, "-m", "navila", "data", "record", "--output", str(tmp_path / "x"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert match in errors[0]
    assert "Traceback" not in done.stderr


def test_grounding_answers_what_the_view_shows(tmp_path: Path):
    settings = RecordSettings(what="grounding", episodes=4, seed=1, image_size=64, views=4, questions=5)
    record(settings, tmp_path / "views")
    records = json.loads((tmp_path / "views" / "annotations.json").read_text())
    assert len(records) > 8
    mixture = Mixture.open(f"llava:{tmp_path / 'views'}")
    asked = set()
    for index, entry in enumerate(records):
        question, answer = entry["conversations"]
        assert (question["from"], answer["from"]) == ("human", "gpt")
        assert question["value"].startswith("<image>\n")
        assert len(mixture[index].media) == 1
        asked.add((entry["image"], question["value"]))
    assert len(asked) == len(records), "no question twice about one view"
    assert len({image for image, _ in asked}) == 16


def test_grounding_questions_have_one_answer_each():
    from navila.simulation import Landmark

    def strips_of(bearing: float, seen: float) -> tuple[float, ...]:
        return tuple(6 * seen if strip == int((45 - bearing) // 15) else 0.0 for strip in range(6))

    def mark(name: str, bearing: float, seen: float) -> Landmark:
        colour, shape = name.split()
        return Landmark(
            name=name,
            colour=colour,
            shape=shape,
            position=(0.0, 0.0, 0.0),
            room=0,
            visible_fraction=seen,
            strips=strips_of(bearing, seen),
            bearing=bearing,
            distance=2.2,
        )

    landmarks = [
        mark("red sofa", 30, 0.1),
        mark("blue sofa", -30, 0.1),
        mark("green lamp", 0, 0.1),
        mark("pink bed", 170, 0),
        mark("grey bed", 5, 0.001),
        mark("white chair", 20, 0.1),
        mark("white chair", 120, 0),
    ]
    answers: dict[str, set[str]] = {}
    for seed in range(30):
        for question, answer in ask(landmarks, np.random.default_rng(seed), 30):
            answers.setdefault(question, set()).add(answer)
    assert all(len(given) == 1 for given in answers.values()), answers
    assert answers["What is there from left to right?"] == {
        "nothing, red sofa, nothing, green lamp, nothing, blue sofa."
    }
    assert answers["Where is the red sofa?"] == {"It is 30 degrees to the left."}
    assert answers["Where is the blue sofa?"] == {"It is 30 degrees to the right."}
    assert answers["Where is the green lamp?"] == {"It is ahead."}
    assert answers["Where is the pink bed?"] == {"It is not in view."}
    assert answers["What is on the right?"] == {"A blue sofa."}
    assert answers["How far is the green lamp?"] == {"About 2 m."}
    assert "What colour is the sofa?" not in answers, "there are two"
    assert not any("grey bed" in question for question in answers), "hardly in view: neither yes nor no"
    assert "Where is the white chair?" not in answers, "there are two"


def test_bearings_and_points():
    from types import SimpleNamespace

    assert where(SimpleNamespace(bearing=8.0)) == "It is 15 degrees to the left."  # type: ignore[arg-type]
    assert where(SimpleNamespace(bearing=-52.0)) == "It is 45 degrees to the right."  # type: ignore[arg-type]
    path = [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (2.0, 0.0, 2.0)]
    assert point_on(path, 0.0) == (0.0, 0.0, 0.0)
    assert point_on(path, 0.75) == (2.0, 0.0, 1.0)
    assert point_on(path, 1.0) == (2.0, 0.0, 2.0)
