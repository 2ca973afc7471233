"""S2 (arXiv 2403.13043): an image at several sizes, cut into tiles of the encoder's, features joined by channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from navila.errors import ConfigError
from navila.images import ImageProcessor


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Sides in pixels that an image is seen at, ascending, each a whole number of tiles of the encoder's size."""

    sides: tuple[int, ...]
    tile: int
    """Side of a tile in pixels: the encoder's `image_size`."""

    @classmethod
    def of(cls, sides: str | Iterable[int], max_split_size: int | None, image_size: int) -> Self:
        """Read `s2_scales` ("56,112" or a list) and `s2_max_split_size` (the encoder's size when None).

        Raises:
            ConfigError: a scale is no number, or is not cut into tiles of the encoder's size.
        """
        listed = sides.split(",") if isinstance(sides, str) else list(sides)
        try:
            scales = sorted({int(side) for side in listed})
        except (TypeError, ValueError):
            scales = []
        if not scales or scales[0] < 1:
            raise ConfigError(f"s2_scales is {sides!r}: give sizes in pixels such as '{image_size},{2 * image_size}'.")
        split = max_split_size or image_size
        for side in scales:
            if side != math.ceil(side / split) * image_size:
                raise ConfigError(
                    f"s2_scales has {side} and s2_max_split_size is {split}, but the encoder takes tiles of "
                    f"{image_size} pixels: use multiples of {image_size}, and {image_size}."
                )
        return cls(sides=tuple(scales), tile=image_size)

    @property
    def tiles(self) -> int:
        """Of the smallest scale, whose grid the features have."""
        return (self.sides[0] // self.tile) ** 2

    def encode(self, pixel_values: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """(N, 3, H, W) to (N, T, C * scales), where `encode` turns tiles (M, 3, S, S) into patches (M, P, C)."""
        grids: list[Tensor] = []
        for side in self.sides:
            pixels = interpolate(pixel_values.float(), size=(side, side), mode="bicubic").to(pixel_values.dtype)
            count = side // self.tile
            grids.append(_join(encode(_cut(pixels, count)), count))
        length = grids[0].shape[-1]
        same = [interpolate(grid.float(), size=(length, length), mode="area").to(grid.dtype) for grid in grids]
        return torch.cat(same, dim=1).flatten(2).transpose(1, 2)

    def processor(self, processor: ImageProcessor) -> ImageProcessor:
        """A processor that prepares images at the largest scale."""
        return at_size(processor, self.sides[-1])


def at_size(processor: ImageProcessor, side: int) -> ImageProcessor:
    """A processor that prepares images of `side` x `side` pixels, in every other way alike."""
    raw: dict[str, Any] = dict(processor.raw)
    for key in ("size", "crop_size"):
        if raw.get(key) is not None:
            raw[key] = _resized(raw[key], side)
    return ImageProcessor.from_dict(raw)


def resize_positions(table: Tensor, positions: int, prefix: int) -> Tensor:
    """A table of learned positions (…, prefix + P, C) for a grid of another size, (…, positions, C).

    The grid is resized in two dimensions by bicubic interpolation in float32; the first `prefix` rows, of a class
    token, stay. The original interpolated the flattened grid in one dimension, which left zeros where positions
    coincide.

    Raises:
        ConfigError: one of the two is no square grid.
    """
    old, new = math.isqrt(table.shape[-2] - prefix), math.isqrt(positions - prefix)
    if old**2 != table.shape[-2] - prefix or new**2 != positions - prefix:
        raise ConfigError(
            f"A table of {table.shape[-2]} positions cannot become one of {positions}: only square grids are resized."
        )
    first, rows = table[..., :prefix, :], table[..., prefix:, :]
    grid = rows.reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
    resized = interpolate(grid, size=(new, new), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    return torch.cat([first, resized.reshape(*rows.shape[:-2], new * new, -1).to(rows.dtype)], dim=-2)


def _resized(size: Any, side: int) -> Any:
    return dict.fromkeys(size, side) if isinstance(size, Mapping) else side


def _cut(pixels: Tensor, count: int) -> Tensor:
    """(N, 3, H, W) to (N * count^2, 3, H / count, W / count), the tiles of an image row by row."""
    if count == 1:
        return pixels
    tiles = pixels.unflatten(3, (count, -1)).unflatten(2, (count, -1))
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _join(patches: Tensor, count: int) -> Tensor:
    """(N * count^2, P, C) features of tiles to (N, C, side, side) of the images they were cut from."""
    length = math.isqrt(patches.shape[1])
    grid = patches.unflatten(1, (length, length)).unflatten(0, (-1, count, count))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
