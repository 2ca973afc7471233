"""The batches of a run, handed out one by one to the processes that work on it side by side."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from navila_eval.asking import Batch
from navila_eval.claims import PAUSE, Claims
from navila_eval.run_folder import RecordReader


class SharedBatches:
    """Batches of which every process takes the next that is free, until all are answered, whoever did it."""

    def __init__(
        self,
        batches: Sequence[Batch],
        claims: Claims,
        reader: RecordReader,
        done: set[str],
        *,
        seen: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Batches to share.

        Args:
            batches: the same in every process.
            claims: of the run.
            reader: has read the records from which `done` follows, and nothing more.
            done: samples that need no answer; grows.
            seen: called with every sample that another process has answered.
        """
        self.done = done
        self._left = deque(batch for batch in batches if not self._answered(batch))
        self._claims = claims
        self._reader = reader
        self._seen = seen

    def __len__(self) -> int:
        """How many batches are neither answered nor taken here."""
        return len(self._left)

    def __iter__(self) -> Iterator[Batch]:
        """Batches to answer, until none is left anywhere; waits for those that others have."""
        while True:
            if (batch := self.take()) is not None:
                yield batch
            elif not self._left:
                return
            else:
                time.sleep(PAUSE)

    def take(self) -> Batch | None:
        """A batch to answer; None while other processes have all that are left."""
        self._look()
        for _ in range(len(self._left)):
            batch = self._left.popleft()
            if self._answered(batch):
                continue
            if not self._claims.take(str(batch.number)):
                # Its process may die: it is looked at again after the others.
                self._left.append(batch)
                continue
            # Once more, now that nobody else can be answering it.
            self._look()
            if not self._answered(batch):
                return batch
            self._claims.release(str(batch.number))
        return None

    def finish(self, batch: Batch) -> None:
        """Tell that the records of a batch that was taken are written."""
        self.done.update(question.id for question in batch.questions)
        self._claims.release(str(batch.number))

    def _answered(self, batch: Batch) -> bool:
        return all(question.id in self.done for question in batch.questions)

    def _look(self) -> None:
        for record in self._reader.new():
            if record["id"] not in self.done:
                self.done.add(record["id"])
                self._seen(record["id"])
