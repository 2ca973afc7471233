"""The order in which an epoch visits the samples of a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
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
