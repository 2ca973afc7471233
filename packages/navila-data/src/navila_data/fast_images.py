"""Images for the vision tower at several times the speed of `navila.images`, and a level off at few pixels.

JPEG is decoded by libjpeg-turbo, to the same pixels. The resize is torch's antialiased one of 8 bits, whose weights
have fewer bits than Pillow's: some pixels in a thousand come out one level (1/255) off, two levels at one in a million
of noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from navila.errors import ConfigError, DataError, MissingDependencyError
from navila.images import ImageProcessor, centre_crop, read_image, resize
from numpy.typing import NDArray
from PIL import Image, features

#: The filters of Pillow that torch has for 8 bits.
_FILTERS = {int(Image.Resampling.BICUBIC): "bicubic", int(Image.Resampling.BILINEAR): "bilinear"}
#: How a JPEG file begins.
_JPEG = b"\xff\xd8"
#: How JPEGs hold colours that become RGB in one way only; those of printing do not.
_PLAIN = frozenset({"YCbCr", "RGB", "Gray"})

#: (H, W, 3) uint8, RGB.
Pixels = NDArray[np.uint8]


def require_fast(processor: ImageProcessor) -> None:
    """Check that images can be prepared fast.

    Raises:
        MissingDependencyError: simplejpeg is not installed.
        ConfigError: torch has no such filter.
    """
    try:
        import simplejpeg  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "Fast image decoding needs simplejpeg, not installed here: run `pip install 'navila-data[fast]'`."
        ) from None
    if processor.resample not in _FILTERS:
        name = Image.Resampling(processor.resample).name.lower()
        raise ConfigError(f"There is no fast {name} resize, which the checkpoint asks for: decode images exactly.")


def read_pixels(file: Path | BinaryIO) -> Pixels:
    """Decode an image file, or an open one; what is no plain JPEG, or a damaged one, is left to `read_image`.

    Raises:
        DataError: the file is missing, truncated or no image.
    """
    pixels = read_jpeg(file)
    return np.array(read_image(file)) if pixels is None else pixels


def has_same_jpegs() -> bool:
    """Whether `read_jpeg` works here and gives the pixels that Pillow gives: both have libjpeg-turbo."""
    return find_spec("simplejpeg") is not None and bool(features.check("libjpeg_turbo"))


def read_jpeg(file: Path | BinaryIO) -> Pixels | None:
    """Decode a JPEG file, or an open one; None for other files and for JPEGs that are damaged, odd or of printing.

    Raises:
        DataError: the file is missing, or cannot be read.
    """
    import simplejpeg

    try:
        content = _jpeg_of(file)
    except FileNotFoundError:
        raise DataError(f"The image {file} does not exist: check the path.") from None
    except OSError as error:
        raise DataError(f"The image {file} cannot be read ({error.strerror}): check the path and the disk.") from None
    if content is not None:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
            if colours in _PLAIN and int(height) * int(width) <= _most_pixels():
                return simplejpeg.decode_jpeg(content)
        except ValueError:
            # Truncated, or odd: Pillow takes it or says what is wrong.
            pass
    if not isinstance(file, Path):
        file.seek(0)
    return None


def _jpeg_of(file: Path | BinaryIO) -> bytes | None:
    """The content of a JPEG file; of other files no more than their beginning is read."""
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as opened:
        begin = opened.read(len(_JPEG))
        return begin + opened.read() if begin == _JPEG else None


def resize_pixels(pixels: Pixels, processor: ImageProcessor, aspect_ratio: str | None) -> Pixels:
    """What `navila.images.resize_image` does, to an array."""
    if aspect_ratio == "resize":
        pixels = _resize(pixels, processor.target_size, Image.Resampling.BICUBIC)
    elif aspect_ratio == "pad":
        pixels = _pad_to_square(pixels, processor.pad_colour)
    size = processor.resized_size(pixels.shape[1], pixels.shape[0])
    pixels = _resize(pixels, size, processor.resample)
    if processor.crop_width and processor.crop_height:
        # A copy: what was cut off would stay in memory with a view.
        pixels = centre_crop(pixels, processor.crop_height, processor.crop_width).copy()
    return pixels


def stack_pixels(images: Sequence[Pixels] | Pixels) -> torch.Tensor:
    """N images (H, W, 3) uint8 to (N, 3, H, W) uint8 in channels-last layout."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2)


def _most_pixels() -> float:
    """Size past which Pillow takes an image for an attack; it is left to it to say so."""
    return Image.MAX_IMAGE_PIXELS or math.inf


def _resize(pixels: Pixels, size: tuple[int, int], resample: int) -> Pixels:
    """At (width, height) pixels."""
    width, height = size
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[0] < height or pixels.shape[1] < width:
        # Where an image grows, torch's weights would be two levels off, and there is less to save.
        return np.asarray(resize(Image.fromarray(pixels), size, resample))
    # (1, 3, H, W) in torch's channels-last layout: it resizes those without taking the channels apart, before or after.
    images = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    resized = F.interpolate(images, (height, width), mode=_FILTERS[resample], antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _pad_to_square(pixels: Pixels, colour: tuple[int, ...]) -> Pixels:
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), colour, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square
