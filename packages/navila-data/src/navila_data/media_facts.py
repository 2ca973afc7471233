"""What the contents of a medium say without decoding it: its file, its size, a digest, how many frames there are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from navila.errors import DataError

from navila_data.dataset import Dataset
from navila_data.media import Base64, EditedFrame, Medium, TarMember, VideoFrame, frame_count, open_file
from navila_data.records import RecordFile
from navila_data.sample import Sample

#: Bytes of a video that tell it from others, with its size.
HEAD = 1 << 16

File = Path | TarMember | Base64
ValueT = TypeVar("ValueT")


def file_of(medium: Medium) -> File:
    """The file that a medium is, or is a part of."""
    if isinstance(medium, EditedFrame):
        return file_of(medium.medium)
    return medium.video if isinstance(medium, VideoFrame) else medium


class Contents:
    """Looks at files once each, for as long as it lives."""

    def __init__(self) -> None:
        self._sizes: dict[File, int] = {}
        self._digests: dict[File, str] = {}
        self._lengths: dict[File, int] = {}

    def size(self, medium: Medium) -> tuple[int, int]:
        """Bytes of its file, -1 where there is none, and the index of the frame in it."""
        file = file_of(medium)
        return _known(self._sizes, file, _size), medium.index if isinstance(medium, VideoFrame) else 0

    def digest(self, medium: Medium) -> str:
        """What equal pictures have in common whatever they are called; its name where it cannot be read."""
        video = isinstance(medium, VideoFrame)
        told = _known(self._digests, file_of(medium), lambda file: _digest(file, HEAD if video else -1))
        return f"{told} {medium.index}" if isinstance(medium, VideoFrame) else told

    def frames(self, dataset: Dataset, index: int, sample: Sample) -> list[int]:
        """Frames of the video that a sample shows, or of the episode up to a navigation step; none of images."""
        last = sample.media[-1] if sample.media else None
        if isinstance(last, VideoFrame):
            return [_known(self._lengths, last.video, lambda _: frame_count(last.video))]
        records = getattr(dataset, "records", None)
        if not sample.history or not isinstance(records, RecordFile):
            return []
        frames = records[index].get("frames")
        return [len(frames)] if isinstance(frames, list) else []


def _known(values: dict[File, ValueT], file: File, look: Callable[[File], ValueT]) -> ValueT:
    if file not in values:
        values[file] = look(file)
    return values[file]


def _size(file: File) -> int:
    if isinstance(file, Path):
        try:
            return file.stat().st_size
        except OSError:
            return -1
    return file.size if isinstance(file, TarMember) else file.text.size


def _digest(file: File, count: int) -> str:
    """Of the first `count` bytes and the size."""
    try:
        with open_file(file) as content:
            return f"{_size(file)} {hashlib.blake2b(content.read(count), digest_size=8).hexdigest()}"
    except (DataError, OSError):
        return str(file)
