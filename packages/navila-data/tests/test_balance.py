"""Rare actions are seen more often: the same samples in every run, in a stream that resumes like any other."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from navila.actions import LEGAL_ANSWERS
from navila.errors import ConfigError
from navila_data.mixture import Mixture
from navila_data.packing import pack
from navila_data.sampler import ShuffledSampler
from navila_data.stream import BatchStream, Position, RankBatches, batches_of

#: 60 steps forward, 20 left, 15 right, 4 stops, one label nobody can read.
ANSWERS = [LEGAL_ANSWERS[0]] * 60 + [LEGAL_ANSWERS[3]] * 20 + [LEGAL_ANSWERS[6]] * 15 + [LEGAL_ANSWERS[9]] * 4 + ["Hm."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walks")
    records = [{"video_id": f"{i}", "frames": ["f.jpg"], "q": "Go.", "a": answer} for i, answer in enumerate(ANSWERS)]
    (folder / "annotations.json").write_text(json.dumps(records))
    return folder


def seen(mixture: Mixture) -> Counter[int]:
    """How often an epoch sees each record."""
    return Counter(mixture.locate(i)[1] for i in range(len(mixture)))


def test_actions_are_seen_as_often_as_asked_for_and_others_once(folder: Path):
    times = seen(Mixture.open(f"vln:{folder}", rebalance="stop=5, left=1.5,forward=0.1"))
    assert [times[i] for i in range(95, 99)] == [5] * 4
    assert sorted(times[i] for i in range(60, 80)) == [1] * 10 + [2] * 10
    assert sum(times[i] for i in range(60)) == 6
    assert [times[i] for i in [*range(80, 95), 99]] == [1] * 16


def test_auto_brings_actions_up_to_the_commonest_but_repeats_none_more_than_five_times(folder: Path):
    mixture = Mixture.open(f"vln:{folder}", rebalance="auto")
    assert mixture.labels() == {"vln": {"other": 1, "forward": 60, "left": 60, "right": 60, "stop": 20}}
    assert mixture.counts() == {"vln": 201}
    assert max(seen(mixture).values()) == 5


def test_amounts_multiply_and_ranges_are_balanced_within(folder: Path):
    mixture = Mixture.open(f"vln:{folder}*2", rebalance="stop=3")
    assert mixture.labels()["vln"] == {"other": 2, "forward": 120, "left": 40, "right": 30, "stop": 24}
    times = seen(Mixture.open(f"vln:{folder}[90:97]", rebalance="stop=3"))
    assert times == {90: 1, 91: 1, 92: 1, 93: 1, 94: 1, 95: 3, 96: 3}


def test_repeats_are_parts_of_their_own_so_that_a_batch_does_not_show_them_side_by_side(folder: Path):
    groups = Mixture.open(f"vln:{folder}", rebalance="stop=2.5").groups()
    assert len(set(groups)) == 3


def test_without_it_or_without_actions_nothing_changes(folder: Path, tmp_path: Path):
    assert Mixture.open(f"vln:{folder}*1.5").labels() == {}
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Turn left."}]
    (tmp_path / "annotations.json").write_text(json.dumps([{"conversations": turns}] * 3))
    mixture = Mixture.open(f"llava:{tmp_path}+vln:{folder}", rebalance="auto")
    assert mixture.counts()["llava"] == 3
    assert set(mixture.labels()) == {"vln"}


def test_the_same_samples_in_every_run_whatever_the_processes_and_after_resuming(folder: Path):
    first, second = (Mixture.open(f"vln:{folder}", rebalance="auto") for _ in range(2))
    assert [part.indices for part in first.parts] == [part.indices for part in second.parts]
    stream = BatchStream(ShuffledSampler(len(first), seed=1), batches_of(8), epochs=1)
    whole = [batch for batch in RankBatches(stream)]
    resumed = RankBatches(stream, rank=0, world=1, start=Position(steps=10, batches=10))
    assert [batch for batch in resumed][10:] == whole[10:]
    both = [batch for rank in range(2) for batch in RankBatches(stream, rank=rank, world=2)]
    assert sorted(index for batch in both for index in batch) == sorted(index for batch in whole for index in batch)
    rows = pack(list(range(len(first))), [10] * len(first), 80, seed=1)
    assert sorted(index for row in rows for index in row) == list(range(len(first)))


def test_labels_are_counted_once_and_again_when_the_file_changes(folder: Path, tmp_path: Path, monkeypatch):
    changing = tmp_path / "annotations.json"
    changing.write_text((folder / "annotations.json").read_text())
    assert Mixture.open(f"vln:{tmp_path}", rebalance="auto").labels()["vln"]["stop"] == 20
    with monkeypatch.context() as patch:
        patch.setattr(
            "navila_dataset_vln.dataset.VLNDataset.label", lambda self, index: pytest.fail("records were read again")
        )
        assert Mixture.open(f"vln:{tmp_path}", rebalance="auto").labels()["vln"]["stop"] == 20
    changing.write_text(json.dumps(json.loads(changing.read_text())[:97]))
    assert Mixture.open(f"vln:{tmp_path}", rebalance="auto").labels()["vln"]["stop"] == 10


@pytest.mark.parametrize(
    "text", ["stop", "stop=", "halt=3", "stop=0", "stop=-1", "stop=nan", "stop=inf", "stop=5;left=2", "Auto,", ","]
)
def test_a_malformed_balance_is_one_sentence(folder: Path, text: str):
    with pytest.raises(ConfigError, match="balance of actions"):
        Mixture.open(f"vln:{folder}", rebalance=text)


def test_reading_the_actions_shows_how_far_it_is(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("NAVILA_CACHE", str(tmp_path))
    told = []
    Mixture.open(f"vln:{folder}", rebalance="auto", progress=lambda done, total: told.append((done, total)))
    assert told == [(100, 100)]
