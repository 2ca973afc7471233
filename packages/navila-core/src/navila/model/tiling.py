"""Large images in tiles, as NVILA (arXiv 2412.04468) takes them: `image_aspect_ratio` `dynamic` and `dynamic_s2`.

`dynamic` cuts an image into tiles of the encoder's size, in the grid whose shape is closest to its own, and adds the
whole image as one more. `dynamic_s2` sees the whole at several scales, the largest in such a grid, and joins their
features by channel: more tokens for a large image, each of which knows of its surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from navila.images import resize

#: Columns and rows of tiles.
Grid = tuple[int, int]


def closest_grid(width: int, height: int, *, min_tiles: int, max_tiles: int, side: int) -> Grid:
    """The grid of `min_tiles` to `max_tiles` tiles of `side` pixels whose shape is closest to an image's.

    Of grids of one shape the largest that the image fills by more than half is taken.
    """
    sides = range(1, max_tiles + 1)
    grids = [(i, j) for i in sides for j in sides if min_tiles <= i * j <= max_tiles]
    best, least = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - columns / rows)
        fills = width * height > 0.5 * side * side * columns * rows
        if difference < least or (difference == least and fills):
            best, least = (columns, rows), difference
    return best


def cut(image: Image.Image, grid: Grid, side: int) -> list[Image.Image]:
    """An image resized to a grid of tiles, which come row by row, each `side` x `side` pixels."""
    columns, rows = grid
    whole = resize(image, (columns * side, rows * side))
    corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
    return [whole.crop((left, top, left + side, top + side)) for left, top in corners]


def dynamic_tiles(image: Image.Image, *, min_tiles: int, max_tiles: int, side: int) -> list[Image.Image]:
    """The tiles of an image, and the whole as one more where there are several."""
    grid = closest_grid(*image.size, min_tiles=min_tiles, max_tiles=max_tiles, side=side)
    tiles = cut(image, grid, side)
    return tiles if len(tiles) == 1 else [*tiles, resize(image, (side, side))]


def scale_tiles(
    image: Image.Image, scales: Sequence[int], *, max_tiles: int, side: int
) -> tuple[list[Image.Image], list[Grid]]:
    """The tiles of an image at each scale (ascending, in pixels), one scale after the other, and their grids.

    All scales but the last are square; the last has at least as many tiles as a square one would.
    """
    counts = [scale // scales[0] for scale in scales]
    grids = [(count, count) for count in counts[:-1]]
    grids.append(closest_grid(*image.size, min_tiles=counts[-1] ** 2, max_tiles=max_tiles, side=side))
    return [tile for grid in grids for tile in cut(image, grid, side)], grids


def join_scales(features: Tensor, grids: Sequence[Grid], output: int) -> tuple[Tensor, Grid]:
    """(M, P, C) features of the tiles of `scale_tiles` to those of the whole, (M', P, C * scales), and their grid.

    Each scale is put together and resized by area to the size of scale number `output` (negative ones count from the
    last); all are joined by channel and cut again, so that a projector can merge neighbours within a tile.
    """
    wholes = [assemble(part, grid) for part, grid in zip(features.split([c * r for c, r in grids]), grids, strict=True)]
    size = wholes[output].shape[1:3]
    same = [
        interpolate(whole.permute(0, 3, 1, 2).float(), size=tuple(size), mode="area").to(features.dtype)
        for whole in wholes
    ]
    columns, rows = grids[output]
    joined = torch.cat(same, dim=1).permute(0, 2, 3, 1)
    tiles = joined.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).transpose(2, 3)
    return tiles.flatten(3, 4).flatten(0, 2), (columns, rows)


def assemble(features: Tensor, grid: Grid) -> Tensor:
    """(M, P, C) features of tiles, row by row, to (1, H, W, C) of the image they were cut from."""
    columns, rows = grid
    length = math.isqrt(features.shape[1])
    tiles = features.unflatten(1, (length, length)).unflatten(0, (rows, columns))
    return tiles.transpose(1, 2).flatten(2, 3).flatten(0, 1)[None]
