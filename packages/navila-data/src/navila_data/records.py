"""Annotation files: JSON and JSON Lines, with errors that say where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from navila.errors import DataError


def read_records(path: Path) -> Sequence[Mapping[str, Any]]:
    """Read a list of objects from a `.json` file, or one object a line from a `.jsonl` file.

    Raises:
        DataError: the file is missing, is not UTF-8 JSON, or does not hold objects.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"Annotation file {path} does not exist: check the path and --data_path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"Annotation file {path} is not UTF-8 (byte {error.start}): convert it.") from None
    except OSError as error:
        raise DataError(f"Annotation file {path} cannot be read: {error.strerror}.") from None
    if not text.strip():
        raise DataError(f"Annotation file {path} is empty: write it again.")
    if path.suffix == ".jsonl" or not text.lstrip().startswith("["):
        return [_parse(line, path, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend the file.") from None
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{path}, record {index}: expected an object, got {type(record).__name__}.")
    return records


def _parse(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not valid JSON ({error.msg}); mend the line.") from None
    if not isinstance(record, dict):
        raise DataError(f"{path}, line {number}: expected an object, got {type(record).__name__}.")
    return record


def text_field(record: Mapping[str, Any], key: str, where: str, *, empty: bool = False) -> str:
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
