"""Resized frames on disk, so that each is decoded once and not in every epoch, run and process."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from navila.errors import ConfigError
from numpy.typing import NDArray

from navila_data.media import Base64, TarMember, VideoFrame, file_state

#: What is decoded as it is stored.
Stored = Path | TarMember | Base64 | VideoFrame

FILE_NAME = "frames.sqlite"
#: Bytes of a page: frames are some hundred kilobytes.
_PAGE = 1 << 16
#: Seconds that a process waits while others write.
_PATIENCE = 30
_TABLE = """
CREATE TABLE IF NOT EXISTS frames
(key BLOB PRIMARY KEY, height INTEGER NOT NULL, width INTEGER NOT NULL, sum INTEGER NOT NULL, pixels BLOB NOT NULL)
"""


class FrameCache:
    """Frames by the state of their file and what was done to them, in one SQLite file for any number of processes.

    An entry is there whole or not at all, whatever happens to its writer, and is checked when it is read: a damaged one
    is written anew. Once the file has its full size, no more frames are kept; those that are there stay, as the frames
    of an epoch that drive each other out would be of use to nobody. Nothing here is ever needed: what fails is counted.
    """

    def __init__(self, folder: Path, preparation: str, *, max_bytes: int) -> None:
        """Open the cache of a folder, and make it if need be.

        Args:
            folder: where the file is, on a disk of this machine: SQLite's locks do not work over every network.
            preparation: what is done to images; frames prepared in another way are others.
            max_bytes: bound of the file's size.

        Raises:
            ConfigError: the folder cannot be made or written to.
        """
        self.path = folder / FILE_NAME
        self.preparation = preparation
        self.max_bytes = max_bytes
        self._counts = Counter[str]()
        self._full = False
        self._connections: dict[int, sqlite3.Connection] = {}
        """By process: one that was opened before a fork may be neither used nor closed after it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as connection, connection:
                connection.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            self._replace_or_raise(error)
        except OSError as error:
            raise ConfigError(f"Frames cannot be kept in {folder} ({error.strerror}): choose another folder.") from None

    def get(self, media: Iterable[Stored]) -> dict[Stored, NDArray[np.uint8]]:
        """Those of these media that are kept, (H, W, 3) uint8."""
        return {medium: frame for medium in media if (frame := self._read(medium)) is not None}

    def put(self, frames: Mapping[Stored, NDArray[np.uint8]]) -> None:
        """Keep frames, all of them or, if the file is full or broken, none."""
        if self._full:
            self._counts["left_out"] += len(frames)
            return
        rows = []
        for medium, frame in frames.items():
            key, pixels = self._key(medium), frame.tobytes()
            if key is not None:
                rows.append((key, *frame.shape[:2], zlib.crc32(pixels), pixels))
        try:
            with self._connected() as connection:
                connection.executemany("INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._counts["left_out"] += len(rows)
            self._full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL

    def take_counts(self) -> Counter[str]:
        """Since the last call: entries that were `damaged`; frames `left_out`, the file being full or not writable."""
        counts, self._counts = self._counts, Counter()
        return counts

    def _read(self, medium: Stored) -> NDArray[np.uint8] | None:
        key = self._key(medium)
        if key is None:
            return None
        try:
            query = "SELECT height, width, sum, pixels FROM frames WHERE key = ?"
            row = self._connected().execute(query, (key,)).fetchone()
            if row is None:
                return None
            height, width, checksum, pixels = row
            if len(pixels) == height * width * 3 and zlib.crc32(pixels) == checksum:
                return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        except (sqlite3.Error, TypeError):
            pass
        self._counts["damaged"] += 1
        return None

    def _key(self, medium: Stored) -> bytes | None:
        """What tells a frame from every other; None where its file is not there."""
        file, index = (medium.video, medium.index) if isinstance(medium, VideoFrame) else (medium, "")
        state = file_state(file)
        return None if state is None else sha256(os.fsencode(f"{state}\0{index}\0{self.preparation}")).digest()[:16]

    def _connected(self) -> sqlite3.Connection:
        process = os.getpid()
        if process not in self._connections:
            self._connections[process] = self._open()
        return self._connections[process]

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_PATIENCE, check_same_thread=False)
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        # Readers do not wait for writers; a crash of the machine may cost the last frames and nothing else.
        with suppress(sqlite3.OperationalError):  # another process is just doing so
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA max_page_count = {max(self.max_bytes // _PAGE, 4)}")
        return connection

    def _replace_or_raise(self, error: sqlite3.DatabaseError) -> None:
        """Begin a file anew that is no database any more.

        Raises:
            ConfigError: it is something else that is wrong.
        """
        if error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise ConfigError(f"Frames cannot be kept in {self.path} ({error}): choose another folder.") from None
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        self._counts["damaged"] += 1
        with closing(self._open()) as connection, connection:
            connection.execute(_TABLE)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connections": {}}
