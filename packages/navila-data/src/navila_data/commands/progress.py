"""The bar that commands show while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from navila.errors import Interrupted


@contextmanager
def progress_bar(what: str, kept: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `progress(done, total)`, shown as a bar on stderr.

    Raises:
        Interrupted: on Ctrl-C; `kept` says what of the work is not lost.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(what, total=None)
        try:
            yield lambda done, total: bar.update(row, completed=done, total=total)
        except KeyboardInterrupt:
            raise Interrupted(f"Stopped; {kept} are kept: run the same command again to go on.") from None
