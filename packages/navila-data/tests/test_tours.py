"""Tours: the same frames under several instructions ask for different actions."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from navila.actions import LEFT, parse
from navila.plugins import default_host
from navila_data.mixture import Mixture
from navila_data.procedural import RecordSettings
from navila_data.recording import record
from navila_data.tours import SEARCH, labels

SETTINGS = RecordSettings(
    what="tours", episodes=3, levels=(0, 1), seed=3, image_size=48, max_steps=14, perturb=0.3, episodes_per_house=2
)


@pytest.fixture(scope="module")
def tours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tours") / "recording"
    record(SETTINGS, folder)
    return folder


def test_points_are_labelled_for_several_landmarks(tours: Path):
    records = json.loads((tours / "annotations.json").read_text())
    points = defaultdict(list)
    for entry in records:
        assert set(entry) == {"video_id", "frames", "q", "a"}
        assert (tours / "train" / entry["frames"][-1]).is_file()
        assert parse(entry["a"], "strict").status == "ok"
        points[entry["video_id"]].append(entry)
    several = [entries for entries in points.values() if len(entries) > 1]
    assert several
    assert all(len({tuple(entry["frames"]) for entry in entries}) == 1 for entries in several)
    assert all(len({entry["q"] for entry in entries}) == len(entries) for entries in several)
    assert any(len({entry["a"] for entry in entries}) > 1 for entries in several), "the answer follows the instruction"
    assert max(len(entry["frames"]) for entry in records) == SETTINGS.max_steps


def test_the_recording_opens_as_navigation_data(tours: Path):
    mixture = Mixture.open(f"vln:{tours}")
    records = json.loads((tours / "annotations.json").read_text())
    assert len(mixture) == len(records) == json.loads((tours / "dataset.json").read_text())["records"]
    for index, entry in enumerate(records):
        question, answer = mixture[index].turns
        assert f'"{entry["q"]}"' in question.text
        assert answer.text == entry["a"]


def test_tours_do_not_depend_on_the_number_of_workers(tours: Path, tmp_path: Path):
    record(SETTINGS, tmp_path / "again", workers=2)
    for path in (p for p in tours.rglob("*") if p.is_file() and p.name != "dataset.json"):
        assert (tmp_path / "again" / path.relative_to(tours)).read_bytes() == path.read_bytes()


def test_who_does_not_see_the_landmark_searches_to_the_left():
    simulator = default_host().registry("simulator").load("mesh").tiny()
    for episode in simulator.make_episodes(level=1, seed=6, count=4):
        simulator.reset(episode)
        seen_from = set()
        for _ in range(24):
            mark = next(mark for mark in simulator.landmarks() if mark.name == episode.info["landmark"])
            run = labels(simulator, mark, episode, episode.goal_radius)
            if mark.visible_fraction == 0 and abs(mark.bearing) > 45:
                assert run == SEARCH
            else:
                seen_from.add(run)
            simulator.step(LEFT)
        assert len(seen_from) > 1, "in view, the answer depends on where it is"
