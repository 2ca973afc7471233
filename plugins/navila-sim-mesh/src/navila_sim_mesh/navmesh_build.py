"""Make a navigation mesh of any scene: the cells one can stand on, gathered into rectangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from navila.simulation import Embodiment
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from navila_sim_mesh.navigation import CELL
from navila_sim_mesh.navmesh import NavMesh, Portals
from navila_sim_mesh.renderer import Renderer
from navila_sim_mesh.walkable import STEP_HEIGHT, Cells, find_cells

#: Longest side of a rectangle, cells; larger ones would make paths through them needlessly rough to search.
SIDE = 16
#: How far the floor may be off the plane of a rectangle, metres.
_UNEVEN = 0.025


@dataclass(frozen=True, kw_only=True)
class _Rectangles:
    """R rectangles of cells; each cell belongs to one."""

    of_cell: NDArray[np.int64]
    """(S,) the rectangle of each cell."""
    corners: NDArray[np.int64]
    """(R, 4) the cell at the least row and column, then round by the greatest column, both, and the greatest row."""


def build_navmesh(name: str, triangles: NDArray[np.float32], renderer: Renderer, body: Embodiment) -> NavMesh:
    """The navigation mesh of a scene for one body; `renderer` draws the same triangles (F, 3, 3).

    Raises:
        SceneError: the scene is too large for its voxels, or nowhere walkable.
    """
    return navmesh_of(find_cells(name, triangles, renderer, body))


def navmesh_of(cells: Cells) -> NavMesh:
    """Join cells to rectangles and those to a mesh."""
    rectangles = _gather(cells)
    count = len(rectangles.corners)
    row, column = cells.row[rectangles.corners], cells.column[rectangles.corners]
    corners = np.empty((count, 4, 3))
    corners[:, :, 0] = cells.origin[0] + CELL * (column + np.array([-0.5, 0.5, 0.5, -0.5]))
    corners[:, :, 1] = cells.height[rectangles.corners]
    corners[:, :, 2] = cells.origin[1] + CELL * (row + np.array([-0.5, -0.5, 0.5, 0.5]))
    return NavMesh(
        corners=corners.reshape(-1, 3),
        first=4 * np.arange(count + 1),
        triangles=corners[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 3),
        first_triangle=2 * np.arange(count + 1),
        portals=_portals(cells, rectangles.of_cell),
        climb=STEP_HEIGHT,
        one_way=np.zeros(count, np.bool_),
    )


def _gather(cells: Cells) -> _Rectangles:
    """Squares of 16, 8, 4, 2 and 1 cells at multiples of their side, then rows and columns of equal ones."""
    count = len(cells.row)
    none = np.array([count])
    right, down = np.append(cells.right, none), np.append(cells.down, none)
    height = np.append(cells.height, np.nan)
    whole = np.append(np.ones(count, np.bool_), False)
    # Cells at the corners of the square that starts at each cell, in the order of `_Rectangles.corners`.
    corners = [np.arange(count + 1)] * 4
    sizes = [(1, whole, corners, right, down)]
    while sizes[-1][0] < SIDE:
        size, whole, corners, right, down = sizes[-1]
        across = right[down]
        whole = whole & whole[right] & whole[down] & whole[across] & (across == down[right])
        wider = [corners[0], corners[1][right], corners[2][across], corners[3][down]]
        a, b, c, d = (height[corner] for corner in wider)
        for seen, meant in (
            (height[corners[1]] + height[corners[0][right]], a + b),
            (height[corners[3]] + height[corners[0][down]], a + d),
            (height[corners[2][right]] + height[corners[1][across]], b + c),
            (height[corners[2][down]] + height[corners[3][across]], d + c),
            (height[corners[2]] + height[corners[0][across]], (a + b + c + d) / 2),
        ):
            whole = whole & (np.abs(seen - meant) <= 2 * _UNEVEN)
        sizes.append((2 * size, whole, wider, right[right], down[down]))
    of_cell = np.full(count, -1)
    found: list[NDArray[np.int64]] = []
    total = 0
    for size, whole, corners, _, _ in reversed(sizes):
        first = (cells.row % size == 0) & (cells.column % size == 0) & whole[:-1] & (of_cell < 0)
        start = np.flatnonzero(first)
        inside = start[:, None]
        for step in range(size.bit_length() - 1):
            onward, below = sizes[step][3], sizes[step][4]
            inside = np.concatenate([inside, onward[inside]], axis=1)
            inside = np.concatenate([inside, below[inside]], axis=1)
        of_cell[inside] = total + np.arange(len(start))[:, None]
        found.append(np.stack([corner[start] for corner in corners], axis=1))
        total += len(start)
    rectangles = _Rectangles(of_cell=of_cell, corners=np.concatenate(found))
    return _merged(cells, _merged(cells, rectangles, along_row=True), along_row=False)


def _merged(cells: Cells, rectangles: _Rectangles, *, along_row: bool) -> _Rectangles:
    """Join rectangles of one breadth that follow each other, up to `SIDE` cells long."""
    corners, count = rectangles.corners, len(cells.row)
    onward = np.append(cells.right if along_row else cells.down, count)
    at = (cells.column if along_row else cells.row)[corners[:, 0]]
    # The corners of the side one leaves by, and of the side the next one is entered by.
    out, into = ((1, 2), (0, 3)) if along_row else ((3, 2), (0, 1))
    beyond = onward[corners[:, out[0]]]
    there = np.flatnonzero((beyond < count) & (onward[corners[:, out[1]]] < count))
    following = rectangles.of_cell[beyond[there]]
    fits = (corners[following, into[0]] == beyond[there]) & (
        corners[following, into[1]] == onward[corners[there, out[1]]]
    )
    fits &= at[following] % SIDE != 0
    for a, b in zip(out, into, strict=True):
        level = np.abs(cells.height[corners[there, a]] - cells.height[corners[following, b]]) <= _UNEVEN
        fits &= level
    a, b = there[fits], following[fits]
    size = len(corners)
    graph = sparse.coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(size, size))
    groups, label = csgraph.connected_components(graph, directed=False)
    label = np.asarray(label, np.int64)
    last = np.ones(size, np.bool_)
    last[a] = False
    head = np.ones(size, np.bool_)
    head[b] = False
    merged = np.empty((groups, 4), np.int64)
    for corner in out:
        merged[label[last], corner] = corners[last, corner]
    for corner in into:
        merged[label[head], corner] = corners[head, corner]
    return _Rectangles(of_cell=label[rectangles.of_cell], corners=merged)


def _portals(cells: Cells, of_cell: NDArray[np.int64]) -> Portals:
    """Where one can step from a rectangle to another."""
    count = len(of_cell)
    parts = []
    for onward, along_row in ((cells.right, True), (cells.down, False)):
        here = np.flatnonzero(onward < count)
        there = onward[here]
        differ = of_cell[here] != of_cell[there]
        here, there = here[differ], there[differ]
        at = (cells.row if along_row else cells.column)[here]
        order = np.lexsort((at, of_cell[there], of_cell[here]))
        here, there, at = here[order], there[order], at[order]
        a, b = of_cell[here], of_cell[there]
        new = np.ones(len(a), np.bool_)
        new[1:] = (np.diff(a) != 0) | (np.diff(b) != 0) | (np.diff(at) != 1)
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(a))[: len(first)] - 1
        ends = np.empty((len(first), 2, 3))
        for end, (cell, shift) in enumerate(((first, -0.5), (last, 0.5))):
            x, z = (0.5, shift) if along_row else (shift, 0.5)
            ends[:, end, 0] = cells.origin[0] + CELL * (cells.column[here[cell]] + x)
            ends[:, end, 1] = (cells.height[here[cell]] + cells.height[there[cell]]) / 2
            ends[:, end, 2] = cells.origin[1] + CELL * (cells.row[here[cell]] + z)
        polygons = np.stack([a[first], b[first]], axis=1)
        parts.append((polygons, np.tile([[1, 3] if along_row else [2, 0]], (len(first), 1)), ends))
    polygons, edges, ends = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Portals(polygons=polygons.astype(np.int32), edges=edges.astype(np.int32), ends=ends)
