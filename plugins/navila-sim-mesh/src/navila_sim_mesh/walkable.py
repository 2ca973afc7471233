"""Find the floors of any mesh: where up-facing surface has room for the agent above it.

The mesh is sampled into voxels, as Recast and habitat's navmesh do; each column of voxels then has zero or more
surfaces to stand on. Surfaces next to each other belong together when the step between them is small; what overlaps
from above is taken apart into separate floors. Floors are not linked with one another.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from navila.errors import SceneError
from navila.simulation import Embodiment
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from navila_sim_mesh.navigation import CELL, FloorGrid
from navila_sim_mesh.renderer import Renderer

#: Highest step the agent climbs, metres.
STEP_HEIGHT = 0.2
#: Steepest floor, as the vertical part of its unit normal (45 degrees).
MIN_NORMAL_Y = 0.707
#: Floors smaller than this are table tops and the like, square metres.
MIN_AREA = 2.0
#: Voxels a scene may have; 100 m x 100 m x 10 m have 800 million.
MAX_VOXELS = 1_000_000_000
#: Points sampled at a time.
_CHUNK = 2_000_000
_LEVELS_A_STEP = round(STEP_HEIGHT / CELL)


def find_floors(name: str, triangles: NDArray[np.float32], renderer: Renderer, body: Embodiment) -> list[FloorGrid]:
    """Floors of a scene, the largest first; `renderer` draws the same triangles (F, 3, 3).

    Raises:
        SceneError: the scene is too large for its voxels, or nowhere walkable.
    """
    low, high = triangles.min(axis=(0, 1)).astype(np.float64), triangles.max(axis=(0, 1)).astype(np.float64)
    # A rim of one cell keeps what lies beyond the mesh out of reach.
    shape = tuple(int(n) + 4 for n in np.ceil((high - low)[[1, 2, 0]] / CELL))
    if np.prod(np.array(shape, np.float64)) > MAX_VOXELS:
        size = " x ".join(f"{extent:.0f}" for extent in high - low)
        raise SceneError(f"The scene {name} measures {size} m, too much to walk in; scale its coordinates to metres.")
    start = low - 1.5 * CELL
    solid, standable = _voxels(triangles, start, shape)
    rows, columns, levels = _surfaces(solid, standable, round(body.agent_height / CELL))
    del solid, standable
    floors: list[tuple[float, FloorGrid]] = []
    for chosen in _sheets(rows, columns, levels, shape):
        if len(chosen) * CELL**2 < MIN_AREA:
            continue
        floor = _floor(rows[chosen], columns[chosen], levels[chosen], start, shape, renderer, body)
        area = float(floor.walkable.sum()) * CELL**2
        if area >= MIN_AREA:
            floors.append((area, floor))
    if not floors:
        raise SceneError(
            f"The scene {name} has no floor to walk on; check that its unit is the metre and its vertical axis y"
            " (or set up='z')."
        )
    return [floor for _, floor in sorted(floors, key=lambda item: -item[0])]


def _voxels(
    triangles: NDArray[np.float32], start: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which voxels (level, row, column) hold surface, and which hold surface flat enough to stand on."""
    solid = np.zeros(shape, np.bool_)
    standable = np.zeros(shape, np.bool_)
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area = np.linalg.norm(normal, axis=1)
    slope = normal[:, 1] / np.maximum(area, 1e-12)
    upward, downward = slope > MIN_NORMAL_Y, slope < -MIN_NORMAL_Y
    # Rooms show the eye as much floor as ceiling. Where hardly anything faces up, the winding of the file is no help.
    trusted = area[upward].sum() > 0.5 * area[downward].sum()
    flat = upward if trusted else upward | downward
    # Each triangle is sampled by rows from the corner opposite its shortest side.
    sides = np.linalg.norm(np.roll(triangles, -1, axis=1) - triangles, axis=2)
    apex = (sides.argmin(axis=1) + 2) % 3
    order = (apex[:, None] + np.arange(3)) % 3
    corners = np.take_along_axis(triangles, order[:, :, None], axis=1).astype(np.float64)
    spacing = 0.7 * CELL
    long = np.linalg.norm(corners[:, 1:] - corners[:, :1], axis=2).max(axis=1)
    short = np.linalg.norm(corners[:, 2] - corners[:, 1], axis=1)
    n_long = np.ceil(long / spacing).astype(np.int64) + 1
    n_short = np.ceil(short / spacing).astype(np.int64) + 1
    counts = n_long * n_short
    ends = np.cumsum(counts)
    first = 0
    while first < len(corners):
        last = int(np.searchsorted(ends, (ends[first - 1] if first else 0) + _CHUNK, side="right"))
        last = max(last, first + 1)
        # One triangle may be larger than a chunk by itself; its points are then split.
        for part, number in _points(corners[first:last], n_long[first:last], n_short[first:last]):
            index = np.floor((part - start) / CELL).astype(np.int64)
            level, row, column = index[:, 1], index[:, 2], index[:, 0]
            solid[level, row, column] = True
            lies = flat[first + number]
            standable[level[lies], row[lies], column[lies]] = True
        first = last
    return solid, standable


def _points(
    corners: NDArray[np.float64], n_long: NDArray[np.int64], n_short: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Yield sample points (N, 3) and the number (N,) of the triangle each belongs to."""
    counts = n_long * n_short
    total = int(counts.sum())
    starts = np.cumsum(counts) - counts
    for at in range(0, total, _CHUNK):
        flat = np.arange(at, min(at + _CHUNK, total))
        number = np.searchsorted(starts, flat, side="right") - 1
        place = flat - starts[number]
        along = (place // n_short[number]) / np.maximum(n_long[number] - 1, 1)
        across = (place % n_short[number]) / np.maximum(n_short[number] - 1, 1)
        a, b, c = corners[number, 0], corners[number, 1], corners[number, 2]
        yield a + along[:, None] * ((b - a) + across[:, None] * (c - b)), number


def _surfaces(
    solid: NDArray[np.bool_], standable: NDArray[np.bool_], clear_levels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, column and level of the voxels one can stand on, with `clear_levels` empty voxels above."""
    headroom = np.full(solid.shape[1:], clear_levels, np.int32)
    found = []
    for level in range(solid.shape[0] - 1, -1, -1):
        row, column = np.nonzero(standable[level] & (headroom >= clear_levels))
        if len(row):
            found.append((row, column, np.full(len(row), level)))
        headroom += 1
        headroom[solid[level]] = 0
    if not found:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    row, column, level = (np.concatenate(part) for part in zip(*found, strict=True))
    return row, column, level


def _sheets(
    rows: NDArray[np.int64], columns: NDArray[np.int64], levels: NDArray[np.int64], shape: tuple[int, ...]
) -> list[NDArray[np.int64]]:
    """Indices of surfaces, grouped so that a group is connected and holds at most one surface a column."""
    sheets = []
    rest = np.arange(len(rows))
    while len(rest):
        label = _connected(rows[rest], columns[rest], levels[rest], shape)
        column = (label.astype(np.int64) * shape[1] + rows[rest]) * shape[2] + columns[rest]
        # The lowest surface of each column of each component; what lies above it waits for the next round.
        order = np.lexsort((levels[rest], column))
        lowest = order[np.concatenate([[True], np.diff(column[order]) != 0])]
        for number in np.unique(label[lowest]):
            sheets.append(rest[lowest[label[lowest] == number]])
        rest = np.delete(rest, lowest)
    return sheets


def _connected(
    rows: NDArray[np.int64], columns: NDArray[np.int64], levels: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.int32]:
    """Number of the component each surface belongs to; neighbours join when the step between them is small."""
    count = len(rows)
    key = (rows * shape[2] + columns) * shape[0] + levels
    order = np.argsort(key)
    keys = key[order]
    links = []
    for dr, dc in ((0, 1), (1, 0)):
        for rise in range(-_LEVELS_A_STEP, _LEVELS_A_STEP + 1):
            wanted = ((rows + dr) * shape[2] + columns + dc) * shape[0] + levels + rise
            at = np.minimum(np.searchsorted(keys, wanted), count - 1)
            inside = (levels + rise >= 0) & (levels + rise < shape[0])
            hit = np.nonzero((keys[at] == wanted) & inside)[0]
            links.append((hit, order[at[hit]]))
    a = np.concatenate([link[0] for link in links])
    b = np.concatenate([link[1] for link in links])
    graph = sparse.coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(count, count))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1], np.int32)


def _floor(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    levels: NDArray[np.int64],
    start: NDArray[np.float64],
    shape: tuple[int, ...],
    renderer: Renderer,
    body: Embodiment,
) -> FloorGrid:
    """The grid of one floor, with heights measured by rays onto the mesh."""
    free = np.zeros(shape[1:], np.bool_)
    height = np.zeros(shape[1:], np.float32)
    free[rows, columns] = True
    origin = (float(start[0] + CELL / 2), float(start[2] + CELL / 2))
    rough = start[1] + (levels + 1) * CELL
    above = np.stack([origin[0] + columns * CELL, rough + STEP_HEIGHT, origin[1] + rows * CELL], axis=1)
    down = np.broadcast_to(np.array([0.0, -1.0, 0.0], np.float32), above.shape).copy()
    hit, far = renderer.cast(above.astype(np.float32), down)
    # Where a ray slips through a crack, the voxel tells the height to within its size.
    found = (hit >= 0) & (far < 2 * STEP_HEIGHT)
    height[rows, columns] = np.where(found, above[:, 1] - far, rough - CELL / 2)
    # Neighbours on one sheet may still be a cliff apart, where the ways between them lead round.
    level = np.full(shape[1:], -(10**6), np.int64)
    level[rows, columns] = levels
    for axis in (0, 1):
        a = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        b = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        cliff = (level[a] >= 0) & (level[b] >= 0) & (np.abs(level[a] - level[b]) > _LEVELS_A_STEP)
        free[a] &= ~cliff
        free[b] &= ~cliff
    return FloorGrid.build(origin=origin, free=free, height=height, radius=body.agent_radius)
