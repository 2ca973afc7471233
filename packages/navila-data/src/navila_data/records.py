"""Annotation files: JSON and JSON Lines, with errors that say where."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from navila.errors import DataError

Record = Mapping[str, Any]


def read_records(path: Path, shrink: Callable[[Record], Record] = lambda record: record) -> Sequence[Record]:
    """Read a list of objects from a `.json` file, or one object a line from a `.jsonl` file.

    `shrink` may drop what is not needed of each record. Where every record has a line of its own, as recordings are
    written, only one is in memory before it is shrunk.

    Raises:
        DataError: the file is missing, is not UTF-8 JSON, or does not hold objects.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "").strip()
            if not first:
                raise DataError(f"Annotation file {path} is empty: write it again.")
            file.seek(0)
            if path.suffix == ".jsonl" or not first.startswith("["):
                lines = enumerate(file, 1)
                return [shrink(_parse(line, path, number)) for number, line in lines if line.strip()]
            if first == "[" and (records := _one_a_line(file, shrink)) is not None:
                return records
            file.seek(0)
            return [shrink(record) for record in _parse_list(file.read(), path)]
    except FileNotFoundError:
        raise DataError(f"Annotation file {path} does not exist: check the path and --data_path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"Annotation file {path} is not UTF-8 (byte {error.start}): convert it.") from None
    except OSError as error:
        raise DataError(f"Annotation file {path} cannot be read: {error.strerror}.") from None


def _one_a_line(file: TextIO, shrink: Callable[[Record], Record]) -> list[Record] | None:
    """The records of a list that has each on a line of its own; None when it is written in another way."""
    records: list[Record] = []
    lines = (line.strip() for line in file)
    if next(lines, "") != "[":
        return None
    for line in lines:
        if line == "]":
            return records if not any(lines) else None
        try:
            record = json.loads(line.removesuffix(","))
        except json.JSONDecodeError:
            return None
        if not isinstance(record, dict):
            return None
        records.append(shrink(record))
    return None


def _parse_list(text: str, path: Path) -> list[Record]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend the file.") from None
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{path}, record {index}: expected an object, got {type(record).__name__}.")
    return records


def _parse(line: str, path: Path, number: int) -> Record:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not valid JSON ({error.msg}); mend the line.") from None
    if not isinstance(record, dict):
        raise DataError(f"{path}, line {number}: expected an object, got {type(record).__name__}.")
    return record


def text_field(record: Record, key: str, where: str, *, empty: bool = False) -> str:
    """The string at `key`; only with `empty` may it be blank.

    Raises:
        DataError: it is missing, blank or of another type.
    """
    value = record.get(key)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise DataError(f'{where}: "{key}" must be a text, not {value!r}; mend the record.')
    return value


def media_path(folder: Path, name: Any, where: str) -> Path:
    """The file `name` below `folder`.

    Raises:
        DataError: the name is not a string or leaves the folder.
    """
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: a media path must be a non-empty string, not {name!r}; mend the record.")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: the media path {name!r} leaves the data folder; use a relative path below it.")
    return folder / path
