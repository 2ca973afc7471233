"""Procedural houses: rooms joined by doors, furnished with nameable landmarks, all drawn from one seed."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from navila_sim_mesh.furniture import BACKGROUND, COLOURS, RGB, SHAPES, Item, Part, box, turned
from navila_sim_mesh.renderer import LIGHT, Surface
from navila_sim_mesh.textures import FLOOR_PATTERNS, PATTERN_INDEX, PATTERN_METRES, WALL_PATTERNS, house_atlas

WALL_HEIGHT = 2.6
WALL_THICKNESS = 0.2
DOOR_HEIGHT = 2.1
#: Every length of the layout is a multiple of this, so that the navigation grid of the same step is exact.
SNAP = 0.05


@dataclass(frozen=True, kw_only=True)
class Rect:
    """An axis-aligned rectangle of floor, metres."""

    x0: float
    z0: float
    x1: float
    z1: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.z0 + self.z1) / 2

    def contains(self, x: float, z: float) -> bool:
        return self.x0 <= x <= self.x1 and self.z0 <= z <= self.z1


@dataclass(frozen=True, kw_only=True)
class Door:
    """An opening between two rooms."""

    rooms: tuple[int, int]
    floor: Rect
    """The threshold: the part of the wall that is cut away."""
    along_x: bool
    """Whether the wall runs along x, so that one walks through along z."""


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """A footprint the agent cannot enter."""

    x: float
    z: float
    half_size: tuple[float, float]
    round: bool


@dataclass(frozen=True, kw_only=True)
class PlacedLandmark:
    """A nameable object and where it stands."""

    name: str
    colour: str
    shape: str
    room: int
    obstacle: Obstacle
    height: float


@dataclass(frozen=True, kw_only=True)
class House:
    """A furnished house."""

    seed: int
    rooms: tuple[Rect, ...]
    doors: tuple[Door, ...]
    landmarks: tuple[PlacedLandmark, ...]
    obstacles: tuple[Obstacle, ...]
    """Landmarks and background furniture."""
    surface: Surface
    landmark_of_triangle: NDArray[np.int32]
    """(F,) index into `landmarks`, -1 for everything else."""


class _Builder:
    """Collects triangles with their look."""

    def __init__(self) -> None:
        self.triangles: list[NDArray[np.float32]] = []
        self.looks: list[tuple[int, RGB, int, int]] = []

    def add(self, triangles: NDArray[np.float32], rgb: RGB, pattern: str, landmark: int = -1) -> None:
        self.triangles.append(triangles)
        self.looks.append((len(triangles), rgb, PATTERN_INDEX[pattern], landmark))

    def add_parts(self, parts: tuple[Part, ...], landmark: int = -1) -> None:
        for part in parts:
            self.add(part.triangles, part.rgb, "plain", landmark)

    def quad(self, corners: list[tuple[float, float, float]], rgb: RGB, pattern: str) -> None:
        """Add a rectangle given by its corners, counter-clockwise as seen."""
        a, b, c, d = corners
        self.add(np.array([[a, b, c], [a, c, d]], np.float32), rgb, pattern)

    def surface(self) -> tuple[Surface, NDArray[np.int32]]:
        triangles = np.concatenate(self.triangles)
        counts = [look[0] for look in self.looks]
        rgb = np.repeat(np.array([look[1] for look in self.looks]), counts, axis=0)
        texture = np.repeat(np.array([look[2] for look in self.looks], np.int32), counts)
        landmark = np.repeat(np.array([look[3] for look in self.looks], np.int32), counts)
        normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
        # Half-Lambert keeps the faces turned away from the light readable; ceilings get what the floor reflects.
        light = 0.55 + 0.45 * (0.5 + 0.5 * normal @ LIGHT)
        light = np.where(normal[:, 1] < -0.9, 0.85, light)
        surface = Surface(
            triangles=triangles,
            rgb=(rgb * light[:, None]).astype(np.float32),
            uv=_planar_uv(triangles, normal),
            texture=texture,
            atlas=house_atlas(),
            falloff=0.035,
        )
        return surface, landmark


def _planar_uv(triangles: NDArray[np.float32], normal: NDArray[np.floating]) -> NDArray[np.float32]:
    """Texture coordinates (F, 3, 2) from world positions, projected along each face's main axis."""
    axis = np.abs(normal).argmax(axis=1)
    across = np.array([2, 0, 0])[axis]
    down = np.array([1, 2, 1])[axis]
    u = np.take_along_axis(triangles, across[:, None, None], axis=2)
    v = np.take_along_axis(triangles, down[:, None, None], axis=2)
    return (np.concatenate([u, -v], axis=2) / PATTERN_METRES).astype(np.float32)


def build_house(seed: int) -> House:
    """Build the house of `seed`; equal seeds give equal houses."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x484F5553]))
    rooms, cells = _floor_plan(rng)
    doors = _doors(rng, rooms, cells)
    builder = _Builder()
    for index, room in enumerate(rooms):
        _add_shell(builder, rng, room, [door for door in doors if index in door.rooms])
    for door in doors:
        _add_door_frame(builder, door)
    landmarks: list[PlacedLandmark] = []
    obstacles: list[Obstacle] = []
    for index, room in enumerate(rooms):
        own_doors = [door for door in doors if index in door.rooms]
        placed = _furnish(builder, rng, index, room, own_doors, landmarks)
        obstacles += placed
        obstacles += _clutter(builder, rng, room, own_doors, placed)
        _decorate(builder, rng, room, own_doors)
    surface, landmark_of_triangle = builder.surface()
    return House(
        seed=seed,
        rooms=rooms,
        doors=doors,
        landmarks=tuple(landmarks),
        obstacles=tuple(obstacles),
        surface=surface,
        landmark_of_triangle=landmark_of_triangle,
    )


def _snap(value: float) -> float:
    return round(value / SNAP) * SNAP


def _muted(rng: np.random.Generator, low: float, high: float, saturation: float) -> RGB:
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.03, saturation), rng.uniform(low, high))


def _brown_or_grey(rng: np.random.Generator) -> RGB:
    if rng.uniform() < 0.5:
        return colorsys.hsv_to_rgb(rng.uniform(0.05, 0.10), rng.uniform(0.25, 0.42), rng.uniform(0.25, 0.50))
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.08), rng.uniform(0.22, 0.60))


def _floor_plan(rng: np.random.Generator) -> tuple[tuple[Rect, ...], dict[tuple[int, int], int]]:
    """Rooms on a grid of cells and which room each cell holds."""
    count = int(rng.integers(3, 7))
    columns, rows = {3: (2, 2), 4: (2, 2), 5: (3, 2), 6: (3, 2)}[count]
    if rng.uniform() < 0.5:
        columns, rows = rows, columns
    cells = [(column, row) for row in range(rows) for column in range(columns)]
    if count < len(cells):
        cells.pop(int(rng.integers(len(cells))))
    x = np.concatenate([[0.0], np.cumsum([_snap(rng.uniform(6.4, 9.0)) for _ in range(columns)])])
    z = np.concatenate([[0.0], np.cumsum([_snap(rng.uniform(6.4, 9.0)) for _ in range(rows)])])
    inset = WALL_THICKNESS / 2
    rooms = tuple(
        Rect(
            x0=_snap(x[column] + inset),
            z0=_snap(z[row] + inset),
            x1=_snap(x[column + 1] - inset),
            z1=_snap(z[row + 1] - inset),
        )
        for column, row in cells
    )
    return rooms, {cell: index for index, cell in enumerate(cells)}


def _doors(rng: np.random.Generator, rooms: tuple[Rect, ...], cells: dict[tuple[int, int], int]) -> tuple[Door, ...]:
    """Doors of a random spanning tree over neighbouring rooms, and some more."""
    walls = [
        (cells[cell], cells[other], other[1] > cell[1])
        for cell in cells
        for other in ((cell[0] + 1, cell[1]), (cell[0], cell[1] + 1))
        if other in cells
    ]
    group = list(range(len(rooms)))
    doors = []
    for index in rng.permutation(len(walls)):
        a, b, along_x = walls[int(index)]
        extra = rng.uniform() < 0.35
        width = _snap(rng.uniform(1.0, 1.5))
        share = rng.uniform()
        if group[a] == group[b] and not extra:
            continue
        group = [group[a] if member == group[b] else member for member in group]
        first, second = rooms[a], rooms[b]
        if along_x:
            low, high = max(first.x0, second.x0) + 1.2, min(first.x1, second.x1) - 1.2 - width
            start = _snap(low + share * (high - low))
            floor = Rect(x0=start, x1=_snap(start + width), z0=first.z1, z1=second.z0)
        else:
            low, high = max(first.z0, second.z0) + 1.2, min(first.z1, second.z1) - 1.2 - width
            start = _snap(low + share * (high - low))
            floor = Rect(z0=start, z1=_snap(start + width), x0=first.x1, x1=second.x0)
        doors.append(Door(rooms=(a, b), floor=floor, along_x=along_x))
    return tuple(doors)


def _add_shell(builder: _Builder, rng: np.random.Generator, room: Rect, doors: list[Door]) -> None:
    """Add floor, ceiling and the four walls with their openings."""
    floor = FLOOR_PATTERNS[int(rng.integers(len(FLOOR_PATTERNS)))]
    wall = WALL_PATTERNS[int(rng.integers(len(WALL_PATTERNS)))]
    floor_rgb, wall_rgb = _muted(rng, 0.35, 0.65, 0.30), _muted(rng, 0.55, 0.88, 0.20)
    x0, z0, x1, z1, top = room.x0, room.z0, room.x1, room.z1, WALL_HEIGHT
    builder.quad([(x0, 0, z0), (x0, 0, z1), (x1, 0, z1), (x1, 0, z0)], floor_rgb, floor)
    builder.quad([(x0, top, z0), (x1, top, z0), (x1, top, z1), (x0, top, z1)], (0.86, 0.86, 0.84), "plain")
    for along_x, fixed, inward in ((True, z0, 1), (True, z1, -1), (False, x0, 1), (False, x1, -1)):
        openings = sorted(
            (door.floor.x0, door.floor.x1) if along_x else (door.floor.z0, door.floor.z1)
            for door in doors
            if door.along_x == along_x
            and fixed in ((door.floor.z0, door.floor.z1), (door.floor.x0, door.floor.x1))[not along_x]
        )
        start, end = (x0, x1) if along_x else (z0, z1)
        pieces = []
        for low, high in openings:
            pieces += [(start, low, 0.0), (low, high, DOOR_HEIGHT)]
            start = high
        for low, high, bottom in [*pieces, (start, end, 0.0)]:
            corners = [(low, bottom), (high, bottom), (high, top), (low, top)]
            if (inward > 0) != along_x:
                corners.reverse()
            points = [(s, y, fixed) if along_x else (fixed, y, s) for s, y in corners]
            builder.quad(points, wall_rgb, wall)


def _add_door_frame(builder: _Builder, door: Door) -> None:
    """Add the threshold, a frame round the opening and the wall above it."""
    r, frame = door.floor, (0.30, 0.27, 0.25)
    builder.quad([(r.x0, 0, r.z0), (r.x0, 0, r.z1), (r.x1, 0, r.z1), (r.x1, 0, r.z0)], (0.4, 0.38, 0.36), "plain")
    cx, cz = r.centre
    thick = WALL_THICKNESS + 0.04
    for side in (-1, 1):
        if door.along_x:
            edge = r.x0 if side < 0 else r.x1
            builder.add(box((0.08, DOOR_HEIGHT, thick), (edge + side * 0.04, 0.0, cz)), frame, "plain")
        else:
            edge = r.z0 if side < 0 else r.z1
            builder.add(box((thick, DOOR_HEIGHT, 0.08), (cx, 0.0, edge + side * 0.04)), frame, "plain")
    span = (r.x1 - r.x0 + 0.16) if door.along_x else (r.z1 - r.z0 + 0.16)
    size = (span, 0.08, thick) if door.along_x else (thick, 0.08, span)
    builder.add(box(size, (cx, DOOR_HEIGHT, cz)), frame, "plain")


def _furnish(
    builder: _Builder,
    rng: np.random.Generator,
    index: int,
    room: Rect,
    doors: list[Door],
    landmarks: list[PlacedLandmark],
) -> list[Obstacle]:
    """Place four or five landmarks of distinct colours and shapes, apart from each other and from the doors."""
    wanted = int(rng.integers(4, 6))
    spots = _spots(rng, room, doors, wanted)
    taken = {(mark.colour, mark.shape) for mark in landmarks}
    colours, shapes = list(COLOURS), list(SHAPES)
    while True:
        chosen = [
            (colours[int(c)], shapes[int(s)])
            for c, s in zip(rng.permutation(len(colours)), rng.permutation(len(shapes)), strict=True)
        ][: len(spots)]
        if not taken.intersection(chosen):
            break
    placed = []
    for (x, z), (colour, shape) in zip(spots, chosen, strict=True):
        item = SHAPES[shape](COLOURS[colour])
        parts, half = turned(item, _facing(room, x, z), x, z)
        obstacle = Obstacle(x=x, z=z, half_size=half, round=item.round)
        builder.add_parts(parts, len(landmarks))
        landmarks.append(
            PlacedLandmark(
                name=f"{colour} {shape}", colour=colour, shape=shape, room=index, obstacle=obstacle, height=item.height
            )
        )
        placed.append(obstacle)
    return placed


def _spots(rng: np.random.Generator, room: Rect, doors: list[Door], wanted: int) -> list[tuple[float, float]]:
    """Centres for landmarks; the distance between them is the largest of a few that can be met, at least 2.6 m."""
    inset = 0.95
    low, high = (room.x0 + inset, room.z0 + inset), (room.x1 - inset, room.z1 - inset)
    openings = [door.floor.centre for door in doors]
    best: list[tuple[float, float]] = []
    for apart in (4.2, 4.0, 3.8, 3.6, 3.4, 3.2, 3.0, 2.8, 2.6):
        for _ in range(12):
            spots: list[tuple[float, float]] = []
            for x, z in rng.uniform(low, high, (60, 2)).tolist():
                if all((x - a) ** 2 + (z - b) ** 2 >= apart**2 for a, b in spots) and all(
                    (x - a) ** 2 + (z - b) ** 2 >= 1.7**2 for a, b in openings
                ):
                    spots.append((_snap(x), _snap(z)))
                    if len(spots) == wanted:
                        return spots
            best = max(best, spots, key=len)
        # Four landmarks well apart serve better than five that crowd each other.
        if apart <= 3.4 and len(best) >= 4:
            return best
    return best


def _facing(room: Rect, x: float, z: float) -> int:
    """Quarter turns after which an item at (x, z) turns its back to the nearest wall."""
    to_wall = (z - room.z0, x - room.x0, room.z1 - z, room.x1 - x)
    return int(np.argmin(to_wall))


def _clutter(
    builder: _Builder, rng: np.random.Generator, room: Rect, doors: list[Door], placed: list[Obstacle]
) -> list[Obstacle]:
    """Place up to four pieces of background furniture along the walls, clear of landmarks and doors."""
    clutter: list[Obstacle] = []
    for _ in range(int(rng.integers(2, 5)) * 2):
        item: Item = BACKGROUND[int(rng.integers(len(BACKGROUND)))](_brown_or_grey(rng))
        side, share = int(rng.integers(4)), rng.uniform(0.1, 0.9)
        gap = item.half_size[1]
        x, z = room.x0 + share * (room.x1 - room.x0), room.z0 + share * (room.z1 - room.z0)
        x, z = ((x, room.z0 + gap), (room.x0 + gap, z), (x, room.z1 - gap), (room.x1 - gap, z))[side]
        x, z = _snap(x), _snap(z)
        clear_of_items = all(np.hypot(x - o.x, z - o.z) >= 1.7 for o in (*placed, *clutter))
        clear_of_doors = all(np.hypot(x - d.floor.centre[0], z - d.floor.centre[1]) >= 1.5 for d in doors)
        in_corner = min(x - room.x0, room.x1 - x) < 0.7 and min(z - room.z0, room.z1 - z) < 0.7
        if not clear_of_items or not clear_of_doors or in_corner:
            continue
        parts, half = turned(item, side, x, z)
        builder.add_parts(parts)
        clutter.append(Obstacle(x=x, z=z, half_size=half, round=False))
        if len(clutter) == 4:
            break
    return clutter


def _decorate(builder: _Builder, rng: np.random.Generator, room: Rect, doors: list[Door]) -> None:
    """Add a rug and muted pictures on the walls; none of them stands in the way."""
    if rng.uniform() < 0.6:
        width, depth = rng.uniform(1.6, 2.6, 2)
        x = rng.uniform(room.x0 + width / 2 + 0.5, room.x1 - width / 2 - 0.5)
        z = rng.uniform(room.z0 + depth / 2 + 0.5, room.z1 - depth / 2 - 0.5)
        builder.add(box((width, 0.01, depth), (x, 0.0, z)), _muted(rng, 0.35, 0.7, 0.3), "carpet")
    for _ in range(int(rng.integers(1, 5))):
        side, share = int(rng.integers(4)), rng.uniform(0.12, 0.88)
        width, height = rng.uniform(0.4, 1.0), rng.uniform(0.4, 0.7)
        x, z = room.x0 + share * (room.x1 - room.x0), room.z0 + share * (room.z1 - room.z0)
        x, z = ((x, room.z0), (room.x0, z), (x, room.z1), (room.x1, z))[side]
        rgb = _muted(rng, 0.25, 0.7, 0.3)
        if any(np.hypot(x - d.floor.centre[0], z - d.floor.centre[1]) < 1.5 for d in doors):
            continue
        size = (width, height, 0.04) if side % 2 == 0 else (0.04, height, width)
        builder.add(box(size, (x, 1.35, z)), rgb, "panels")
