"""Decoded frames, kept resized so that a small dataset is decoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from navila.images import ImageProcessor, pad_to_square, process_image, read_image
from navila.video import read_frames
from numpy.typing import NDArray
from PIL import Image

from navila_data.media import EditedFrame, Medium, TarMember, VideoFrame, open_file

#: (H, W, 3) uint8, already of the vision tower's size.
Frame = NDArray[np.uint8]


class FrameStore:
    """Decodes media, resizes them for the vision tower and keeps the latest ones, up to `max_bytes`."""

    def __init__(self, resize: Callable[[Image.Image], Frame], *, max_bytes: int = 1 << 30) -> None:
        """Prepare to read frames.

        Args:
            resize: what the model does to an RGB image before normalising it.
            max_bytes: bound of the memory that decoded frames take.
        """
        self._resize = resize
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: OrderedDict[Medium, Frame] = OrderedDict()
        self._black = resize(Image.new("RGB", (448, 448)))

    def load(self, media: Iterable[Medium | None]) -> dict[Medium | None, Frame]:
        """The resized frame of each distinct medium, black for None; a video is opened once for all its frames.

        Raises:
            DataError: a medium is missing, truncated or cannot be decoded.
        """
        found: dict[Medium | None, Frame] = {}
        of_videos: dict[Path | TarMember, list[int]] = {}
        edited: list[EditedFrame] = []
        for medium in media:
            if medium in found:
                continue
            if medium is None:
                found[medium] = self._black
            elif isinstance(medium, EditedFrame):
                edited.append(medium)
            elif medium in self._frames:
                self._frames.move_to_end(medium)
                found[medium] = self._frames[medium]
            elif isinstance(medium, VideoFrame):
                of_videos.setdefault(medium.video, []).append(medium.index)
            else:
                found[medium] = self._keep(medium, _read_image(medium))
        for video, indices in of_videos.items():
            wanted = sorted(set(indices))
            for index, image in zip(wanted, _read_frames(video, wanted), strict=True):
                frame = VideoFrame(video, index)
                found[frame] = self._keep(frame, image)
        if edited:
            # Frames are kept as they are, for what is done to them changes from epoch to epoch.
            plain = self.load(frame.medium for frame in edited)
            found |= {frame: frame.edit(plain[frame.medium]) for frame in edited}
        return found

    def _keep(self, medium: Medium, image: Image.Image) -> Frame:
        frame = self._resize(image)
        self._frames[medium] = frame
        self._bytes += frame.nbytes
        while self._bytes > self._max_bytes and len(self._frames) > 1:
            _, old = self._frames.popitem(last=False)
            self._bytes -= old.nbytes
        return frame


def _read_image(file: Path | TarMember) -> Image.Image:
    if isinstance(file, Path):
        return read_image(file)
    with open_file(file) as content:
        return read_image(content)


def _read_frames(video: Path | TarMember, indices: Sequence[int]) -> list[Image.Image]:
    if isinstance(video, Path):
        return read_frames(video, indices)
    with open_file(video) as content:
        return read_frames(content, indices)


class PixelPipeline:
    """The model's image preprocessing in two halves: a resize to uint8, worth keeping, and a normalisation.

    Together they equal `navila.images.process_image` bit for bit.
    """

    def __init__(self, processor: ImageProcessor, aspect_ratio: str | None = "resize") -> None:
        self.aspect_ratio = aspect_ratio
        self._pad_colour = tuple(int(255 * mean) for mean in processor.mean or (0.0, 0.0, 0.0))
        self._resize = replace(processor, rescale_factor=None, mean=None, std=None)
        normalise = replace(processor, height=None, width=None, shortest_edge=None, crop_height=None, crop_width=None)
        greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
        #: (3, 256) float32: what each 8-bit level of a channel becomes.
        self._levels = normalise(Image.fromarray(greys))[:, 0]

    def resize(self, image: Image.Image) -> Frame:
        """(H, W, 3) uint8 of the vision tower's size."""
        image = image.convert("RGB")
        if self.aspect_ratio == "pad":
            image = pad_to_square(image, self._pad_colour)
        pixels = process_image(image, self._resize, "resize" if self.aspect_ratio == "resize" else None)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(np.uint8)

    def normalise(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """(N, H, W, 3) uint8 to (N, 3, H, W) float32."""
        return torch.from_numpy(np.stack([self._levels[c][frames[..., c]] for c in range(3)], axis=1))
