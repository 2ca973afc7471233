"""Frames of videos, decoded by PyAV as OpenCV would: only the groups of pictures that hold the wanted frames."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from PIL import Image

from navila.errors import ConfigError, DataError
from navila.frames import fps_indices, rounded_uniform_indices
from navila.images import read_image

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".gif", ".ts"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})

#: Containers, by words of ffmpeg's names for them, whose packets tell when a frame is shown and that seek exactly.
#: Others (AVI, MPEG-TS, raw streams) are decoded from their beginning, counting frames.
_EXACT = frozenset({"mp4", "matroska", "flv", "gif"})
#: Codecs in which a picture marked as no reference is needed for no other at all, so that it is decoded only if wanted.
#: H.265's are none to their own temporal layer only; the others are left whole.
_MARKS_REFERENCES = frozenset({"h264", "mpeg4", "mpeg2video"})
#: How ffmpeg's rotations, in degrees counter-clockwise, are undone; OpenCV does so too.
_UPRIGHT = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Video:
    """A video in a message, and which of its frames are shown."""

    path: str | Path
    """A video file, or a folder of frames in the order of their names."""
    _: KW_ONLY
    num_frames: int | None = None
    """Frames shown: exactly so many, spread evenly, or at most so many where there is `fps`. By default the call's
    `num_video_frames`, else that of the model's config."""
    fps: float | None = None
    """Frames shown of each second, from the beginning on; 0 spreads them evenly. By default the call's `fps`, else that
    of the model's config, which a folder of frames, having no times, does not heed."""
    start: float | None = None
    """Second to begin at."""
    end: float | None = None
    """Second to stop before."""


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """When each frame of a video is shown, from its packet headers; nothing is decoded."""

    times: tuple[int, ...]
    """Presentation time of every frame, sorted, in the stream's time base."""
    keyframes: tuple[int, ...]
    """The times among them at which decoding can start, sorted."""
    seconds: tuple[float, ...]
    """`times` in s, from the first frame on."""
    rate: float
    """Nominal frames/s."""
    missing: int = 0
    """Frames that the file's header tells of and the file lacks, as one that was not fetched to its end; of containers
    that tell."""

    def __len__(self) -> int:
        return len(self.times)


def is_video(path: Path) -> bool:
    """Whether a path is a video file by its suffix, or a folder of frames."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def read_video(
    path: str | Path, num_frames: int, *, fps: float = 0.0, start: float | None = None, end: float | None = None
) -> list[Image.Image]:
    """RGB frames of a video file or a folder of images.

    With `fps` 0, `num_frames` spread evenly; a short video repeats some. Else the frames on show every 1/`fps` s, at
    most `num_frames`, from the beginning on. Only what is shown from second `start` to before second `end` counts.
    A file that breaks off counts as far as it can be decoded, and a warning is logged.

    Raises:
        DataError: it is missing, holds no frames or cannot be decoded.
        ConfigError: a number is out of range, or the video is a folder, which has no times.
    """
    path = Path(path)
    if not 0 <= fps < math.inf:
        raise ConfigError(f"fps is {fps}: give frames per second, or 0 to spread num_frames evenly.")
    if path.is_dir():
        if fps or start is not None or end is not None:
            raise ConfigError(f"{path} is a folder of frames, which has no times: leave fps, start and end out.")
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"The folder {path} holds no images: give a video file or a folder of frames.")
        chosen = rounded_uniform_indices(len(files), num_frames)
        images = {i: read_image(files[i]) for i in dict.fromkeys(chosen)}
        return [images[i] for i in chosen]
    with _Reader(path) as reader:
        count = len(reader.index)
        chosen = _chosen(reader.index, count, num_frames, fps, start, end, path)
        found = dict(reader.find(chosen))
        lost = sorted(set(chosen) - found.keys())
        if lost:
            count = reader.decodable()
            if lost[0] < count:
                raise DataError(f"{path} is damaged at frame {lost[0]} of {len(reader.index)}: fetch it again.")
            _log.warning("%s breaks off after %d of %d frames; those are used.", path, count, len(reader.index))
            chosen = _chosen(reader.index, count, num_frames, fps, start, end, path)
            found = dict(reader.find(chosen))
            reader.require(chosen, found)
        return [found[i] for i in chosen]


def _chosen(
    index: FrameIndex, count: int, num_frames: int, fps: float, start: float | None, end: float | None, path: Path
) -> list[int]:
    """Positions of the frames that `read_video` returns, of the first `count`."""
    seconds = index.seconds[:count]
    first = 0 if start is None else max(bisect_right(seconds, start) - 1, 0)
    stop = count if end is None else bisect_left(seconds, end)
    if not count:
        raise DataError(f"{path} holds no frame that can be decoded: fetch it again.")
    lasts = seconds[-1] + 1 / index.rate
    if first >= stop or (start is not None and start >= lasts):
        raise DataError(
            f"{path} lasts {lasts:.2f} s and shows nothing from second {start or 0:g} to second "
            f"{lasts if end is None else end:g}"
            ": change start or end."
        )
    if fps:
        between = {"start": max(start or 0.0, 0.0), "end": math.inf if end is None else end}
        return fps_indices(seconds, num_frames, fps=fps, rate=index.rate, **between)
    return [first + i for i in rounded_uniform_indices(stop - first, num_frames)]


def read_frames(path: str | Path | BinaryIO, indices: Sequence[int]) -> list[Image.Image]:
    """The frames of a video file, or of an open one, at these positions, counted from 0 in the order they are shown.

    Raises:
        DataError: the file is missing or cannot be decoded, or has no such frame.
    """
    found = dict(iterate_frames(path, lambda _: indices))
    return [found[i] for i in indices]


def iterate_frames(
    path: str | Path | BinaryIO, choose: Callable[[FrameIndex], Sequence[int]]
) -> Iterator[tuple[int, Image.Image]]:
    """Each different position that `choose` takes from a video's index, with its frame, in the order they are shown.

    Only one frame is held at a time. Raises as `read_frames`, also in the midst of it.
    """
    with _Reader(path) as reader:
        indices = choose(reader.index)
        for i in indices:
            if not 0 <= i < len(reader.index):
                raise DataError(f"{reader.path} has {len(reader.index)} frames, so frame {i} is not in it.")
        found = set[int]()
        for i, image in reader.find(indices):
            found.add(i)
            yield i, image
        reader.require(indices, found)


def frame_index(path: str | Path | BinaryIO) -> FrameIndex:
    """Index a video file without decoding it; raises as `read_frames`."""
    with _Reader(path) as reader:
        return reader.index


def _name(video: str | Path | BinaryIO) -> Path:
    """What messages call a video."""
    return Path(video if isinstance(video, str | Path) else getattr(video, "name", "the open video"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        # A folder on the way may not be entered, or the name is longer than any file's.
        raise DataError(f"The video {path} cannot be reached ({error.strerror}): check the path.") from None


class _Reader:
    """The frames of a video by position; a context manager that closes what it opened."""

    def __init__(self, video: str | Path | BinaryIO) -> None:
        """Open and index a video.

        Raises:
            DataError: it is missing, is no video, or has no frames.
        """
        from av.video.reformatter import VideoReformatter

        self.video = video
        self.path = _name(video)
        self._converter = VideoReformatter()
        if isinstance(video, str | Path) and not _is_file(self.path):
            raise DataError(f"The video {self.path} does not exist: check the path.")
        self._open()
        try:
            self._read_headers()
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def _open(self) -> None:
        import av
        from av.error import FFmpegError

        try:
            self.container = av.open(self.video if not isinstance(self.video, Path) else str(self.video), "r")
        except FFmpegError as error:
            raise DataError(f"{self.path} is no video that can be read ({error.strerror}): fetch it again.") from None
        if not self.container.streams.video:
            self.container.close()
            raise DataError(f"{self.path} has no video stream: give another file.")
        self.stream: VideoStream = self.container.streams.video[0]
        # Threads cost a third more CPU time, and whoever reads many videos has many processes.
        self.stream.codec_context.thread_count = 1

    def _read_headers(self) -> None:
        shown: list[tuple[int | None, bool]] = []
        packets = 0
        for packet in self._packets():
            packets += packet.pts is not None or packet.size > 0
            if packet.size and not packet.is_discard:
                shown.append((packet.pts, packet.is_keyframe))
        if not shown:
            raise DataError(f"{self.path} holds no frames: fetch it again.")
        rate = float(self.stream.guessed_rate or self.stream.average_rate or 1)
        timed = sorted((time, key) for time, key in shown if time is not None)
        # Two frames shown at one time cannot be told apart by it.
        distinct = len({time for time, _ in timed}) == len(shown)
        self.exact = distinct and not _EXACT.isdisjoint(self.container.format.name.split(","))
        if len(timed) == len(shown):
            times, base = tuple(time for time, _ in timed), float(self.stream.time_base or 1)
        else:
            times, base = tuple(range(len(shown))), 1 / rate
        self.index = FrameIndex(
            times=times,
            keyframes=tuple(time for time, key in timed if key) or times[:1],
            seconds=tuple((time - times[0]) * base for time in times),
            rate=rate,
            missing=max(self.stream.frames - packets, 0),
        )

    def find(self, indices: Iterable[int]) -> Iterator[tuple[int, Image.Image]]:
        """The frames at these positions, in the order they are shown; those that cannot be decoded are left out."""
        wanted = sorted(set(indices))
        return self._by_time(wanted) if self.exact else self._by_count(wanted)

    def require(self, indices: Iterable[int], found: Container[int]) -> None:
        """Raise DataError for the first of these frames that was not found."""
        lost = next((i for i in sorted(set(indices)) if i not in found), None)
        if lost is not None:
            raise DataError(
                f"{self.path} breaks off or is damaged at frame {lost} of {len(self.index)}: fetch it again."
            )

    def decodable(self) -> int:
        """Frames up to the last one that can be decoded."""
        if not self.exact:
            self._rewind()
            return min(sum(1 for _ in self._frames()), len(self.index))
        for keyframe in reversed(self.index.keyframes):
            self._seek(keyframe)
            shown = [frame.pts for frame in self._frames() if frame.pts is not None and frame.pts >= keyframe]
            if shown:
                return bisect_right(self.index.times, max(shown))
        return 0

    def _by_time(self, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        """In time order, jumping to the last keyframe before a frame unless decoding is already past it."""
        index = self.index
        times = frozenset(index.times[i] for i in wanted)
        frames: Iterator[VideoFrame] = iter(())
        position = None
        for i in wanted:
            time = index.times[i]
            before = max(bisect_right(index.keyframes, time) - 1, 0)
            if position is None or position >= time or index.keyframes[before] > position:
                self._seek(index.keyframes[before])
                frames = self._frames(times)
            frame = _first_at(frames, time)
            if before and (frame is None or frame.pts != time):
                # Some keyframes are only where pictures begin to be renewed bit by bit: that is done at the next one.
                self._seek(index.keyframes[before - 1])
                frames = self._frames(times)
                frame = _first_at(frames, time)
            position = None if frame is None else frame.pts
            if frame is not None and position == time:
                yield i, self._upright(frame)

    def _by_count(self, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        """From the beginning, counting; for containers that cannot seek to a frame."""
        self._rewind()
        left = iter(wanted)
        following = next(left, None)
        for i, frame in enumerate(self._frames()):
            if i == following:
                yield i, self._upright(frame)
                following = next(left, None)
            if following is None:
                break

    def _seek(self, time: int) -> None:
        from av.error import FFmpegError

        try:
            self.container.seek(time, stream=self.stream)
        except FFmpegError as error:
            raise DataError(f"{self.path} cannot be decoded ({error.strerror}): fetch it again.") from None

    def _rewind(self) -> None:
        # Opened anew: these containers cannot all seek, not even to their beginning.
        self.container.close()
        if not isinstance(self.video, str | Path):
            self.video.seek(0)
        self._open()

    def _packets(self) -> Iterator[Packet]:
        """Packets from here on, as far as the file can be read."""
        from av.error import FFmpegError

        try:
            yield from self.container.demux(self.stream)
        except FFmpegError as error:
            _log.debug("%s breaks off (%s)", self.path, error.strerror)

    def _frames(self, wanted: Container[int] | None = None) -> Iterator[VideoFrame]:
        """Frames from here on, without those whose packets are damaged.

        Of frames that are not shown at the times `wanted`, if these are given, only what others need is decoded.
        """
        from av.error import FFmpegError

        codec = self.stream.codec_context
        if codec.name not in _MARKS_REFERENCES:
            wanted = None
        for packet in self._packets():
            spared = wanted is not None and packet.pts is not None and packet.pts not in wanted
            codec.skip_frame = "NONREF" if spared else "DEFAULT"
            try:
                yield from packet.decode()  # pyright: ignore[reportReturnType]  a video stream's packets hold frames
            except FFmpegError as error:
                _log.debug("%s has a damaged packet (%s)", self.path, error.strerror)

    def _upright(self, frame: VideoFrame) -> Image.Image:
        """The frame as RGB, turned as its display matrix says."""
        # `frame.to_image` would prepare the conversion for each frame, which takes longer than the conversion.
        image = Image.fromarray(self._converter.reformat(frame, format="rgb24").to_ndarray())
        turn = _UPRIGHT.get(round(frame.rotation) % 360)
        return image if turn is None else image.transpose(turn)


def _first_at(frames: Iterator[VideoFrame], time: int) -> VideoFrame | None:
    """The first frame shown at a time or later."""
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= time), None)
