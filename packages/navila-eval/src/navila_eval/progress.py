"""What a terminal shows while episodes are walked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from navila_eval.walk import Record


class EpisodeProgress:
    """A bar on stderr with the success rate so far; nothing when quiet."""

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
        self._scored = 0
        self._successes = 0.0

    def start(self, records: Sequence[Record], *, cut: bool, path: Path) -> None:
        """Count what an earlier run finished."""
        if cut:
            self._console.print(f"The last line of {path} was cut short; its episode is walked again.", soft_wrap=True)
        if records:
            self._console.print(f"{len(records)} finished episodes in {path} are kept.", soft_wrap=True)
        for record in records:
            self.advance(record)

    def advance(self, record: Record) -> None:
        if record["goals"]:
            self._scored += 1
            self._successes += record["metrics"]["success"]
        if record["outcome"] == "failed":
            self._console.print(
                f"Episode {record['episode_id']} failed: {record['error']}", markup=False, soft_wrap=True
            )
        note = f"SR {self._successes / self._scored:.2f}" if self._scored else ""
        self._progress.update(self._task, advance=1, note=note)

    def __enter__(self) -> EpisodeProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class SampleProgress:
    """A bar on stderr over samples, with how many failed; nothing when quiet."""

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
        self._failed = 0

    def start(self, done: int, *, cut: bool, path: Path) -> None:
        """Count what an earlier run finished."""
        if cut:
            self._console.print(f"The last line of {path} was cut short; its sample is asked again.", soft_wrap=True)
        if done:
            self._console.print(f"{done} answers in {path} are kept.", soft_wrap=True)
        self._progress.update(self._task, advance=done)

    def advance(self, sample: str, error: str = "") -> None:
        """Count a sample that is done, or that failed."""
        if error:
            self._failed += 1
            self._console.print(f"Sample {sample} failed: {error}", markup=False, soft_wrap=True)
        self._progress.update(self._task, advance=1, note=f"{self._failed} failed" if self._failed else "")

    def step(self) -> None:
        """Count something that is done."""
        self._progress.update(self._task, advance=1)

    def __enter__(self) -> SampleProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
