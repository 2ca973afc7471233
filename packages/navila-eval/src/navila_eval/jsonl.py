"""Append-only records and atomic files, in strict JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from navila.errors import DataError
from navila.files import write_atomically


def strict(value: Any) -> Any:
    """The value as plain JSON types; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return strict(value.tolist())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a JSON record")


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON text: no NaN, no Infinity."""
    return json.dumps(strict(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that it is either absent or complete, whatever happens."""
    write_atomically(path, dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): delete it and run again.") from error


class JsonlWriter:
    """Appends one record a line; each is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")

    def append(self, record: Mapping[str, Any]) -> None:
        self._file.write(dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_jsonl(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """All complete records of a file, and whether its last line was cut short (by a kill) and left out.

    Raises:
        DataError: a line before the last is not a JSON object.
    """
    if not path.exists():
        return [], False
    with path.open("rb") as file:
        records, end = read_records(file, 0, path)
        return records, end < os.fstat(file.fileno()).st_size


def read_records(file: BinaryIO, start: int, path: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete records of an open file from a byte on, and the byte after the last one.

    Raises:
        DataError: a complete line is not a JSON object.
    """
    file.seek(start)
    records: list[dict[str, Any]] = []
    end = start
    for line in file:
        if not line.endswith(b"\n"):
            break
        where = f"{path}, {f'at byte {end}' if start else f'line {len(records) + 1}'}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}, is not JSON: delete that line and run again.") from error
        if not isinstance(record, dict):
            raise DataError(f"{where}, is not a JSON object: delete that line and run again.")
        records.append(record)
        end += len(line)
    return records, end


def drop_cut_line(path: Path) -> bool:
    """Cut off a last line without its end, so that appending starts on a fresh one; whether there was one."""
    if not path.exists():
        return False
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return False
    with path.open("r+b") as file:
        file.truncate(end)
        file.flush()
        os.fsync(file.fileno())
    return True
