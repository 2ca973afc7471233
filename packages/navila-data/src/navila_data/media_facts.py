"""What a medium says without being decoded: its file, a digest, how many frames there are."""

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
from navila_data.seen_files import SeenFiles

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

    def __init__(self, *, read: bool = True, seen: SeenFiles | None = None) -> None:
        """With `read`, pictures are compared by their contents, which `seen` may know; else by names of files."""
        self._read = read
        self._seen = seen
        self._digests: dict[File, str] = {}
        self._lengths: dict[File, int] = {}

    def digest(self, medium: Medium | None) -> str:
        """What equal pictures have in common; the name of one that cannot be read."""
        if medium is None:
            return "black"
        video = isinstance(medium, VideoFrame)
        file = file_of(medium)
        told = _known(self._digests, file, lambda file: self._look(file, video)) if self._read else str(file)
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

    def _look(self, file: File, video: bool) -> str:
        count = HEAD if video else -1
        if self._seen is None:
            return _digest(file, count)
        return self._seen.recall(f"digest {count}", [file], lambda: _digest(file, count))


def _known(values: dict[File, ValueT], file: File, look: Callable[[File], ValueT]) -> ValueT:
    if file not in values:
        values[file] = look(file)
    return values[file]


def _digest(file: File, count: int) -> str:
    """Of the size and the first `count` bytes, all of them if it is negative."""
    try:
        with open_file(file) as content:
            head = content.read(count)
            return f"{content.seek(0, 2)} {hashlib.blake2b(head, digest_size=16).hexdigest()}"
    except (DataError, OSError):
        return str(file)
