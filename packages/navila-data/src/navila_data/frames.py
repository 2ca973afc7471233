"""Decoded frames, kept resized so that they are decoded once: in memory, and on disk if asked for."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar, get_args

import numpy as np
import torch
from navila.errors import ConfigError
from navila.images import ImageProcessor, read_image, resize_image
from navila.video import iterate_frames
from numpy.typing import NDArray
from PIL import Image

from navila_data.fast_images import has_same_jpegs, read_jpeg, read_pixels, require_fast, resize_pixels, stack_pixels
from navila_data.frame_cache import FrameCache, Stored
from navila_data.media import Base64, EditedFrame, Medium, TarMember, VideoFrame, open_file

#: (H, W, 3) uint8, already of the vision tower's size.
Frame = NDArray[np.uint8]
#: How images become frames: as the checkpoints were trained, or several times as fast and a level off at few pixels.
Decoding = Literal["exact", "fast"]

Result = TypeVar("Result")

#: Fields of an image processor that say nothing about resized frames.
_OF_LEVELS = frozenset({"rescale_factor", "mean", "std", "raw"})


class FrameStore:
    """Decodes media, resizes them for the vision tower and keeps the latest ones, up to `max_bytes`."""

    def __init__(
        self,
        resize: Callable[[Image.Image], Frame],
        *,
        read: Callable[[Path | BinaryIO], Frame] | None = None,
        cache: FrameCache | None = None,
        max_bytes: int = 1 << 30,
    ) -> None:
        """Prepare to read frames.

        Args:
            resize: what the model does to an RGB image before normalising it.
            read: decodes and resizes an image file, or an open one, in one go; by default `resize` of the image.
            cache: frames on disk, looked at before a file is decoded.
            max_bytes: bound of the memory that decoded frames take.
        """
        self._resize = resize
        self._read = read or (lambda file: resize(read_image(file)))
        self._cache = cache
        self._max_bytes = max_bytes
        self._counts = Counter[str]()
        self._bytes = 0
        self._frames: OrderedDict[Stored, Frame] = OrderedDict()
        self._black = resize(Image.new("RGB", (448, 448)))

    def load(self, media: Iterable[Medium | None]) -> dict[Medium | None, Frame]:
        """The resized frame of each distinct medium, black for None; a video is opened once for all its frames.

        Raises:
            DataError: a medium is missing, truncated or cannot be decoded.
        """
        found: dict[Medium | None, Frame] = {}
        missing: list[Stored] = []
        edited: list[EditedFrame] = []
        for medium in dict.fromkeys(media):
            if medium is None:
                found[medium] = self._black
            elif isinstance(medium, EditedFrame):
                edited.append(medium)
            elif medium in self._frames:
                self._frames.move_to_end(medium)
                found[medium] = self._frames[medium]
            else:
                missing.append(medium)
        if missing:
            found |= self._read_all(missing)
        if edited:
            # Frames are kept as they are, for what is done to them changes from epoch to epoch.
            plain = self.load(frame.medium for frame in edited)
            found |= {frame: frame.edit(plain[frame.medium]) for frame in edited}
        return found

    def take_counts(self) -> Counter[str]:
        """What became of the frames since the last call: `decoded`, `from_disk`, and `damaged` or `left_out` there."""
        counts = self._counts
        self._counts = Counter()
        if self._cache:
            counts.update(self._cache.take_counts())
        return counts

    def _read_all(self, media: Sequence[Stored]) -> dict[Stored, Frame]:
        """The frames of media that are not in memory, from the disk's cache or decoded."""
        kept = self._cache.get(media) if self._cache else {}
        new: dict[Stored, Frame] = {}
        try:
            new.update(self._decoded([medium for medium in media if medium not in kept]))
        finally:
            # Also when one is broken: others may be wanted again.
            if self._cache and new:
                self._cache.put(new)
            self._counts.update(decoded=len(new), from_disk=len(kept))
            for medium, frame in (kept | new).items():
                self._keep(medium, frame)
        return kept | new

    def _decoded(self, media: Sequence[Stored]) -> Iterator[tuple[Stored, Frame]]:
        of_videos: dict[Path | TarMember, list[int]] = {}
        for medium in media:
            if isinstance(medium, VideoFrame):
                of_videos.setdefault(medium.video, []).append(medium.index)
            else:
                yield medium, _with_file(medium, self._read)
        for video, indices in of_videos.items():
            frames = _with_file(video, lambda file, wanted=indices: self._of_video(file, wanted))
            yield from ((VideoFrame(video, index), frame) for index, frame in frames.items())

    def _of_video(self, file: Path | BinaryIO, indices: Sequence[int]) -> dict[int, Frame]:
        return {index: self._resize(image) for index, image in iterate_frames(file, lambda _: indices)}

    def _keep(self, medium: Stored, frame: Frame) -> None:
        self._frames[medium] = frame
        self._bytes += frame.nbytes
        while self._bytes > self._max_bytes and len(self._frames) > 1:
            _, old = self._frames.popitem(last=False)
            self._bytes -= old.nbytes


def _with_file(file: Path | TarMember | Base64, read: Callable[[Path | BinaryIO], Result]) -> Result:
    """Read a file by its path, or a shard's member by its content."""
    if isinstance(file, Path):
        return read(file)
    with open_file(file) as content:
        return read(content)


class PixelPipeline:
    """The model's image preprocessing in two halves: a resize to uint8, worth keeping, and what makes tensors of it.

    With `decoding` `exact` they equal `navila.images.process_image` bit for bit; `fast` (`navila_data.fast_images`) is
    several times as fast and a level off at few pixels.
    """

    def __init__(
        self, processor: ImageProcessor, aspect_ratio: str | None = "resize", *, decoding: Decoding = "exact"
    ) -> None:
        """Raises ConfigError for another `decoding`, and where there is no fast one."""
        if decoding not in get_args(Decoding):
            raise ConfigError(f"Unknown image decoding {decoding!r}: choose {' or '.join(get_args(Decoding))}.")
        if decoding == "fast":
            require_fast(processor)
        self.processor = processor
        self.aspect_ratio = aspect_ratio
        self.decoding = decoding
        self._reads_jpegs = has_same_jpegs()

    def read(self, file: Path | BinaryIO) -> Frame:
        """(H, W, 3) uint8 of the vision tower's size, of an image file or an open one; raises as `read_image`."""
        if self.decoding == "fast":
            return resize_pixels(read_pixels(file), self.processor, self.aspect_ratio)
        pixels = read_jpeg(file) if self._reads_jpegs else None
        return self.resize(read_image(file) if pixels is None else Image.fromarray(pixels))

    def resize(self, image: Image.Image) -> Frame:
        """(H, W, 3) uint8 of the vision tower's size."""
        if self.decoding == "exact":
            return np.asarray(resize_image(image, self.processor, self.aspect_ratio))
        return resize_pixels(np.array(image.convert("RGB")), self.processor, self.aspect_ratio)

    def to_tensor(self, frames: Sequence[Frame] | Frame) -> torch.Tensor:
        """N frames (H, W, 3) uint8 to `pixel_values` (N, 3, H, W): float32, or, decoded fast, uint8.

        Those of 8 bits the model normalises itself, where it runs: a quarter of the bytes to copy.
        """
        if self.decoding == "fast":
            return stack_pixels(frames)
        return torch.from_numpy(self.processor.normalise(frames))

    def fingerprint(self) -> str:
        """What decides the bytes of resized frames."""
        facts = {name: value for name, value in asdict(self.processor).items() if name not in _OF_LEVELS}
        return json.dumps([facts, self.processor.pad_colour, self.aspect_ratio, self.decoding])
