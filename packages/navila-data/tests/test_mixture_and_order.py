"""Mixtures, and the order in which an epoch visits them."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from navila.errors import ConfigError, DataError, UnknownComponentError
from navila_data.datasets_file import add
from navila_data.mixture import Mixture, parse_mixture, permutation
from navila_data.sampler import GroupedSampler, ShuffledSampler


def folder_of(root: Path, name: str, episodes: int, steps: int) -> Path:
    folder = root / name
    folder.mkdir()
    records = [
        {"video_id": f"{e}-{i}", "frames": [f"{e}/frame_{k}.jpg" for k in range(i + 1)], "q": "Go.", "a": "x"}
        for e in range(episodes)
        for i in range(steps)
    ]
    (folder / "annotations.json").write_text(json.dumps(records))
    return folder


def test_items_repeats_and_folders_are_parsed():
    items = parse_mixture("r2r + rxr*2+vln:runs/a*3+runs/b+llava:c:0.3+r2r[10:]+human[:5] * .5+./v1.5")
    assert [(item.name, item.folder, item.start, item.stop, item.amount) for item in items] == [
        ("r2r", None, None, None, 1),
        ("rxr", None, None, None, 2),
        ("vln", Path("runs/a"), None, None, 3),
        ("", Path("runs/b"), None, None, 1),
        ("llava", Path("c"), None, None, 0.3),
        ("r2r", None, 10, None, 1),
        ("human", None, None, 5, 0.5),
        ("", Path("v1.5"), None, None, 1),
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty item"),
        ("r2r+", "empty item"),
        ("r2r*0", "more than 0"),
        ("r2r*x", "followed by what it takes"),
        ("r2r*-1", "followed by what it takes"),
        ("r2r[3]", "followed by what it takes"),
        ("r2r[3:2]", "3:2 is empty"),
        ("vln:", "no folder"),
    ],
)
def test_a_malformed_mixture_is_one_sentence(text: str, match: str):
    with pytest.raises(ConfigError, match=match):
        parse_mixture(text)


def test_unknown_names_and_folders_say_what_to_do(tmp_path: Path):
    with pytest.raises(UnknownComponentError, match="r2r"):
        Mixture.open("r22", tmp_path)
    with pytest.raises(ConfigError, match="--data_path"):
        Mixture.open("r2r")
    with pytest.raises(DataError, match=r"nowhere.*does not exist"):
        Mixture.open(f"vln:{tmp_path}/nowhere")
    with pytest.raises(DataError, match="does not say its format"):
        Mixture.open(f"{tmp_path}/")


def test_repeats_and_order_of_a_mixture(tmp_path: Path):
    one, two = folder_of(tmp_path, "one", 1, 3), folder_of(tmp_path, "two", 1, 2)
    mixture = Mixture.open(f"vln:{one}*2+vln:{two}")
    assert len(mixture) == 8
    assert [mixture[i].record for i in range(8)] == ["0 (0-0)", "1 (0-1)", "2 (0-2)"] * 2 + ["0 (0-0)", "1 (0-1)"]
    with pytest.raises(IndexError):
        mixture[8]


def test_amounts_and_ranges_of_a_mixture(tmp_path: Path):
    one = folder_of(tmp_path, "one", 1, 100)
    share = Mixture.open(f"vln:{one}:0.3")
    drawn = [share.locate(i)[1] for i in range(len(share))]
    assert len(set(drawn)) == 30
    assert drawn == sorted(drawn)
    assert drawn != list(range(30))
    assert [Mixture.open(f"vln:{one}:0.3").locate(i)[1] for i in range(30)] == drawn
    more = Mixture.open(f"vln:{one}[90:]*2.5")
    assert [more.locate(i)[1] for i in range(20)] == [*range(90, 100)] * 2
    assert len(more) == 25
    assert {more.locate(i)[1] for i in range(20, 25)} <= set(range(90, 100))
    with pytest.raises(DataError, match="has 100 samples"):
        Mixture.open(f"vln:{one}[100:]")


def test_names_of_a_datasets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder_of(tmp_path, "one", 1, 4)
    (tmp_path / "one" / "annotations.json").rename(tmp_path / "one" / "train.json")
    file = tmp_path / "datasets.yaml"
    add(file, "night", {"format": "vln", "folder": "one", "annotations": "train.json", "media": "."})
    add(file, "r2r", {"format": "vln", "folder": "one", "annotations": "train.json"})
    add(file, "both", "night*2+r2r:0.5")
    monkeypatch.setenv("NAVILA_DATASETS", str(file))
    mixture = Mixture.open("both*2")
    assert mixture.counts() == {"night": 16, "r2r": 4}, "a user's name goes before a plugin's"
    assert mixture[0].media[-1] == tmp_path / "one" / "0" / "frame_0.jpg"
    with pytest.raises(ConfigError, match="defines 'night' already"):
        add(file, "night", "r2r")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: {format: vln}", "needs a format and a folder"),
        ("a: {format: vln, folder: x, path: y}", "unknown key 'path'"),
        ("a: 3", "must be a mixture"),
        ("a+b: r2r", "cannot name a dataset"),
        ("- a", "must map names"),
        ("a: [", "cannot be read as YAML"),
        ("a: b\nb: a", "contains itself"),
        ("a: {format: vln, folder: nowhere}", "folder .*nowhere of 'a' does not exist"),
    ],
)
def test_a_malformed_datasets_file_is_one_sentence(tmp_path: Path, monkeypatch, text: str, match: str):
    file = tmp_path / "datasets.yaml"
    file.write_text(text)
    monkeypatch.setenv("NAVILA_DATASETS", str(file))
    with pytest.raises((ConfigError, DataError), match=match) as caught:
        Mixture.open("a")
    assert str(file) in str(caught.value)


def test_a_finished_recording_needs_no_format(tmp_path: Path):
    folder = folder_of(tmp_path, "one", 1, 2)
    (folder / "dataset.json").write_text(json.dumps({"format": "vln"}))
    assert Mixture.open("./one", tmp_path).counts() == {"vln": 2}


def test_an_epoch_visits_every_sample_once_in_an_order_of_seed_and_epoch():
    sampler = ShuffledSampler(100, seed=3)
    first = [index for _, index in sampler]
    assert sorted(first) == list(range(100))
    assert [index for _, index in sampler] == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert [epoch for epoch, _ in second] == [1] * 100
    assert sorted(index for _, index in second) == list(range(100))
    assert [index for _, index in second] != first != ShuffledSampler(100, seed=4).order(0)


def test_the_order_is_the_same_in_another_process():
    program = "from navila_data.mixture import permutation; print(permutation(1000, seed=7, epoch=2))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == permutation(1000, seed=7, epoch=2)


def test_grouping_keeps_neighbours_of_an_episode_together():
    groups = [(0, str(episode)) for episode in range(10) for _ in range(37)]
    sampler = GroupedSampler(groups, chunk=8, seed=1)
    order = sampler.order(0)
    assert sorted(order) == list(range(370))
    runs = [[order[0]]]
    for before, index in pairwise(order):
        if index == before + 1 and groups[index] == groups[before]:
            runs[-1].append(index)
        else:
            runs.append([index])
    assert sum(len(run) >= 8 for run in runs) >= 30
    assert sampler.order(0) == order != sampler.order(1)
    # Cuts move between epochs, so that other steps share a batch.
    assert {min(i for i in order if i // 8 == c) for c in range(5)} == {8 * c for c in range(5)}
