"""Images to pixel tensors, bit for bit as the checkpoints were trained, with nothing but PIL and numpy."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from navila.errors import CheckpointError, ConfigError, DataError, reason

FILE_NAME = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """What `preprocessor_config.json` says: how large, cropped or not, and which mean and deviation."""

    height: int | None = None
    """Pixels to resize to; None where `shortest_edge` or nothing is given."""
    width: int | None = None
    shortest_edge: int | None = None
    """Pixels of the shorter side, keeping the aspect ratio (CLIP)."""
    crop_height: int | None = None
    """Pixels of the centre crop; None for no crop."""
    crop_width: int | None = None
    resample: int = int(Image.Resampling.BICUBIC)
    rescale_factor: float | None = 1 / 255
    mean: tuple[float, ...] | None = (0.5, 0.5, 0.5)
    std: tuple[float, ...] | None = (0.5, 0.5, 0.5)
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The file as it was read, so that saving loses nothing."""

    @classmethod
    def square(
        cls, size: int, *, mean: Sequence[float] = (0.5,) * 3, std: Sequence[float] = (0.5,) * 3
    ) -> ImageProcessor:
        """Resize to `size` x `size` pixels and normalise."""
        return cls.from_dict(
            {
                "image_processor_type": "SiglipImageProcessor",
                "do_resize": True,
                "size": {"height": size, "width": size},
                "resample": int(Image.Resampling.BICUBIC),
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": list(mean),
                "image_std": list(std),
            }
        )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ImageProcessor:
        """Read the fields of a `preprocessor_config.json`.

        Raises:
            ConfigError: a field has a form no processor of the field uses.
        """
        size = _size(raw.get("size"), "size") if raw.get("do_resize", True) else {}
        crop = _size(raw.get("crop_size"), "crop_size") if raw.get("do_center_crop", "crop_size" in raw) else {}
        normalise = raw.get("do_normalize", True)
        factor = raw.get("rescale_factor", 1 / 255) if raw.get("do_rescale", True) else None
        if factor is not None and type(factor) not in (int, float):
            raise ConfigError(f"{FILE_NAME} has rescale_factor {factor!r}: expected a number.")
        return cls(
            height=size.get("height"),
            width=size.get("width"),
            shortest_edge=size.get("shortest_edge"),
            crop_height=crop.get("height") or crop.get("shortest_edge"),
            crop_width=crop.get("width") or crop.get("shortest_edge"),
            resample=_resampling(raw.get("resample")),
            rescale_factor=None if factor is None else float(factor),
            mean=_statistics(raw, "image_mean") if normalise else None,
            std=_statistics(raw, "image_std") if normalise else None,
            raw=dict(raw),
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageProcessor:
        """Read `preprocessor_config.json` of a vision tower's folder.

        Raises:
            CheckpointError: the file is missing, is no JSON object, or has a field of another form.
        """
        path = Path(folder) / FILE_NAME
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} is missing: copy it from the vision encoder the model was built with."
            ) from None
        except ValueError as error:
            raise CheckpointError(f"{path} is not valid JSON ({error}): fetch the file again.") from None
        if not isinstance(raw, dict):
            raise CheckpointError(
                f"{path} holds a {type(raw).__name__} where a JSON object is expected: fetch the file again."
            )
        try:
            return cls.from_dict(raw)
        except ConfigError as error:
            raise CheckpointError(f"In {folder}, {error}") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`."""
        text = json.dumps(dict(self.raw), indent=2, sort_keys=True) + "\n"
        (Path(folder) / FILE_NAME).write_text(text, encoding="utf-8")

    @property
    def target_size(self) -> tuple[int, int]:
        """(width, height) in pixels of what comes out for a square image."""
        width = self.crop_width or self.width or self.shortest_edge
        height = self.crop_height or self.height or self.shortest_edge
        if width is None or height is None:
            raise ConfigError(f"{FILE_NAME} gives neither a size nor a crop_size to resize images to: add one.")
        return width, height

    @property
    def pad_colour(self) -> tuple[int, ...]:
        """RGB of the border that makes an image square: the mean."""
        return tuple(int(255 * mean) for mean in self.mean or (0.0, 0.0, 0.0))

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """(3, H, W) float32 pixels of one image: resize, centre crop, rescale, normalise."""
        return self.normalise(self.resize_and_crop(image)[None])[0]

    def resize_and_crop(self, image: Image.Image) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 pixels of one image: the first half, resize and centre crop."""
        image = _in_rgb(image)
        size = self.resized_size(image.width, image.height)
        if size != image.size:
            image = resize(image, size, self.resample)
        pixels = np.asarray(image)
        if self.crop_width and self.crop_height:
            pixels = centre_crop(pixels, self.crop_height, self.crop_width)
        return pixels

    def normalise(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """N images (H, W, 3) uint8 of one size to (N, 3, H, W) float32: the second half, rescale and normalise."""
        values = np.empty((len(pixels), 3, *pixels[0].shape[:2]), np.float32)
        for image, out in zip(pixels, values, strict=True):
            for c in range(3):
                # A level is below 256 in any case: `clip` spares the check, which takes longer than the rest.
                np.take(self._levels[c], image[:, :, c], out=out[c], mode="clip")
        return values

    def scale_and_shift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(3,) and (3,): the normalisation as a multiplication and an addition, `normalise` but for rounding."""
        levels = self._levels
        return ((levels[:, 255] - levels[:, 0]) / 255).astype(np.float32), levels[:, 0].copy()

    @cached_property
    def _levels(self) -> NDArray[np.float32]:
        """(3, 256): what each 8-bit level becomes.

        The rounding is that of transformers' slow processors: rescale in float64, round to float32, then subtract and
        divide in float32. A table of 256 levels gives the same bits as computing each pixel.
        """
        levels = np.arange(256, dtype=np.float64)
        values = (levels * self.rescale_factor if self.rescale_factor is not None else levels).astype(np.float32)
        table = np.tile(values, (3, 1))
        if self.mean is not None and self.std is not None:
            mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
            table = (table - mean[:, None]) / std[:, None]
        return table.astype(np.float32)

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels after the resize step."""
        if self.width and self.height:
            return self.width, self.height
        if self.shortest_edge:
            short, long = sorted((width, height))
            longer = int(self.shortest_edge * long / short)
            return (self.shortest_edge, longer) if width <= height else (longer, self.shortest_edge)
        return width, height


def process_image(
    image: Image.Image, processor: ImageProcessor, aspect_ratio: str | None = "resize"
) -> NDArray[np.float32]:
    """(3, H, W) float32 pixels of one image.

    `aspect_ratio` is the config's `image_aspect_ratio`: `"resize"` squashes to the processor's size, `"pad"` first
    centres the image on a square of the mean colour, anything else leaves it to the processor.
    """
    return processor.normalise(resize_image(image, processor, aspect_ratio)[None])[0]


def resize_image(
    image: Image.Image, processor: ImageProcessor, aspect_ratio: str | None = "resize"
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 pixels of one image: `process_image` without the normalisation."""
    image = _in_rgb(image)
    if aspect_ratio == "resize":
        image = resize(image, processor.target_size)
    elif aspect_ratio == "pad":
        image = pad_to_square(image, processor.pad_colour)
    return processor.resize_and_crop(image)


def process_images(
    images: Sequence[Image.Image], processor: ImageProcessor, aspect_ratio: str | None = "resize"
) -> NDArray[np.float32]:
    """(N, 3, H, W) float32 pixels.

    Raises:
        DataError: the images come out in different sizes.
    """
    arrays = [process_image(image, processor, aspect_ratio) for image in images]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise DataError(
            f"The images come out in different sizes {sorted(shapes)}: set image_aspect_ratio to 'resize' or 'pad'."
        )
    return np.stack(arrays) if arrays else np.zeros((0, 3, *reversed(processor.target_size)), np.float32)


def read_image(path: str | Path | BinaryIO) -> Image.Image:
    """Decode a whole image file, or an open one, as RGB.

    Raises:
        DataError: the file is missing, truncated or no image.
    """
    name = path if isinstance(path, str | Path) else getattr(path, "name", "The open file")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"The image {path} does not exist: check the path.") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} is no image, or an empty file: fetch it again.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or reason(error)
        raise DataError(f"The image {name} cannot be decoded ({why}): fetch it again.") from None


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    """The image as a JPEG file, in RGB."""
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=quality)
    return data.getvalue()


def resize(image: Image.Image, size: tuple[int, int], resample: int = Image.Resampling.BICUBIC) -> Image.Image:
    """The image at (width, height) pixels, the same in every version of Pillow.

    The two passes are made one by one, the horizontal first: Pillow 13 began to choose their order by the shape, which
    changes pixels by several levels, and checkpoints were trained with the old order.
    """
    method = Image.Resampling(resample)
    return image.resize((size[0], image.height), method).resize(size, method)


def _in_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB; one that is so already is not copied."""
    return image if image.mode == "RGB" else image.convert("RGB")


def pad_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The image centred on a square of one RGB colour."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def centre_crop(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut the centre out of (H, W, 3), after padding with zeros where the image is smaller."""
    missing = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
    if any(missing):
        pad_top, pad_left = (missing[0] + 1) // 2, (missing[1] + 1) // 2
        pads = ((pad_top, missing[0] - pad_top), (pad_left, missing[1] - pad_left), (0, 0))
        pixels = np.pad(pixels, pads)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _resampling(value: Any) -> int:
    """PIL's number of a filter; bicubic when None."""
    if value is None:
        return int(Image.Resampling.BICUBIC)
    if type(value) is not int or value not in list(Image.Resampling):
        raise ConfigError(f"{FILE_NAME} has resample {value!r}: expected the number of a filter of PIL, 0 to 5.")
    return value


def _statistics(raw: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    """Three numbers, those of a deviation not 0; None when there are none."""
    value = raw.get(key)
    if not value:
        return None
    numbers = isinstance(value, Sequence) and all(type(number) in (int, float) for number in value)
    if not numbers or len(value) != 3 or (key == "image_std" and 0 in value):
        raise ConfigError(f"{FILE_NAME} has {key} {value!r}: expected a number for each of red, green and blue.")
    return tuple(value)


def _size(value: Any, key: str) -> dict[str, int]:
    """`{"height", "width"}` or `{"shortest_edge"}` from what the file has; a bare number is a square."""
    if value is None:
        return {}
    sides = {"height": value, "width": value} if isinstance(value, int) else value
    if isinstance(sides, Mapping) and ({"height", "width"} <= sides.keys() or "shortest_edge" in sides):
        pixels = {k: v for k, v in sides.items() if v is not None}
        if all(type(v) is int and v > 0 for v in pixels.values()):
            return pixels
    raise ConfigError(f"{FILE_NAME} has {key} {value!r}: expected height and width in pixels, or shortest_edge.")
