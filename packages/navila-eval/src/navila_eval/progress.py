"""What a terminal shows while episodes are walked or samples answered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from navila_eval.walk import Record


class _Bar:
    """A bar on stderr with a note; nothing when quiet."""

    def __init__(self, title: str, *, total: int, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet,
        )
        self._task = self._progress.add_task(title, total=total, note="")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class EpisodeProgress(_Bar):
    """A bar over episodes, with the success rate so far."""

    _scored = 0
    _successes = 0.0

    def start(self, records: Sequence[Record], *, cut: bool, path: Path) -> None:
        """Count what an earlier run finished."""
        if cut:
            self._say(f"The last line of {path} was cut short; its episode is walked again.")
        if records:
            self._say(f"{len(records)} finished episodes in {path} are kept.")
        for record in records:
            self.advance(record)

    def advance(self, record: Record) -> None:
        """Count an episode that is done, or that failed."""
        if record["goals"]:
            self._scored += 1
            self._successes += record["metrics"]["success"]
        if record["outcome"] == "failed":
            self._say(f"Episode {record['episode_id']} failed: {record['error']}")
        note = f"SR {self._successes / self._scored:.2f}" if self._scored else ""
        self._progress.update(self._task, advance=1, note=note)


class SampleProgress(_Bar):
    """A bar over samples, with how many failed."""

    _failed = 0

    def start(self, done: int, *, cut: bool, path: Path) -> None:
        """Count what an earlier run finished."""
        if cut:
            self._say(f"The last line of {path} was cut short; its sample is asked again.")
        if done:
            self._say(f"{done} answers in {path} are kept.")
        self._progress.update(self._task, advance=done)

    def advance(self, sample: str, error: str = "") -> None:
        """Count a sample that is done, or that failed."""
        if error:
            self._failed += 1
            self._say(f"Sample {sample} failed: {error}")
        self._progress.update(self._task, advance=1, note=f"{self._failed} failed" if self._failed else "")

    def step(self) -> None:
        """Count something that is done."""
        self._progress.update(self._task, advance=1)
