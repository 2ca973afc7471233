"""What readers of mesh files give: triangles with their looks, and the pictures on them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from navila_sim_mesh.textures import MAX_LEVELS, Atlas, pack_atlas

#: Textures are made smaller together until they hold at most so many texels (four bytes each).
MAX_TEXELS = 96_000_000
#: Colour of a mesh that has none.
GREY = (0.7, 0.7, 0.7)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one mesh of a file adds; F triangles."""

    triangles: NDArray[np.floating[Any]]
    """(F, 3, 3) metres."""
    rgb: NDArray[np.floating[Any]]
    """(F, 3, 3) colour of the corners in 0..1, a factor where there is a texture."""
    uv: NDArray[np.floating[Any]]
    """(F, 3, 2), v down."""
    texture: int
    """Number among the images."""
    shaded: bool
    """Whether light from above shades it: it has neither texture nor colours of its own that carry light."""


class Images:
    """The distinct textures of a file; number 0 is plain white, for what has none."""

    def __init__(self) -> None:
        self._images: list[Image.Image] = [Image.new("RGB", (1, 1), (255, 255, 255))]
        self._index: dict[Hashable, int] = {}

    def add(self, key: Hashable, image: Image.Image) -> int:
        """The number of an image; one key is one image."""
        if key not in self._index:
            self._index[key] = len(self._images)
            self._images.append(image)
        return self._index[key]

    def atlas(self) -> Atlas:
        """All images with sides that are powers of two, shrunk together where they would not fit."""
        limit = 1 << (MAX_LEVELS - 1)
        while True:
            sizes = [
                (min(_power_of_two(image.width), limit), min(_power_of_two(image.height), limit))
                for image in self._images
            ]
            if sum(width * height for width, height in sizes) <= MAX_TEXELS or limit <= 64:
                break
            limit //= 2
        return pack_atlas([_levels(image, size) for image, size in zip(self._images, sizes, strict=True)])


def _levels(image: Image.Image, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Mip levels (H, W, 4) of an image, down to one row or column."""
    # A JPEG can be decoded at an eighth to all of its size.
    image.draft("RGB", size)
    if image.mode.startswith("I;16"):
        # Pillow would clip grey of 16 bits, not scale it.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    plain = image.convert("RGB").convert("RGBX")
    level = plain if plain.size == size else plain.resize(size, Image.Resampling.BICUBIC)
    levels = [np.asarray(level)]
    while min(level.size) > 1:
        level = level.reduce(2)
        levels.append(np.asarray(level))
    return levels


def _power_of_two(side: int) -> int:
    return 1 << max(0, (side - 1).bit_length())
