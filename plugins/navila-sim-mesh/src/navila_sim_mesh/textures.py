"""Surface textures: seeded patterns for procedural houses, and a mip-mapped atlas the renderer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Side in texels of every procedural pattern.
PATTERN_SIDE = 128
#: Metres of surface one pattern covers.
PATTERN_METRES = 2.0


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """All textures of a scene with their mip levels in one flat array, so that one gather serves an image."""

    texels: NDArray[np.uint32]
    """(T,), bytes R, G, B, X of every texel of every level."""
    level_offset: NDArray[np.int32]
    """(textures * MAX_LEVELS,), where the level of a texture starts in `texels`."""
    levels: NDArray[np.int32]
    """(textures,), number of mip levels less one."""
    log2_size: NDArray[np.int32]
    """(textures, 2), log2 of (width, height)."""


#: Stride of `Atlas.level_offset`; textures are at most 2**(MAX_LEVELS - 1) texels wide.
MAX_LEVELS = 14


def build_atlas(images: Sequence[NDArray[np.uint8]]) -> Atlas:
    """Pack images (H, W, 3), sides powers of two, with box-filtered mip levels down to one row or column."""
    return pack_atlas([_box_levels(image) for image in images])


def pack_atlas(textures: Sequence[Sequence[NDArray[np.uint8]]]) -> Atlas:
    """Put the mip levels (H, W, 4) of textures, the largest first, into one array."""
    offsets = np.zeros((len(textures), MAX_LEVELS), np.int32)
    start = 0
    for index, levels in enumerate(textures):
        ends = start + np.cumsum([level.shape[0] * level.shape[1] for level in levels])
        offsets[index, 0], offsets[index, 1 : len(levels)] = start, ends[:-1]
        offsets[index, len(levels) :] = offsets[index, len(levels) - 1]
        start = int(ends[-1])
    return Atlas(
        texels=np.concatenate([level.reshape(-1).view(np.uint32) for levels in textures for level in levels]),
        level_offset=offsets.reshape(-1),
        levels=np.array([len(levels) - 1 for levels in textures], np.int32),
        log2_size=np.array(
            [[side.bit_length() - 1 for side in levels[0].shape[1::-1]] for levels in textures], np.int32
        ),
    )


def _box_levels(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    level = image.astype(np.float32)
    levels = []
    while True:
        packed = np.zeros((*level.shape[:2], 4), np.uint8)
        packed[..., :3] = np.rint(level)
        levels.append(packed)
        if min(level.shape[:2]) == 1:
            return levels
        level = 0.25 * (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2])


@lru_cache(maxsize=1)
def house_atlas() -> Atlas:
    """The patterns of procedural houses, in the order of `PATTERNS`."""
    return build_atlas(
        [np.repeat((255 * PATTERNS[name]()).astype(np.uint8)[..., None], 3, axis=2) for name in PATTERNS]
    )


def _grid() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.mgrid[0:PATTERN_SIDE, 0:PATTERN_SIDE]
    return rows, columns


def _noise(seed: int, amount: float, block: int = 1) -> NDArray[np.float64]:
    side = PATTERN_SIDE // block
    values = np.random.default_rng(seed).uniform(-amount, amount, (side, side))
    return np.repeat(np.repeat(values, block, axis=0), block, axis=1)


def _plain() -> NDArray[np.float64]:
    return 0.95 + _noise(1, 0.03, 4)


def _plaster() -> NDArray[np.float64]:
    return 0.90 + _noise(2, 0.06, 8) + _noise(3, 0.03, 2)


def _bricks() -> NDArray[np.float64]:
    rows, columns = _grid()
    course = rows // 16
    shifted = (columns + 16 * (course % 2)) % PATTERN_SIDE
    tone = np.random.default_rng(4).uniform(0.78, 0.98, (8, 4))[course, shifted // 32]
    return np.where((rows % 16 < 2) | (shifted % 32 < 2), 0.62, tone)


def _planks() -> NDArray[np.float64]:
    rows, columns = _grid()
    board = columns // 16
    joint = (rows + 37 * board) % 64 < 2
    tone = np.random.default_rng(5).uniform(0.74, 0.98, 8)[board]
    streaks = 0.05 * np.sin(columns * 1.9 + 0.15 * rows * (1 + board % 3))
    return np.where(joint | (columns % 16 < 1), 0.55, tone + streaks)


def _tiles() -> NDArray[np.float64]:
    rows, columns = _grid()
    return np.where((rows % 32 < 2) | (columns % 32 < 2), 0.66, 0.94 + _noise(6, 0.04, 32))


def _checker() -> NDArray[np.float64]:
    rows, columns = _grid()
    return np.where((rows // 32 + columns // 32) % 2 == 0, 0.97, 0.74)


def _carpet_stripes() -> NDArray[np.float64]:
    rows, _ = _grid()
    return np.where(rows // 8 % 4 == 0, 0.72, np.where(rows // 8 % 4 == 2, 0.95, 0.86)) + _noise(7, 0.05)


def _wallpaper_stripes() -> NDArray[np.float64]:
    _, columns = _grid()
    return np.where(columns // 16 % 2 == 0, 0.96, 0.80)


def _wallpaper_diamonds() -> NDArray[np.float64]:
    rows, columns = _grid()
    return np.where(np.abs(rows % 32 - 16) + np.abs(columns % 32 - 16) < 8, 0.78, 0.94)


def _panels() -> NDArray[np.float64]:
    rows, columns = _grid()
    return np.where((columns % 64 < 3) | (rows % 64 < 3), 0.68, 0.93 + 0.03 * np.sin(columns * 0.7))


#: Pattern name -> function giving a (128, 128) brightness in 0..1; floors and walls choose among them by name.
PATTERNS = {
    "plain": _plain,
    "plaster": _plaster,
    "bricks": _bricks,
    "planks": _planks,
    "tiles": _tiles,
    "checker": _checker,
    "carpet": _carpet_stripes,
    "stripes": _wallpaper_stripes,
    "diamonds": _wallpaper_diamonds,
    "panels": _panels,
}
FLOOR_PATTERNS = ("planks", "tiles", "checker", "carpet", "panels", "plaster")
WALL_PATTERNS = ("plain", "plaster", "bricks", "stripes", "diamonds", "panels")
PATTERN_INDEX = {name: index for index, name in enumerate(PATTERNS)}
