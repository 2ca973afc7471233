"""How many frames videos have, found once and kept for every process and the next run."""

from __future__ import annotations

import os
import re
import zlib
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from navila.errors import DataError
from navila.frames import uniform_indices

from navila_data.media import TarMember, file_state, open_file
from navila_data.record_index import cache_folder

#: Share of a video's frames that may be missing; headers are not always exact.
LOST = 0.05

_LINE = re.compile(rb"(?P<facts>(?P<key>[0-9a-f]{32}) (?P<frames>\d+) (?P<rate>\S+)) (?P<sum>[0-9a-f]{8})")


class VideoFacts(NamedTuple):
    """What frames are chosen by."""

    frames: int
    """Frames that can be shown, from the packets."""
    rate: float
    """Nominal frames/s."""


class KnownVideos:
    """Facts of videos by path, size and time of change, kept in one file that any number of processes append to.

    A line is written by one call and ends in its checksum: a line that another process or a crash broke up is as if it
    were not there, and its video is looked at again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts: dict[bytes, VideoFacts] = {}
        self._read = 0
        """Bytes of the file that are in memory."""

    def of(self, video: Path | TarMember) -> VideoFacts:
        """Facts of a video; only its packets are read, and only of one that nobody has looked at before.

        Raises:
            DataError: it is missing or no video.
        """
        key = _key(video)
        if key is None:
            return probe(video)
        if key not in self._facts:
            self._read_on()
        if key not in self._facts:
            self._facts[key] = facts = probe(video)
            self._append(key, facts)
        return self._facts[key]

    def _read_on(self) -> None:
        """Take in what was appended since the last look."""
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(self._read)
            # What does not end in a line break may be half written: it is read next time.
            content, end, _ = file.read().rpartition(b"\n")
            self._read += len(content) + len(end)
            for line in content.split(b"\n"):
                match = _LINE.fullmatch(line)
                if match and int(match["sum"], 16) == zlib.crc32(match["facts"]):
                    self._facts[bytes.fromhex(match["key"].decode())] = VideoFacts(
                        int(match["frames"]), float(match["rate"])
                    )

    def _append(self, key: bytes, facts: VideoFacts) -> None:
        line = f"{key.hex()} {facts.frames} {facts.rate!r}".encode()
        # A home that cannot be written to costs the next run some seconds. The line break in front keeps a line that
        # was cut off by a crash from taking this one with it.
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(file, b"\n%b %08x\n" % (line, zlib.crc32(line)))
            finally:
                os.close(file)


def frames_shown(video: VideoFacts, num_frames: int, fps: float) -> list[int]:
    """Indices of `num_frames` spread over a video, of fewer when it is shorter than that many at `fps` a second.

    Of a video too short for two at that rate, two are shown; of one with fewer frames than asked for, all.
    """
    duration = video.frames / video.rate
    if fps and duration < num_frames / fps:
        num_frames = min(num_frames, max(int(duration * fps), 2))
    return uniform_indices(video.frames, num_frames)


def known_videos() -> KnownVideos:
    """The facts kept below the cache folder, one object a process."""
    return _known(cache_folder() / "videos.txt")


@cache
def _known(path: Path) -> KnownVideos:
    return KnownVideos(path)


def probe(video: Path | TarMember) -> VideoFacts:
    """Facts of a video from its packets; nothing is decoded, nothing kept.

    Raises:
        DataError: it is missing, no video, or lacks frames that its header tells of.
    """
    # Dataset modules import this one where nothing is decoded: PyAV is imported by whoever asks.
    from navila.video import frame_index

    if isinstance(video, Path):
        index = frame_index(video)
    else:
        with open_file(video) as content:
            index = frame_index(content)
    told = len(index) + index.missing
    if index.missing > told * LOST:
        raise DataError(f"{video} breaks off after {len(index)} of {told} frames: fetch it again.")
    return VideoFacts(len(index), index.rate)


def _key(video: Path | TarMember) -> bytes | None:
    state = file_state(video)
    return None if state is None else sha256(os.fsencode(state)).digest()[:16]
