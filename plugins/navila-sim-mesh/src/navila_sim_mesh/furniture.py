"""Furniture of procedural houses, built of boxes, cylinders, cones and balls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RGB = tuple[float, float, float]

#: What instructions call the colours of landmarks, clearly apart in hue or brightness.
COLOURS: dict[str, RGB] = {
    "red": (0.90, 0.06, 0.06),
    "orange": (1.00, 0.50, 0.02),
    "yellow": (0.98, 0.92, 0.08),
    "green": (0.06, 0.62, 0.10),
    "cyan": (0.08, 0.88, 0.92),
    "blue": (0.08, 0.16, 0.92),
    "purple": (0.55, 0.06, 0.74),
    "pink": (1.00, 0.45, 0.78),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A solid in one colour."""

    triangles: NDArray[np.float32]
    """(N, 3, 3), standing on y = 0, seen from outside counter-clockwise."""
    rgb: RGB


@dataclass(frozen=True, kw_only=True)
class Item:
    """A piece of furniture about the origin; its front faces +z."""

    parts: tuple[Part, ...]
    half_size: tuple[float, float]
    """Half extents (x, z) in metres of what the agent cannot walk through."""
    height: float
    """Metres."""
    round: bool = False
    """Whether the footprint is a disc of radius `half_size[0]`."""


def box(size: tuple[float, float, float], base: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> NDArray[np.float32]:
    """Triangles (12, 3, 3) of a box of `size` metres whose bottom face is centred on `base`."""
    return (_UNIT_BOX * np.asarray(size, np.float32) + np.asarray(base, np.float32)).astype(np.float32)


def frustum(
    bottom: float, top: float, height: float, base: tuple[float, float, float] = (0.0, 0.0, 0.0), sides: int = 14
) -> NDArray[np.float32]:
    """Triangles of a cone or cylinder with radii `bottom` and `top` metres, standing on `base`."""
    angle = np.arange(sides + 1) * (2 * math.pi / sides)
    ring = np.stack([np.sin(angle), np.zeros(sides + 1), np.cos(angle)], axis=1)
    up = np.array([0.0, height, 0.0])
    low, high = ring * bottom, ring * top + up
    side = [np.stack([low[:-1], low[1:], high[1:]], 1), np.stack([low[:-1], high[1:], high[:-1]], 1)]
    lid = np.stack([np.broadcast_to(up, (sides, 3)), high[:-1], high[1:]], 1)
    return (np.concatenate([*side, lid]) + np.asarray(base)).astype(np.float32)


def ball(radius: float, base: tuple[float, float, float] = (0.0, 0.0, 0.0), sides: int = 16) -> NDArray[np.float32]:
    """Triangles of a ball of `radius` metres resting on `base`."""
    rings = sides // 2
    theta = np.arange(rings + 1) * (math.pi / rings)
    phi = np.arange(sides + 1) * (2 * math.pi / sides)
    points = np.stack(
        [
            np.sin(theta)[:, None] * np.sin(phi)[None],
            np.broadcast_to(-np.cos(theta)[:, None], (rings + 1, sides + 1)),
            np.sin(theta)[:, None] * np.cos(phi)[None],
        ],
        axis=-1,
    )
    a, b, c, d = points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], 2).reshape(-1, 3, 3), np.stack([a, c, d], 2).reshape(-1, 3, 3)])
    return (faces * radius + np.array([0.0, radius, 0.0]) + np.asarray(base)).astype(np.float32)


def _unit_box() -> NDArray[np.float32]:
    faces = []
    for axis in range(3):
        for sign in (-0.5, 0.5):
            corners = []
            for s, t in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
                corner = np.zeros(3)
                corner[axis], corner[(axis + 1) % 3], corner[(axis + 2) % 3] = sign, s, t
                corners.append(corner)
            if sign < 0:
                corners.reverse()
            faces += [[corners[0], corners[1], corners[2]], [corners[0], corners[2], corners[3]]]
    return (np.asarray(faces) + np.array([0.0, 0.5, 0.0])).astype(np.float32)


_UNIT_BOX = _unit_box()


def _shade(rgb: RGB, factor: float) -> RGB:
    return (rgb[0] * factor, rgb[1] * factor, rgb[2] * factor)


def _legs(width: float, depth: float, height: float, thick: float) -> NDArray[np.float32]:
    x, z = width / 2 - thick / 2, depth / 2 - thick / 2
    return np.concatenate([box((thick, height, thick), (sx * x, 0.0, sz * z)) for sx in (-1, 1) for sz in (-1, 1)])


def sofa(rgb: RGB) -> Item:
    cushions = np.concatenate([box((0.56, 0.16, 0.55), (x, 0.38, 0.1)) for x in (-0.29, 0.29)])
    frame = np.concatenate(
        [
            box((1.5, 0.38, 0.85)),
            box((1.5, 0.6, 0.25), (0.0, 0.38, -0.3)),
            box((0.18, 0.3, 0.85), (-0.66, 0.38, 0.0)),
            box((0.18, 0.3, 0.85), (0.66, 0.38, 0.0)),
        ]
    )
    return Item(
        parts=(Part(triangles=frame, rgb=rgb), Part(triangles=cushions, rgb=_shade(rgb, 0.8))),
        half_size=(0.75, 0.45),
        height=0.98,
    )


def chair(rgb: RGB) -> Item:
    seat = np.concatenate([box((0.7, 0.12, 0.7), (0.0, 0.45, 0.0)), box((0.7, 0.75, 0.12), (0.0, 0.57, -0.29))])
    return Item(
        parts=(
            Part(triangles=seat, rgb=rgb),
            Part(triangles=_legs(0.7, 0.7, 0.45, 0.1), rgb=_shade(rgb, 0.75)),
        ),
        half_size=(0.35, 0.35),
        height=1.32,
    )


def table(rgb: RGB) -> Item:
    return Item(
        parts=(
            Part(triangles=box((1.3, 0.14, 0.9), (0.0, 0.7, 0.0)), rgb=rgb),
            Part(triangles=_legs(1.2, 0.8, 0.7, 0.12), rgb=_shade(rgb, 0.8)),
        ),
        half_size=(0.65, 0.45),
        height=0.84,
    )


def lamp(rgb: RGB) -> Item:
    return Item(
        parts=(
            Part(triangles=frustum(0.42, 0.22, 0.6, (0.0, 1.1, 0.0)), rgb=rgb),
            Part(triangles=frustum(0.06, 0.06, 1.1), rgb=_shade(rgb, 0.7)),
            Part(triangles=frustum(0.3, 0.25, 0.1), rgb=_shade(rgb, 0.8)),
        ),
        half_size=(0.3, 0.3),
        height=1.7,
        round=True,
    )


def cabinet(rgb: RGB) -> Item:
    trim = np.concatenate(
        [
            box((0.03, 1.45, 0.02), (0.0, 0.1, 0.305)),
            box((0.05, 0.2, 0.06), (-0.1, 0.75, 0.32)),
            box((0.05, 0.2, 0.06), (0.1, 0.75, 0.32)),
        ]
    )
    return Item(
        parts=(Part(triangles=box((1.0, 1.65, 0.6)), rgb=rgb), Part(triangles=trim, rgb=_shade(rgb, 0.35))),
        half_size=(0.5, 0.3),
        height=1.65,
    )


def bed(rgb: RGB) -> Item:
    pillows = np.concatenate([box((0.42, 0.12, 0.3), (x, 0.5, -0.45)) for x in (-0.27, 0.27)])
    frame = np.concatenate([box((1.2, 0.5, 1.5)), box((1.2, 1.1, 0.12), (0.0, 0.0, -0.74))])
    return Item(
        parts=(Part(triangles=frame, rgb=rgb), Part(triangles=pillows, rgb=(0.9, 0.9, 0.88))),
        half_size=(0.6, 0.8),
        height=1.1,
    )


def plant(rgb: RGB) -> Item:
    crown = np.concatenate(
        [
            frustum(0.55, 0.12, 0.6, (0.0, 0.4, 0.0), 10),
            frustum(0.42, 0.08, 0.5, (0.0, 0.8, 0.0), 10),
            frustum(0.3, 0.0, 0.5, (0.0, 1.15, 0.0), 10),
        ]
    )
    return Item(
        parts=(
            Part(triangles=crown, rgb=rgb),
            Part(triangles=frustum(0.2, 0.28, 0.4), rgb=(0.30, 0.22, 0.18)),
        ),
        half_size=(0.4, 0.4),
        height=1.65,
        round=True,
    )


def ball_item(rgb: RGB) -> Item:
    return Item(parts=(Part(triangles=ball(0.5), rgb=rgb),), half_size=(0.45, 0.45), height=1.0, round=True)


#: What instructions call the shapes of landmarks.
SHAPES: dict[str, Callable[[RGB], Item]] = {
    "sofa": sofa,
    "chair": chair,
    "table": table,
    "lamp": lamp,
    "cabinet": cabinet,
    "bed": bed,
    "plant": plant,
    "ball": ball_item,
}


def bookshelf(rgb: RGB) -> Item:
    boards = np.concatenate([box((0.8, 0.03, 0.02), (0.0, y, 0.16)) for y in (0.3, 0.7, 1.1)])
    return Item(
        parts=(Part(triangles=box((0.9, 1.5, 0.3)), rgb=rgb), Part(triangles=boards, rgb=_shade(rgb, 0.5))),
        half_size=(0.45, 0.15),
        height=1.5,
    )


def crate(rgb: RGB) -> Item:
    return Item(parts=(Part(triangles=box((0.5, 0.45, 0.5)), rgb=rgb),), half_size=(0.25, 0.25), height=0.45)


def bench(rgb: RGB) -> Item:
    solid = np.concatenate([box((1.1, 0.08, 0.35), (0.0, 0.4, 0.0)), _legs(1.0, 0.3, 0.4, 0.08)])
    return Item(parts=(Part(triangles=solid, rgb=rgb),), half_size=(0.55, 0.2), height=0.48)


#: Background furniture, in muted colours, never named.
BACKGROUND: tuple[Callable[[RGB], Item], ...] = (bookshelf, crate, bench)


def turned(item: Item, quarter_turns: int, x: float, z: float) -> tuple[tuple[Part, ...], tuple[float, float]]:
    """Parts placed at (x, z) after counter-clockwise quarter turns, and the half extents (x, z) there."""
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter_turns % 4]
    rotation = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]], np.float32)
    shift = np.array([x, 0.0, z], np.float32)
    parts = tuple(Part(triangles=part.triangles @ rotation + shift, rgb=part.rgb) for part in item.parts)
    half = item.half_size if quarter_turns % 2 == 0 else (item.half_size[1], item.half_size[0])
    return parts, half
