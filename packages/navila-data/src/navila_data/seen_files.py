"""What a long look at files has found so far, so that it need not begin anew after a kill."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from navila_data.media import EditedFrame, Medium, VideoFrame, file_state

#: Seconds that a process waits while others write.
_PATIENCE = 30


class SeenFiles:
    """Findings by the state of files, in one SQLite file for any number of processes.

    Nothing here is ever needed: where the file cannot be written, files are looked at each time.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if need be."""
        self._rows: list[tuple[bytes, str]] = []
        self._connection: sqlite3.Connection | None = None
        with suppress(OSError, sqlite3.Error):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=_PATIENCE)
            with suppress(sqlite3.OperationalError):  # another process is just doing so
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY, found TEXT NOT NULL)")
            self._connection = connection

    def recall(self, what: str, media: Sequence[Medium], look: Callable[[], Any]) -> Any:
        """What `look` found, as JSON's types, when it was last asked of these files in this state; else it looks."""
        key = _key(what, media)
        if key is None or self._connection is None:
            return look()
        with suppress(sqlite3.Error, ValueError):
            row = self._connection.execute("SELECT found FROM seen WHERE key = ?", (key,)).fetchone()
            if row is not None:
                return json.loads(row[0])
        found = look()
        self._rows.append((key, json.dumps(found)))
        return found

    def keep(self) -> None:
        """Write what was found since the last call."""
        rows, self._rows = self._rows, []
        with suppress(sqlite3.Error):
            if self._connection is not None and rows:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", rows)


@cache
def seen_files(path: Path) -> SeenFiles:
    """What was found so far, one object a process."""
    return SeenFiles(path)


def forget(path: Path) -> None:
    """Delete what was kept: the look has come to its end."""
    seen_files.cache_clear()
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _key(what: str, media: Sequence[Medium]) -> bytes | None:
    states = [_state(medium) for medium in media]
    if None in states:
        return None
    return sha256(os.fsencode("\0".join([what, *map(str, states)]))).digest()[:16]


def _state(medium: Medium) -> str | None:
    if isinstance(medium, EditedFrame):
        return None
    if isinstance(medium, VideoFrame):
        state = file_state(medium.video)
        return None if state is None else f"{state}\0{medium.index}"
    return file_state(medium)
