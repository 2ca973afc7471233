"""Shards in turn, samples within a window: each sample once an epoch, for any number of processes, and resumable."""

from __future__ import annotations

import io
import multiprocessing
import tarfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from navila_data.mixture import Mixture
from navila_data.sampler import WindowedSampler
from navila_data.stream import BatchStream, Position, RankBatches, batches_of

SIZES = (13, 0, 7, 31, 1, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of different sizes, one of them empty, with a text each sample."""
    folder = tmp_path_factory.mktemp("shards")
    for shard, size in enumerate(SIZES):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for n in range(size):
                content = b'{"text_list": ["Text."]}'
                info = tarfile.TarInfo(f"{shard}-{n:02d}.json")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


def batches(folder: Path, rank: int, world: int, start: int = 0) -> list[list[str]]:
    """What one process of a training reads: two epochs, from batch `start` on."""
    mixture = Mixture.open(f"webdataset:{folder}")
    stream = BatchStream(WindowedSampler(mixture.runs(), window=10, seed=3), batches_of(4), epochs=2)
    mine = RankBatches(stream, rank=rank, world=world, start=Position(steps=0, batches=start))
    return [[f"{i.epoch} {mixture[i.number].record}" for i in batch] for batch in mine]


def test_every_sample_is_read_once_an_epoch_by_any_number_of_processes(folder: Path):
    alone = batches(folder, 0, 1)
    expected = Counter(
        f"{e} {s}-{n:02d} of {s}.tar" for e in range(2) for s, size in enumerate(SIZES) for n in range(size)
    )
    assert Counter(name for batch in alone for name in batch) == expected
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["navila_data.stream"])  # torch is imported once, not three times.
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        for world in (2, 3):
            ranks = list(pool.map(batches, [folder] * world, range(world), [world] * world))
            together = [batch for step in zip(*ranks, strict=True) for batch in step if batch]
            assert together == alone


def test_resuming_reads_the_rest_of_the_same_order(folder: Path):
    assert batches(folder, 0, 1, start=11) == batches(folder, 0, 1)[11:]


def test_samples_stay_near_the_order_of_shards_and_shards_are_shuffled():
    runs = np.repeat(np.arange(50), 100)
    sampler = WindowedSampler([runs], window=150, seed=0)
    order = np.array(sampler.order(0))
    assert sorted(order.tolist()) == list(range(5000))
    sequence = [shard for shard, _ in sorted(((s, p.mean()) for s, p in positions(order).items()), key=lambda x: x[1])]
    assert sequence != sorted(sequence)
    ideal = np.concatenate([np.arange(100) + 100 * shard for shard in sequence])
    moved = np.argsort(order)[ideal] - np.arange(5000)
    assert np.abs(moved).max() < 150
    assert np.abs(moved).mean() > 20
    assert order.tolist() != sampler.order(1)
    assert order.tolist() == WindowedSampler([runs], window=150, seed=0).order(0)


def positions(order: np.ndarray) -> dict[int, np.ndarray]:
    """Where in an order the samples of each shard of 100 stand."""
    return {shard: np.flatnonzero(order // 100 == shard) for shard in range(50)}


def test_sources_are_spread_evenly_and_others_are_shuffled_freely():
    sampler = WindowedSampler([np.repeat(np.arange(9), 100), np.arange(300)], window=50, seed=0)
    order = np.array(sampler.order(0))
    small = np.flatnonzero(order >= 900)
    assert np.abs(small / 1200 - np.arange(300) / 300).max() < 0.1
    free = order[small] - 900
    assert np.abs(free - np.arange(300)).mean() > 50


def test_an_empty_source_adds_nothing():
    assert sorted(WindowedSampler([np.zeros(0, int), np.arange(3)], window=5).order(0)) == [0, 1, 2]
