"""The bars that commands show while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from navila.errors import Interrupted


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yield `progress(what, done, total)`, shown on stderr as a bar for everything that is counted."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    rows: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def show(what: str, done: int, total: int) -> None:
            if what not in rows:
                rows[what] = bars.add_task(what, total=None)
            bars.update(rows[what], completed=done, total=total)

        yield show


@contextmanager
def progress_bar(what: str, kept: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `progress(done, total)`, shown as a bar on stderr.

    Raises:
        Interrupted: on Ctrl-C; `kept` says what of the work is not lost.
    """
    with progress_bars() as show:
        show(what, 0, 0)
        try:
            yield lambda done, total: show(what, done, total)
        except KeyboardInterrupt:
            raise Interrupted(f"Stopped; {kept} are kept: run the same command again to go on.") from None
