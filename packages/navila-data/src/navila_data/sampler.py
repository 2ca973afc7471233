"""The order in which an epoch visits the samples of a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from navila.errors import ConfigError
from numpy.typing import NDArray
from torch.utils.data import Sampler

from navila_data.mixture import permutation


class EpochIndex(NamedTuple):
    """The number of a sample and the epoch it is asked in, so that random choices depend on nothing else."""

    epoch: int
    number: int


class ShuffledSampler(Sampler[EpochIndex]):
    """Every sample once an epoch, in an order drawn from (seed, epoch)."""

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the Trainer calls this."""
        self.epoch = epoch

    def order(self, epoch: int) -> list[int]:
        """The permutation of one epoch."""
        return permutation(self.size, seed=self.seed, epoch=epoch)

    def __iter__(self) -> Iterator[EpochIndex]:
        epoch = self.epoch
        return (EpochIndex(epoch, index) for index in self.order(epoch))

    def __len__(self) -> int:
        return self.size


class SequentialSampler(ShuffledSampler):
    """Every sample once an epoch, in the order of the mixture."""

    def order(self, epoch: int) -> list[int]:
        """The order of every epoch."""
        return list(range(self.size))


class GroupedSampler(ShuffledSampler):
    """Shuffles chunks of up to `chunk` neighbours of one group, so that a batch shares the frames of an episode.

    The cuts move from epoch to epoch. With frames encoded once a batch, the vision tower's work falls by up to
    `num_frames` times; a batch still mixes `batch_size / chunk` episodes.
    """

    def __init__(self, groups: Sequence[Any], *, chunk: int = 16, seed: int = 0) -> None:
        super().__init__(len(groups), seed=seed)
        self.chunk = chunk
        by_group: dict[Any, list[int]] = {}
        for index, group in enumerate(groups):
            by_group.setdefault(group, []).append(index)
        self.members = list(by_group.values())

    def order(self, epoch: int) -> list[int]:
        """The permutation of one epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        offsets = generator.integers(self.chunk, size=len(self.members)).tolist()
        chunks = [
            [index for _, index in run]
            for members, offset in zip(self.members, offsets, strict=True)
            for _, run in groupby(enumerate(members, offset), key=lambda item: item[0] // self.chunk)
        ]
        return [index for chunk in generator.permutation(len(chunks)).tolist() for index in chunks[chunk]]


class WindowedSampler(ShuffledSampler):
    """Reads large files almost from beginning to end: their order is drawn, and samples change places within a window.

    For storage on which jumping about is slow. A sample moves less than `window` places from where the order of files
    puts it; sources are spread evenly over the epoch, and those that are no large files are shuffled freely.
    """

    def __init__(self, runs: Sequence[NDArray[np.int64]], *, window: int, seed: int = 0) -> None:
        """Prepare an order.

        Args:
            runs: for every source, the number of the file that each of its samples lies in (`Mixture.runs`).
            window: places that a sample may move.
            seed: of the order.

        Raises:
            ConfigError: the window is negative.
        """
        if window < 0:
            raise ConfigError(f"--shuffle_window is {window}: give a number of samples, or 0 to shuffle freely.")
        super().__init__(sum(map(len, runs)), seed=seed)
        self.runs = [np.unique(of_source, return_inverse=True)[1] for of_source in runs]
        self.window = window

    def order(self, epoch: int) -> list[int]:
        """The permutation of one epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        times = []
        for runs in self.runs:
            size = len(runs)
            places = np.empty(size)
            drawn = generator.permutation(runs.max(initial=-1) + 1)[runs]
            places[np.argsort(drawn, kind="stable")] = np.arange(size)
            window = min(self.window, size)
            times.append((places + generator.uniform(0, window, size)) / max(size + window, 1))
        return np.argsort(np.concatenate(times), kind="stable").tolist()
