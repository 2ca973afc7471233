"""Official files of benchmarks: tables and lists of whatever format, and videos of whatever container."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from navila.errors import DataError, reason

#: Containers a video may have, in the order Video-ChatGPT's scripts try them.
ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def find_rows(folder: Path, patterns: tuple[str, ...], get: str) -> list[Path]:
    """The files that the first fitting pattern names, sorted.

    Raises:
        DataError: there are none; `get` says where they come from.
    """
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    raise DataError(f"{folder} has no {' or '.join(patterns)}: {get}, and put it there.")


def read_rows(path: Path, get: str) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a .csv, .jsonl, .parquet or .json list, each with the words that name it in messages.

    Raises:
        DataError: the file, or a line of it, is malformed.
    """
    if path.suffix == ".parquet":
        from navila_eval.parquet import read_parquet

        return [(f"{path}, row {number}", row) for number, row in enumerate(read_parquet(path), 1)]
    if path.suffix == ".csv":
        rows = _read_csv(path, get)
    elif path.suffix == ".jsonl":
        rows = _read_jsonl(path, get)
    else:
        listed = read_json(path, get)
        if not isinstance(listed, list):
            raise DataError(f"{path} is no list: {get}.")
        rows = [(f"{path}, entry {number}", row) for number, row in enumerate(listed, 1)]
    for where, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{where}, is no object but {row!r:.80}: {get}.")
    return rows


def read_json(path: Path, get: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(_text(path, get))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): {get}.") from None


def _read_jsonl(path: Path, get: str) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(_text(path, get).split("\n"), 1):
        if line.strip():
            try:
                rows.append((f"{path}, line {number}", json.loads(line)))
            except ValueError as error:
                raise DataError(f"{path}, line {number}, is not JSON ({error}): {get}.") from None
    return rows


def _read_csv(path: Path, get: str) -> list[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(path, get), newline=""), strict=True)
    rows = []
    line = 1
    try:
        # The names of the columns are the first line.
        width = len(reader.fieldnames or ())
        line = reader.line_num + 1
        for row in reader:
            # A row that is longer than the header has the rest under None, a shorter one None for what it lacks.
            if None in row or None in row.values():
                raise csv.Error(f"it has not the {width} fields of the header")
            rows.append((f"{path}, line {line}", row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line}, is malformed ({error}): {get}.") from None
    return rows


def _text(path: Path, get: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({reason(error)}): {get}.") from None


@contextmanager
def reading(where: str, get: str) -> Iterator[None]:
    """Makes what goes wrong with an entry one sentence.

    Raises:
        DataError: naming the entry.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError) as error:
        raise DataError(f"{where}, is malformed ({reason(error)}): {get}.") from None


def text(row: Mapping[str, Any], name: str) -> str:
    """A field that must be text.

    Raises:
        KeyError: there is no such field.
        TypeError: it is something else.
    """
    value = row[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r:.40}, not text")
    return value


def letter_of(index: Any, count: int) -> str:
    """The letter of an answer given by its position.

    Raises:
        ValueError: there is no such option.
    """
    position = int(index)
    if not 0 <= position < count:
        raise ValueError(f"the answer is {position}, of {count} options")
    return chr(ord("A") + position)


def find_video(folder: Path, *names: str) -> Path:
    """The video file, or folder of frames, of one of these names; where there is none, the path it should have.

    Raises:
        ValueError: a name is empty.
    """
    if not all(names):
        raise ValueError("it names no video")
    for name in names:
        for candidate in (*(folder / f"{name}{ending}" for ending in ENDINGS), folder / name):
            if candidate.exists():
                return candidate
    return folder / f"{names[0]}{ENDINGS[0]}"


def without_marks(question: str) -> str:
    """A question without the marks of media that NaVILA's scripts remove from it."""
    for mark in ("<image>", "<video>"):
        question = question.replace(f"{mark}\n", "").replace(f"\n{mark}", "").replace(mark, "")
    return question
