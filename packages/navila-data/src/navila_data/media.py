"""What a sample refers to: image files, frames of videos, and files inside tar shards; nothing is decoded here."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from navila.errors import DataError


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file inside a tar shard, read where it lies: nothing is unpacked."""

    shard: Path
    name: str
    offset: int
    """Byte of the shard at which its content begins."""
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


@dataclass(frozen=True, slots=True)
class Base64:
    """A file written as base64 in the text of another, read where it stands there."""

    text: TarMember
    """From its first letter on, as long as it is."""

    def __str__(self) -> str:
        return f"{self.text}, base64 at byte {self.text.offset}"


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One frame of a video, counted from 0 in the order frames are shown."""

    video: Path | TarMember
    index: int

    def __str__(self) -> str:
        return f"{self.video}, frame {self.index}"


@dataclass(frozen=True, slots=True)
class EditedFrame:
    """A frame that is changed after it was decoded and resized."""

    medium: Medium
    edit: Callable[[Any], Any]
    """From (H, W, 3) uint8 to the same. Equal edits compare and hash equal: a frozen dataclass, or a function."""

    def __str__(self) -> str:
        return str(self.medium)


#: A file, or a file in a shard or a text, or a frame of a video, changed or not.
Medium = Path | TarMember | Base64 | VideoFrame | EditedFrame


def open_file(file: Path | TarMember | Base64) -> BinaryIO:
    """Open a file for reading, wherever it lies.

    Raises:
        DataError: it is missing, unreadable, or its shard is cut off, or it is no base64.
    """
    if isinstance(file, Base64):
        with open_file(file.text) as text:
            # JSON may spell a slash with a backslash.
            letters = text.read().replace(b"\\", b"")
        try:
            return _Content(base64.b64decode(letters), str(file))
        except ValueError as error:
            raise DataError(f"{file} cannot be decoded ({error}): write it again.") from None
    try:
        if isinstance(file, Path):
            return file.open("rb")
        with file.shard.open("rb") as shard:
            shard.seek(file.offset)
            content = shard.read(file.size)
    except FileNotFoundError:
        missing = file if isinstance(file, Path) else file.shard
        raise DataError(f"{missing} does not exist: check the path.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): check the path and the disk.") from None
    if len(content) < file.size:
        raise DataError(f"{file.shard} is cut off inside {file.name}: fetch the shard again.")
    return _Content(content, str(file))


def file_state(file: Path | TarMember | Base64) -> str | None:
    """What tells a state of a file from every other: path, size, time of change, place; None if it is not there."""
    file = file.text if isinstance(file, Base64) else file
    path, place = (file, "") if isinstance(file, Path) else (file.shard, f"{file.offset} {file.size}")
    try:
        state = path.stat()
    except OSError:
        return None
    return f"{path.absolute()}\0{state.st_size}\0{state.st_mtime_ns}\0{place}"


def frame_count(video: Path | TarMember) -> int:
    """Frames of a video that can be shown, from its packets; nothing is decoded, and it is known the next time.

    Raises:
        DataError: it is missing or no video.
    """
    from navila_data.video_facts import known_videos

    return known_videos().of(video).frames


class _Content(io.BytesIO):
    """Bytes that know where they are from, for messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name
