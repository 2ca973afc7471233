"""Annotation files: JSON and JSON Lines, read record by record where they lie, with errors that say where."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from navila.errors import DataError

from navila_data.record_index import CHUNK, record_spans

Record = Mapping[str, Any]


class RecordFile(Sequence[Record]):
    """The objects of a JSON list, or of a file with one object a line; only the one asked for is in memory.

    An index of 16 bytes a record is made when a file is first opened, and kept (`navila_data.record_index`).
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            DataError: it is missing, empty or no list of records, or breaks off.
        """
        self.path = path
        self._place = 0, 1
        """A byte, and the line it is on."""
        try:
            self._spans = record_spans(path)
            self._file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise DataError(f"Annotation file {path} does not exist: check the path and --data_path.") from None
        except OSError as error:
            raise DataError(f"Annotation file {path} cannot be read: {error.strerror}.") from None

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        """Read a record.

        Raises:
            DataError: it is not valid JSON, not UTF-8 or no object.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        text = self.raw(index)
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            line = self.line(index) + error.lineno - 1
            raise DataError(f"{self.path}, line {line}: not valid JSON ({error.msg}); mend the file.") from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}, line {self.line(index)}: not UTF-8 (byte {error.start} of record {index}); convert it."
            ) from None
        except (ValueError, RecursionError) as error:
            # Numbers of thousands of digits, lists in lists in lists.
            raise DataError(
                f"{self.path}, line {self.line(index)}: record {index} cannot be read ({error}); mend the file."
            ) from None
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise DataError(f"{self.path}, line {self.line(index)}: expected an object, got {kind}; mend the file.")
        return record

    def raw(self, index: int) -> bytes:
        """The bytes of a record as they stand in the file."""
        begin, end = self._spans[index].tolist()
        return os.pread(self._file, end - begin, begin)

    def line(self, index: int) -> int:
        """The line of the file on which a record begins, counted from 1; asked in their order, it is read once."""
        begin = int(self._spans[index, 0])
        place, line = self._place if self._place[0] <= begin else (0, 1)
        line += sum(
            os.pread(self._file, min(CHUNK, begin - base), base).count(b"\n") for base in range(place, begin, CHUNK)
        )
        self._place = begin, line
        return line

    def fingerprint(self) -> str:
        """The file's path, size and time of change."""
        state = os.fstat(self._file)
        return f"{self.path.resolve()} {state.st_size} {state.st_mtime_ns}"

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __reduce__(self) -> tuple[type[RecordFile], tuple[Path]]:
        return RecordFile, (self.path,)


def text_field(record: Record, key: str, where: str, *, empty: bool = False) -> str:
    """The string at `key`; only with `empty` may it be blank.

    Raises:
        DataError: it is missing, blank, of another type or no text that can be written.
    """
    value = record.get(key)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise DataError(f'{where}: "{key}" must be a text, not {value!r}; mend the record.')
    return require_unicode(value, where)


def require_unicode(text: str, where: str) -> str:
    """Return a text if it can be encoded: JSON can spell halves of characters, which no tokenizer or file name takes.

    Raises:
        DataError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {text!r} has half a character at {error.start}; mend the record.") from None
    return text


def media_path(folder: Path, name: Any, where: str) -> Path:
    """The file `name` below `folder`. Links are followed, wherever they lead: data often lie behind them.

    Raises:
        DataError: the name is not a string, cannot be a file's, or leaves the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where}: a media path must be a non-empty string, not {name!r}; mend the record.")
    path = Path(require_unicode(name, where))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: the media path {name!r} leaves the data folder; use a relative path below it.")
    return folder / path


def video_path(folder: Path, record: Record, where: str) -> Path:
    """The video of a record: `video_path`, else `video`, else `video_id` and `.mp4`.

    Raises:
        DataError: it names none, or one outside the folder.
    """
    for key, suffix in (("video_path", ""), ("video", ""), ("video_id", ".mp4")):
        if record.get(key) is not None:
            name = record[key]
            return media_path(folder, name + suffix if isinstance(name, str) and name else name, where)
    raise DataError(f'{where}: names no video; give it a "video" or a "video_id".')
