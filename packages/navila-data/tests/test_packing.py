"""Rows hold every sample once and no more than they may; the stream of batches depends on seed and data alone."""

from __future__ import annotations

import json
import random
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from navila_data.packing import WINDOW, group_by_length, pack
from navila_data.sampler import ShuffledSampler
from navila_data.stream import BatchStream, Position, RankBatches, batches_of


def lengths_of(count: int, seed: int = 0) -> list[int]:
    """Lengths like those of navigation and dialogue data."""
    rng = random.Random(seed)
    return [rng.choice((rng.randint(50, 600), 1752 - rng.randint(0, 60))) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 7, WINDOW, 3 * WINDOW + 5])
@pytest.mark.parametrize("budget", [2000, 16384])
def test_every_sample_is_in_one_row_that_has_room_for_it(count: int, budget: int):
    lengths = lengths_of(count)
    order = np.random.default_rng(1).permutation(count).tolist()
    rows = pack(order, lengths, budget, seed=3)
    assert sorted(i for row in rows for i in row) == list(range(count))
    assert all(sum(lengths[i] for i in row) <= budget for row in rows)
    assert rows == pack(order, lengths, budget, seed=3)


def test_rows_are_nearly_full():
    lengths = lengths_of(20000)
    rows = pack(list(range(20000)), lengths, 16384)
    used = sum(lengths) / (len(rows) * 16384)
    assert used > 0.985
    longest_first = sum(lengths[i] for i in rows[0]) == max(sum(lengths[i] for i in row) for row in rows)
    assert len({len(row) for row in rows[:50]}) > 1 or not longest_first, "rows of a window come in a drawn order"


def test_rows_that_fit_exactly_are_filled():
    assert sorted(map(sorted, pack(range(6), [60, 60, 60, 40, 40, 40], 100))) == [[0, 3], [1, 4], [2, 5]]


def test_no_packing_is_better_than_the_brute_force_one_by_more_than_its_bound():
    # Best-fit decreasing needs at most 11/9 of the fewest rows, plus one (Johnson 1974).
    for seed in range(30):
        rng = random.Random(seed)
        lengths = [rng.randint(1, 10) for _ in range(8)]
        assert len(pack(range(8), lengths, 10)) <= 11 / 9 * fewest_rows(lengths, 10) + 1


def fewest_rows(lengths: list[int], budget: int) -> int:
    best = len(lengths)

    def place(number: int, rows: list[int]) -> None:
        nonlocal best
        if len(rows) >= best:
            return
        if number == len(lengths):
            best = len(rows)
            return
        for i, used in enumerate(rows):
            if used + lengths[number] <= budget:
                place(number + 1, [*rows[:i], used + lengths[number], *rows[i + 1 :]])
        place(number + 1, [*rows, lengths[number]])

    place(0, [])
    return best


def test_a_sample_longer_than_a_row_has_one_of_its_own():
    assert sorted(pack(range(3), [5, 50, 5], 10)) == [[0, 2], [1]]


@pytest.mark.parametrize("size", [1, 4, 10])
def test_batches_of_like_length_hold_every_sample_and_little_padding(size: int):
    lengths = lengths_of(5003)
    batches = group_by_length(list(range(5003)), lengths, size, seed=1)
    assert sorted(i for batch in batches for i in batch) == list(range(5003))
    assert all(len(batch) <= size for batch in batches)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert sum(lengths) / padded > 0.97
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest != sorted(longest, reverse=True), "batches come in a drawn order"


def test_the_original_sampler_loses_samples_that_the_stream_keeps(goldens: Path):
    """Its ranks' shares are disjoint, as ours; what it drops at the end of each dataset is seen here."""
    cases = json.loads((goldens / "L_samplers" / "distributed.json").read_text())
    whole = [case for case in cases if "indices" in case and case["class"] == "VILADistributedSampler"]
    jobs: dict[tuple, list[list[int]]] = {}
    for case in whole:
        key = (tuple(case["sample_len_list"]), case["world_size"], case["batch_size"], case["seed"], case["epoch"])
        jobs.setdefault(key, []).append(case["indices"])
    lost = 0
    for (sizes, world, batch, seed, _), ranks in jobs.items():
        theirs = [i for indices in ranks for i in indices]
        stream = BatchStream(ShuffledSampler(sum(sizes), seed=seed), batches_of(batch))
        ours = [item.number for item in seen_by(stream, world)]
        assert len(set(theirs)) == len(theirs)
        assert sorted(ours) == list(range(sum(sizes)))
        assert set(theirs) <= set(ours)
        lost += len(ours) - len(theirs)
    assert lost > 0


def stream_of(size: int = 53, epochs: float = 2, limit: int | None = None, packed: bool = True) -> BatchStream:
    lengths = lengths_of(size)

    def packing(order, epoch):
        return pack(order, lengths, 4000, seed=epoch)

    return BatchStream(ShuffledSampler(size, seed=5), packing if packed else batches_of(4), epochs=epochs, limit=limit)


def seen_by(stream: BatchStream, world: int, *, start: Position = Position(), steps: int | None = None) -> list:  # noqa: B008
    """What the processes of a job read, step by step, up to a step counted from the run's beginning."""
    ranks = [list(RankBatches(stream, rank=rank, world=world, start=start))[:steps] for rank in range(world)]
    return [item for batches in zip_longest(*ranks) for batch in batches for item in batch]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_each_sample_is_seen_once_an_epoch_by_any_number_of_processes(world: int, packed: bool):
    seen = seen_by(stream_of(packed=packed), world)
    for epoch in (0, 1):
        assert sorted(item.number for item in seen if item.epoch == epoch) == list(range(53))
    assert seen == seen_by(stream_of(packed=packed), 1), "and in one order"


@pytest.mark.parametrize("worlds", [(1, 1), (2, 2), (2, 4), (4, 1), (8, 3)])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_after_resuming_with_other_processes_each_sample_is_still_seen_once(worlds: tuple[int, int], steps: int):
    before, after = worlds
    whole = seen_by(stream_of(), 1)
    first = RankBatches(stream_of(), world=before)
    start = first.position(steps)
    resumed = seen_by(stream_of(), before, steps=steps) + seen_by(stream_of(), after, start=start)
    assert resumed == whole
    # The Trainer skips the steps that are done without asking what was in them.
    assert list(RankBatches(stream_of(), world=after, start=start))[:steps] == [[]] * steps


def test_processes_stay_in_step():
    stream = stream_of()
    counts = {len(list(RankBatches(stream, rank=rank, world=4))) for rank in range(4)}
    assert counts == {len(RankBatches(stream, world=4))} == {-(-len(stream) // 4)}


def test_epochs_of_a_stream_are_told_by_position():
    stream = stream_of(packed=False)
    assert len(stream) == 28
    assert [stream.epochs_at(i) for i in (0, 7, 14, 21, 28)] == [0, 0.5, 1, 1.5, 2]
    assert len(stream_of(epochs=1.5, packed=False)) == 21
    assert len(stream_of(limit=40, packed=False)) == 40
    assert stream_of(limit=40, packed=False).epochs_at(40) == pytest.approx(2 + 12 / 14)
    with pytest.raises(IndexError):
        stream[28]
