"""Where each record of an annotation file begins and ends, found without parsing the records."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from navila.errors import DataError
from navila.files import write_atomically
from numpy.typing import NDArray

#: Bytes looked at in one go.
CHUNK = 1 << 20
#: Records looked at in one go.
BATCH = 10_000
BOM = b"\xef\xbb\xbf"

#: Pairs (first byte, byte after the last), (N, 2) int64.
Spans = NDArray[np.int64]

_QUOTE, _BACKSLASH, _OPEN, _CLOSE = 1, 2, 3, 4
_KINDS = np.zeros(256, np.uint8)
for _kind, _characters in ((_QUOTE, b'"'), (_BACKSLASH, b"\\"), (_OPEN, b"[{"), (_CLOSE, b"]}")):
    _KINDS[list(_characters)] = _kind
_TELLING = _KINDS > 0
_BLANK = b" \t\r\n"
_DECODER = json.JSONDecoder(strict=False)


def cache_folder() -> Path:
    """Where what can be computed again is kept: `$NAVILA_CACHE`, else `~/.cache/navila`."""
    return Path(os.environ.get("NAVILA_CACHE") or Path.home() / ".cache" / "navila")


def record_spans(path: Path) -> Spans:
    """The spans of a file's records, mapped from the cache when the file was indexed before.

    Raises:
        DataError: the file is no list of records and no record a line, or breaks off.
        OSError: it cannot be read.
    """
    return kept_array(_cached(path), lambda: find_records(path))


def kept_array(path: Path, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array of a file below the cache folder, mapped; made and kept there when it is missing or damaged."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        made = make()
    content = io.BytesIO()
    np.save(content, made)
    # A home that cannot be written to costs the next start some seconds.
    with suppress(OSError):
        write_atomically(path, content.getvalue())
    return made


def known_count(path: Path) -> int | None:
    """The records of a file that was indexed before and is unchanged; None of another one."""
    try:
        return len(np.load(_cached(path), mmap_mode="r"))
    except (OSError, ValueError):
        return None


def _cached(path: Path) -> Path:
    """Where the index of this state of a file is kept."""
    state = path.stat()
    identity = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    return cache_folder() / "records" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"


def find_records(path: Path) -> Spans:
    """Index a JSON list of objects, or JSON Lines; raises as `record_spans`."""
    if path.stat().st_size == 0:
        raise DataError(f"Annotation file {path} is empty: write it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = len(BOM) if content[: len(BOM)] == BOM else 0
        while start < len(content) and content[start] in _BLANK:
            start += 1
        if start == len(content):
            raise DataError(f"Annotation file {path} is empty: write it again.")
        if path.suffix == ".jsonl" or content[start] != ord("["):
            return _lines(content, start)
        spans, stop = _elements(content, start, path)
        # What is no object is a broken record, as a line that holds none is.
        bare = _between(content, start, spans, stop, path)
        return np.sort(np.concatenate([spans, bare]), axis=0) if len(bare) else spans


def _chunks(content: mmap.mmap, start: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for base in range(start, len(content), CHUNK):
        yield base, np.frombuffer(content[base : base + CHUNK], np.uint8)
        # Pages that were looked at would count as this process's memory.
        content.madvise(mmap.MADV_DONTNEED)


def _lines(content: mmap.mmap, start: int) -> Spans:
    """One span a line that is not blank."""
    breaks = [base + np.flatnonzero(chunk == ord("\n")) for base, chunk in _chunks(content, start)]
    ends = np.concatenate([*breaks, [len(content)]]).astype(np.int64)
    spans = np.stack([np.concatenate([[start], ends[:-1] + 1]), ends], axis=1)
    # Only short lines are looked at: a blank one may hold spaces, but hardly many.
    short = np.flatnonzero(spans[:, 1] - spans[:, 0] < 64)
    blank = [i for i in short.tolist() if not content[spans[i, 0] : spans[i, 1]].strip(_BLANK)]
    return np.delete(spans, blank, axis=0)


def _elements(content: mmap.mmap, start: int, path: Path) -> tuple[Spans, int]:
    """One span an object of the list that begins at `start`, and the byte after the list."""
    scanner = _Scanner()
    begins, ends, stop = [], [], None
    for base, chunk in _chunks(content, start):
        begin, end, closed = scanner.scan(chunk)
        begins.append(base + begin)
        ends.append(base + end)
        if closed is not None:
            stop = base + closed
            break
    begin, end = np.concatenate(begins).astype(np.int64), np.concatenate(ends).astype(np.int64)
    if stop is None:
        where = f"in record {len(begin) - 1}" if len(begin) > len(end) else f"after {len(end)} records"
        raise DataError(
            f"{path}, line {line_of(content, len(content))}: the file breaks off {where}; write or fetch it again."
        )
    return np.stack([begin, end], axis=1), stop


def _between(content: mmap.mmap, start: int, spans: Spans, stop: int, path: Path) -> Spans:
    """One span a number, text and so on of the list, which stand between its objects or before the first one."""
    found: list[tuple[int, int]] = []
    place = start + 1
    for first in range(0, len(spans), BATCH):
        for number, (begin, end) in enumerate(spans[first : first + BATCH].tolist(), first):
            between = content[place:begin]
            if between.strip(_BLANK) != (b"," if number else b""):
                where = f"before record {number + len(found)}"
                found += _bare_values(content, place, between, path, where, after=number > 0, before=True)
            place = end
        content.madvise(mmap.MADV_DONTNEED)
    where = "after the last record" if len(spans) else "in the list"
    found += _bare_values(content, place, content[place : stop - 1], path, where, after=len(spans) > 0, before=False)
    if after := content[stop:].strip(_BLANK):
        _complain(content, stop, after, "after the list", path)
    return np.array(found, np.int64).reshape(-1, 2)


def _bare_values(
    content: mmap.mmap, place: int, between: bytes, path: Path, where: str, *, after: bool, before: bool
) -> list[tuple[int, int]]:
    """The spans of what stands at `place`, `after` and `before` objects of the list, separated by commas.

    Raises:
        DataError: it is no such thing.
    """
    found: list[tuple[int, int]] = []
    # One character a byte: where JSON breaks a value up does not depend on those beyond ASCII.
    text, at, comma = between.decode("latin-1"), 0, after
    while True:
        while at < len(text) and between[at] in _BLANK:
            at += 1
        if at == len(text):
            # The next object has a comma before it, the end of the list has none.
            if comma if before else (after or found) and not comma:
                _complain(content, place, between.strip(_BLANK), where, path)
            return found
        try:
            if comma:
                if text[at] != ",":
                    raise ValueError
                at += 1
            else:
                end = _DECODER.raw_decode(text, at)[1]
                found.append((place + at, place + end))
                at = end
        except ValueError:
            _complain(content, place, between.strip(_BLANK), where, path)
        comma = not comma


def _complain(content: mmap.mmap, place: int, between: bytes, where: str, path: Path) -> NoReturn:
    # The text is on the line of its first character, not on that of the blank before it.
    line = line_of(content, content.find(between, place))
    found = repr(between[:40].decode(errors="replace")) if between else "nothing"
    raise DataError(f"{path}, line {line}: {found} stands {where}, where a list of JSON objects is expected; mend it.")


def line_of(content: mmap.mmap, place: int) -> int:
    """The number of the line that a byte is in, counted from 1."""
    return 1 + sum(content[base : min(base + CHUNK, place)].count(b"\n") for base in range(0, place, CHUNK))


class _Scanner:
    """Follows strings and brackets of JSON from chunk to chunk."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self.escaped = False
        """Whether the chunk before ended in a backslash that escapes the first byte of this one."""

    def scan(self, chunk: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64], int | None]:
        """Where elements of the outermost list begin, where they end, and where the list does, if in this chunk.

        Only brackets, quotes and backslashes are looked at, a small share of the bytes.
        """
        places = np.flatnonzero(_TELLING[chunk])
        kinds = _KINDS[chunk[places]]
        quotes = (kinds == _QUOTE) & ~self._escaped(chunk, places, kinds)
        inside = np.logical_xor.accumulate(quotes) ^ self.in_string if len(quotes) else quotes
        self.in_string = bool(inside[-1]) if len(inside) else self.in_string
        brackets = np.flatnonzero((kinds >= _OPEN) & ~inside)
        opens = kinds[brackets] == _OPEN
        depths = self.depth + np.cumsum(np.where(opens, 1, -1))
        self.depth = int(depths[-1]) if len(depths) else self.depth
        places = places[brackets]
        closed = np.flatnonzero(depths == 0)
        if len(closed):
            last = int(closed[0])
            places, opens, depths = places[: last + 1], opens[: last + 1], depths[: last + 1]
        return (
            places[opens & (depths == 2)],
            places[~opens & (depths == 1)] + 1,
            int(places[-1]) + 1 if len(closed) else None,
        )

    def _escaped(
        self, chunk: NDArray[np.uint8], places: NDArray[np.int64], kinds: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Whether an odd number of backslashes stands right before each place."""
        before = self.escaped
        slashes = places[kinds == _BACKSLASH]
        if before and (not len(slashes) or slashes[0] != 0):
            slashes = np.concatenate([[-1], slashes])
        elif before:
            # An escaped backslash begins the chunk: it escapes nothing itself.
            slashes = slashes[1:]
        self.escaped = False
        if not len(slashes):
            return np.zeros(len(places), np.bool_)
        starts = np.flatnonzero(np.diff(slashes, prepend=slashes[0] - 2) != 1)
        lengths = np.diff(np.append(starts, len(slashes)))
        afters = slashes[starts] + lengths
        escaping = afters[lengths % 2 == 1]
        self.escaped = bool(len(escaping)) and int(escaping[-1]) == len(chunk)
        return np.isin(places, escaping)
