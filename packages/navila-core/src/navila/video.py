"""Frames of videos, decoded by PyAV: only the groups of pictures that hold the wanted frames."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from navila.errors import DataError
from navila.frames import rounded_uniform_indices
from navila.images import read_image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".gif", ".ts"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """When each frame of a video is shown, from its packet headers; nothing is decoded."""

    times: tuple[int, ...]
    """Presentation time of every frame, sorted, in the stream's time base."""
    keyframes: tuple[int, ...]
    """The times among them at which decoding can start, sorted."""

    def __len__(self) -> int:
        return len(self.times)


def is_video(path: Path) -> bool:
    """Whether a path is a video file by its suffix, or a folder of frames."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def read_video(path: str | Path, num_frames: int) -> list[Image.Image]:
    """`num_frames` RGB frames spread evenly over a video file or a folder of images; a short video repeats some.

    Raises:
        DataError: it is missing, holds no frames or cannot be decoded.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"The folder {path} holds no images: give a video file or a folder of frames.")
        return [read_image(files[i]) for i in rounded_uniform_indices(len(files), num_frames)]
    with _opened(path) as container:
        stream, index = _video_stream(container, path)
        return _decode(container, stream, index, rounded_uniform_indices(len(index), num_frames), path)


def read_frames(path: str | Path | BinaryIO, indices: Sequence[int]) -> list[Image.Image]:
    """The frames of a video file, or of an open one, at these positions, counted from 0 in the order they are shown.

    Raises:
        DataError: the file is missing or cannot be decoded, or has no such frame.
    """
    name = _name(path)
    with _opened(path) as container:
        stream, index = _video_stream(container, name)
        return _decode(container, stream, index, indices, name)


def frame_index(path: str | Path | BinaryIO) -> FrameIndex:
    """Index a video file without decoding it; raises as `read_frames`."""
    with _opened(path) as container:
        return _video_stream(container, _name(path))[1]


def _name(video: str | Path | BinaryIO) -> Path:
    """What messages call a video."""
    return Path(video if isinstance(video, str | Path) else getattr(video, "name", "the open video"))


def _opened(video: str | Path | BinaryIO) -> InputContainer:
    import av
    from av.error import FFmpegError

    path = _name(video)
    if isinstance(video, str | Path) and not path.is_file():
        raise DataError(f"The video {path} does not exist: check the path.")
    try:
        return av.open(str(path) if isinstance(video, str | Path) else video, "r")
    except FFmpegError as error:
        raise DataError(f"{path} is no video that can be read ({error.strerror}): fetch it again.") from None


def _video_stream(container: InputContainer, path: Path) -> tuple[VideoStream, FrameIndex]:
    if not container.streams.video:
        raise DataError(f"{path} has no video stream: give another file.")
    stream = container.streams.video[0]
    packets = [
        (p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and p.pts is not None and not p.is_discard
    ]
    times = tuple(sorted(time for time, _ in packets))
    if not times:
        raise DataError(f"{path} holds no frames: fetch it again.")
    return stream, FrameIndex(times=times, keyframes=tuple(sorted(time for time, key in packets if key)))


def _decode(
    container: InputContainer, stream: VideoStream, index: FrameIndex, indices: Sequence[int], path: Path
) -> list[Image.Image]:
    """Decode in time order, jumping to the last keyframe before a frame unless decoding is already past it."""
    from av.error import FFmpegError

    for wanted_index in indices:
        if not 0 <= wanted_index < len(index):
            raise DataError(f"{path} has {len(index)} frames, so frame {wanted_index} is not in it.")
    wanted = sorted({index.times[i] for i in indices})
    found: dict[int, Image.Image] = {}
    frames: Any = iter(())
    position = None
    try:
        for time in wanted:
            start = (
                index.keyframes[max(bisect_right(index.keyframes, time) - 1, 0)] if index.keyframes else index.times[0]
            )
            if position is None or start > position:
                container.seek(start, stream=stream)
                frames = container.decode(stream)
            for frame in frames:
                if frame.pts is None:
                    continue
                position = frame.pts
                if frame.pts >= time:
                    found[time] = frame.to_image()
                    break
    except FFmpegError as error:
        raise DataError(f"{path} cannot be decoded ({error.strerror}): fetch it again.") from None
    lost = [time for time in wanted if time not in found]
    if lost:
        raise DataError(f"{path} breaks off before frame {index.times.index(lost[0])} of {len(index)}: fetch it again.")
    return [found[index.times[i]] for i in indices]
