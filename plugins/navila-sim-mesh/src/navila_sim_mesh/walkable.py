"""Find where one can stand in any mesh: up-facing surface with room for the agent above it.

The mesh is sampled into voxels, as Recast and habitat's navmesh do; each column of voxels then has zero or more
surfaces to stand on. Surfaces next to each other join where the step between them is small, so that stairs lead from
one storey to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from navila.errors import SceneError
from navila.simulation import Embodiment
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from navila_sim_mesh.navigation import CELL
from navila_sim_mesh.renderer import Renderer

#: Highest step the agent climbs, metres.
STEP_HEIGHT = 0.2
#: Steepest floor, as the vertical part of its unit normal (45 degrees).
MIN_NORMAL_Y = 0.707
#: Connected floor smaller than this is a table top or the like, square metres.
MIN_AREA = 2.0
#: Voxels a scene may have; 100 m x 100 m x 10 m have 800 million.
MAX_VOXELS = 1_000_000_000
#: Points sampled at a time.
_CHUNK = 2_000_000
_LEVELS_A_STEP = round(STEP_HEIGHT / CELL)
#: Directions of neighbouring cells, (rows, columns); the opposite of one is two further.
_WAYS = ((0, 1), (1, 0), (0, -1), (-1, 0))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The S places where the centre of the agent may be, sorted by row, then column, then height."""

    origin: tuple[float, float]
    """World (x, z) of the centre of row 0, column 0, metres; rows run along +z, columns along +x."""
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    height: NDArray[np.float64]
    """(S,) metres."""
    right: NDArray[np.int64]
    """(S,) the cell one column on that one can step to, S where there is none."""
    down: NDArray[np.int64]
    """(S,) the same one row on."""


def find_cells(name: str, triangles: NDArray[np.float32], renderer: Renderer, body: Embodiment) -> Cells:
    """Where an agent can be in a scene; `renderer` draws the same triangles (F, 3, 3).

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
    row, column, level = _surfaces(*_voxels(triangles, start, shape), round(body.agent_height / CELL))
    order = np.argsort((row * shape[2] + column) * shape[0] + level)
    row, column, level = row[order], column[order], level[order]
    right, down = (_neighbours(row, column, level, way, shape) for way in _WAYS[:2])
    apart = _border_distance(right, down, round(body.agent_radius / CELL) + 2)
    # Half a millimetre forgives the rounding of cells.
    keep = apart * CELL - CELL / 2 >= body.agent_radius - 5e-4
    keep &= _large(keep, right, down)
    if not keep.any():
        raise SceneError(
            f"The scene {name} has no floor to walk on; check that its unit is the metre and its vertical axis is"
            " found right (up='y' or up='z' say which it is)."
        )
    renumbered = np.append(np.where(keep, np.cumsum(keep) - 1, keep.sum()), keep.sum())
    origin = (float(start[0] + CELL / 2), float(start[2] + CELL / 2))
    row, column, level = row[keep], column[keep], level[keep]
    return Cells(
        origin=origin,
        row=row,
        column=column,
        height=_heights(origin, row, column, start[1] + (level + 1) * CELL, renderer),
        right=renumbered[right[keep]],
        down=renumbered[down[keep]],
    )


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
    for index, number in _sampled(triangles, start, shape):
        solid.reshape(-1)[index] = True
        standable.reshape(-1)[index[flat[number]]] = True
    # Where a step leads onto it from below, surface of any slope will do: a scan's floor is rough, and not swept.
    rise = np.full(shape[1:], shape[0], np.int16)
    for full, level in zip(solid, standable, strict=True):
        rise += 1
        rise[level] = 0
        level |= full & (rise <= _LEVELS_A_STEP)
    return solid, standable


def _sampled(
    triangles: NDArray[np.float32], start: NDArray[np.float64], shape: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Yield voxels (N,), as indices into all of them, and the triangle (N,) that each holds a point of.

    Points are three quarters of a voxel apart: along the longer sides from a corner to the one opposite, in rows that
    are parallel to the shortest side.
    """
    first = 0
    while first < len(triangles):
        part = (triangles[first : first + _CHUNK // 8] - start.astype(np.float32)) / np.float32(CELL)
        sides = np.linalg.norm(np.roll(part, -1, axis=1) - part, axis=2)
        apex = (sides.argmin(axis=1) + 2) % 3
        a, b, c = (part[np.arange(len(part)), (apex + k) % 3] for k in range(3))
        steps = np.ceil(np.maximum(sides.max(axis=1), 1e-3) / 0.75).astype(np.int64)
        across = np.linalg.norm(c - b, axis=1) / steps
        # Rows 0 to `steps` of each triangle, and points 0 to `points` of each row.
        number = np.repeat(np.arange(len(part)), steps + 1)
        row = np.arange(len(number)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
        points = np.ceil(row * across[number] / 0.75).astype(np.int64)
        share = (row / steps[number]).astype(np.float32)[:, None]
        left = a[number] + share * (b - a)[number]
        along = share * (c - b)[number] / np.maximum(points, 1).astype(np.float32)[:, None]
        ends = np.cumsum(points + 1)
        at = 0
        while at < len(number):
            # A row alone may be more than a chunk, but not by much: a scene has only so many voxels along it.
            last = max(at + 1, int(np.searchsorted(ends, (ends[at - 1] if at else 0) + _CHUNK, side="right")))
            counts = points[at:last] + 1
            place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            where = np.repeat(along[at:last], counts, axis=0)
            where *= place.astype(np.float32)[:, None]
            where += np.repeat(left[at:last], counts, axis=0)
            cell = where.astype(np.int32)
            index = (cell[:, 1] * np.int32(shape[1]) + cell[:, 2]) * np.int32(shape[2]) + cell[:, 0]
            yield index, first + np.repeat(number[at:last], counts)
            at = last
        first += len(part)


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


def _neighbours(
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    level: NDArray[np.int64],
    way: tuple[int, int],
    shape: tuple[int, ...],
) -> NDArray[np.int64]:
    """The surface (N,) one can step to in a direction, N where there is none."""
    keys = (row * shape[2] + column) * shape[0] + level
    beside = ((row + way[0]) * shape[2] + column + way[1]) * shape[0]
    # With headroom for an agent between them, there is hardly ever a second one within a step.
    at = np.searchsorted(keys, beside + np.maximum(level - _LEVELS_A_STEP, 0))
    found = np.append(keys, -1)[np.minimum(at, len(keys))]
    highest = beside + np.minimum(level + _LEVELS_A_STEP, shape[0] - 1)
    return np.where((found >= beside) & (found <= highest), at, len(keys))


def _border_distance(right: NDArray[np.int64], down: NDArray[np.int64], reach: int) -> NDArray[np.float64]:
    """Cells (N,) from each surface to the nearest cell that is no floor, exact up to about `reach`."""
    count = len(right)
    ways = []
    for onward in (right, down):
        back = np.full(count + 1, count)
        back[onward] = np.arange(count)
        ways += [onward, back[:count]]
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    # The vector to the nearest cell that is no floor spreads from neighbour to neighbour.
    vector = np.zeros((count + 1, 2), np.int32)
    square = np.full(count + 1, 10**6)
    for onward, step in zip(ways, steps, strict=True):
        lacking = np.flatnonzero(onward == count)
        vector[lacking], square[lacking] = step, 1
    front = np.flatnonzero(square[:count] == 1)
    opposite = (1, 0, 3, 2)
    for _ in range(reach):
        reached = []
        for way, step in enumerate(steps):
            cell = ways[opposite[way]][front]
            offered = vector[front] + np.array(step, np.int32)
            far = (offered**2).sum(axis=1)
            better = (cell < count) & (far < square[cell])
            cell = cell[better]
            vector[cell], square[cell] = offered[better], far[better]
            reached.append(cell)
        front = np.unique(np.concatenate(reached))
    return np.sqrt(square[:count].astype(np.float64))


def _large(keep: NDArray[np.bool_], right: NDArray[np.int64], down: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the surfaces kept belong to a connected floor of at least `MIN_AREA`."""
    count = len(keep)
    links = [
        (np.arange(count)[ok], onward[ok]) for onward in (right, down) for ok in [keep & np.append(keep, False)[onward]]
    ]
    a, b = (np.concatenate(part) for part in zip(*links, strict=True))
    graph = sparse.coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(count, count))
    label = csgraph.connected_components(graph, directed=False)[1]
    return np.bincount(label, keep)[label] * CELL**2 >= MIN_AREA


def _heights(
    origin: tuple[float, float],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    rough: NDArray[np.float64],
    renderer: Renderer,
) -> NDArray[np.float64]:
    """Heights (N,) of the mesh below points at most a voxel above it, in metres."""
    heights = rough - CELL / 2
    for at in range(0, len(row), _CHUNK):
        part = slice(at, at + _CHUNK)
        above = np.empty((len(row[part]), 3), np.float32)
        above[:, 0] = origin[0] + column[part] * CELL
        above[:, 1] = rough[part] + STEP_HEIGHT
        above[:, 2] = origin[1] + row[part] * CELL
        hit, far = renderer.cast(above, np.tile(np.array([[0.0, -1.0, 0.0]], np.float32), (len(above), 1)))
        # Where a ray slips through a crack, the voxel tells the height to within its size.
        found = (hit >= 0) & (far < 2 * STEP_HEIGHT)
        heights[part] = np.where(found, above[:, 1] - far, heights[part])
    return heights
