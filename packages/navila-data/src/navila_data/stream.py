"""The batches of a whole training in one sequence, and each process's share of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch.utils.data import Sampler

from navila_data.sampler import EpochIndex, ShuffledSampler

#: From an epoch's order of samples and its number to its batches.
Batching = Callable[[Sequence[int], int], list[list[int]]]


def batches_of(size: int) -> Batching:
    """Batches of `size` samples, the last of an epoch shorter."""
    return lambda order, _epoch: [list(order[first : first + size]) for first in range(0, len(order), size)]


class BatchStream:
    """Every batch of `epochs` epochs, end to end; a pure function of seed and data.

    Processes take batches in turn, so that a sample is seen once an epoch however many processes there are, and the
    position in the stream says all that resuming must know, with as many processes as before or with others.
    """

    def __init__(
        self, sampler: ShuffledSampler, batching: Batching, *, epochs: float = 1, limit: int | None = None
    ) -> None:
        """Lay out `epochs` epochs, of which the last may be a part of one, or, with `limit`, that many batches."""
        self.sampler = sampler
        self.batching = batching
        self._kept: tuple[int, list[list[int]]] = (-1, [])
        if limit is None:
            parts = [1.0] * int(epochs) + ([epochs % 1] if epochs % 1 else [])
            counts = [max(round(part * len(self._epoch(epoch))), 1) for epoch, part in enumerate(parts)]
            self._ends = list(accumulate(counts))
        else:
            self._ends = []
            while not self._ends or self._ends[-1] < limit:
                self._ends.append((self._ends or [0])[-1] + len(self._epoch(len(self._ends))))
            self._ends[-1] = limit

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> list[EpochIndex]:
        epoch, place = self.locate(number)
        return [EpochIndex(epoch, index) for index in self._epoch(epoch)[place]]

    def locate(self, number: int) -> tuple[int, int]:
        """The epoch of a batch, and its number in it."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        epoch = bisect_right(self._ends, number)
        return epoch, number - (self._ends[epoch - 1] if epoch else 0)

    def epochs_at(self, position: int) -> float:
        """Epochs done when `position` batches are."""
        if position == 0:
            return 0.0
        epoch, place = self.locate(position - 1)
        return epoch + (place + 1) / len(self._epoch(epoch))

    def _epoch(self, epoch: int) -> list[list[int]]:
        if self._kept[0] != epoch:
            self._kept = (epoch, self.batching(self.sampler.order(epoch), epoch))
        return self._kept[1]


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a training is in its stream."""

    steps: int = 0
    """Micro-batches that each process has had."""
    batches: int = 0
    """Batches of the stream that all processes have had together."""


class RankBatches(Sampler[list[EpochIndex]]):
    """One process's batches, all processes in step; where the stream ends in the middle of a step, the rest are empty.

    After resuming, the steps done before come first, empty: the Trainer skips as many without reading them.
    """

    def __init__(self, stream: BatchStream, *, rank: int = 0, world: int = 1, start: Position = Position()) -> None:
        self.stream = stream
        self.rank = rank
        self.world = world
        self.start = start

    def __len__(self) -> int:
        return self.start.steps - (self.start.batches - len(self.stream)) // self.world

    def __iter__(self) -> Iterator[list[Any]]:
        for step in range(len(self)):
            number = self.start.batches + (step - self.start.steps) * self.world + self.rank
            yield self.stream[number] if step >= self.start.steps and number < len(self.stream) else []

    def between(self, first: int, end: int) -> list[list[EpochIndex]]:
        """This process's batches of the steps from `first` to before `end`."""
        numbers = (
            self.start.batches + (step - self.start.steps) * self.world + self.rank for step in range(first, end)
        )
        return [self.stream[number] for number in numbers if number < len(self.stream)]

    def position(self, steps: int) -> Position:
        """Where the stream is after this many steps in all."""
        done = self.start.batches + (steps - self.start.steps) * self.world
        return Position(steps=steps, batches=min(done, len(self.stream)))
