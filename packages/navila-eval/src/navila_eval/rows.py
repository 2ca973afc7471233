"""Files of benchmarks as their authors publish them: rows, where they stand, and what is wrong with one. Light."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from navila.errors import DataError, reason

#: A row, and the words that name it in messages.
Row = tuple[str, dict[str, Any]]


def read_rows(path: Path, get: str) -> list[Row]:
    """Rows of a .csv, .jsonl, .parquet or .json list; `get` says where the file comes from.

    Raises:
        DataError: the file, or a row of it, is malformed.
    """
    if path.suffix == ".parquet":
        from navila_eval.parquet import read_parquet

        return [(f"{path}, row {number}", row) for number, row in enumerate(read_parquet(path), 1)]
    if path.suffix == ".csv":
        return _read_csv(path, get)
    if path.suffix == ".jsonl":
        return read_lines(path, get)
    listed = read_json(path, get)
    if not isinstance(listed, list):
        raise DataError(f"{path} is no list: {get}.")
    return [checked(f"{path}, entry {number}", item, get) for number, item in enumerate(listed, 1)]


def read_lines(path: Path, get: str) -> list[Row]:
    """Rows of a file with one JSON object a line, whatever it is called.

    Raises:
        DataError: the file, or a line of it, is malformed.
    """
    rows = []
    for number, line in enumerate(_text(path, get).split("\n"), 1):
        where = f"{path}, line {number}"
        if line.strip():
            try:
                rows.append(checked(where, json.loads(line), get))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}, is not JSON ({error}): {get}.") from None
    return rows


def read_json(path: Path, get: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(_text(path, get))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): {get}.") from None


def checked(where: str, item: Any, get: str) -> Row:
    """An item of a file as a row.

    Raises:
        DataError: it is no object.
    """
    if not isinstance(item, dict):
        raise DataError(f"{where}, is no object but {item!r:.80}: {get}.")
    return where, item


def _read_csv(path: Path, get: str) -> list[Row]:
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
    """Makes what goes wrong with a row one sentence.

    Raises:
        DataError: naming the row.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        raise DataError(f"{where}, is malformed ({what}): {get}.") from None


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


def texts(value: Any, name: str) -> list[str]:
    """A value that must be a list of texts, one at least; `name` is what it is called in the error.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{name} must be a list of texts, not {value!r:.40}")
    return value
