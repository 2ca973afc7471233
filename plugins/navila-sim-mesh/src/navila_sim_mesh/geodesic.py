"""Shortest walkable paths, any-angle: a visibility graph over the corners of what the agent must walk round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from navila_sim_mesh.navigation import CELL, FloorGrid

Point = tuple[float, float]
#: Pairs of corners tested for sight together; bounds the memory of large scans.
_PAIRS_AT_A_TIME = 1_000_000


@dataclass(frozen=True, kw_only=True)
class DistanceField:
    """Distances to the nearest of some goals; made by `VisibilityGraph.field`."""

    goals: NDArray[np.float64]
    """(G, 2) as (x, z) metres."""
    corner_distance: NDArray[np.float64]
    """(C,) metres from each corner to the nearest goal, inf when there is no way."""
    next_node: NDArray[np.int64]
    """(C,) where the path from a corner goes on: corner c as c, goal g as C + g; -1 when there is no way."""


class VisibilityGraph:
    """Corners of the walkable area, joined where one can walk straight and the path stays taut.

    A shortest path among obstacles is a chain of straight lines that bends only at such corners, so lengths are exact
    up to the width of a grid cell at each bend (grids with eight neighbours overestimate by 3 % on average).
    """

    def __init__(self, floor: FloorGrid) -> None:
        self.floor = floor
        self.regions = _regions(floor.walkable)
        rows, columns, self._blocked = _corners(floor.walkable)
        self._region = self.regions[rows, columns]
        self.corners: NDArray[np.float64] = np.stack(
            [floor.origin[0] + columns * CELL, floor.origin[1] + rows * CELL], axis=1, dtype=np.float64
        )
        self._graph = self._join()

    def region_of(self, point: Point) -> int:
        """Number of the connected area that holds (x, z); 0 off the walkable floor."""
        row, column = self.floor.cell(*point)
        return int(self.regions[row, column]) if self.floor.inside(row, column) else 0

    def field(self, goals: Sequence[Point]) -> DistanceField:
        """Distances from everywhere to the nearest of `goals`, which must be walkable."""
        targets = np.asarray(goals, np.float64).reshape(-1, 2)
        count, total = len(self.corners), len(self.corners) + len(targets)
        g, c = np.meshgrid(np.arange(len(targets)), np.arange(count), indexing="ij")
        g, c = g.ravel(), c.ravel()
        keep = self._taut(c, targets[g] - self.corners[c])
        keep &= self._region[c] == np.array([self.region_of((x, z)) for x, z in targets])[g]
        g, c = g[keep], c[keep]
        seen = self.floor.sees(targets[g], self.corners[c])
        g, c = g[seen], c[seen]
        length = np.hypot(*(targets[g] - self.corners[c]).T)
        # One source node, whose links to the goals cost (almost) nothing: csgraph drops links of exactly no length.
        graph = sparse.csr_array(
            (
                np.concatenate([self._graph.data, length, np.full(len(targets), 1e-12)]),
                (
                    np.concatenate([self._graph.row, count + g, np.full(len(targets), total)]),
                    np.concatenate([self._graph.col, c, count + np.arange(len(targets))]),
                ),
            ),
            shape=(total + 1, total + 1),
        )
        distance, before = csgraph.dijkstra(graph, directed=True, indices=total, return_predecessors=True)
        return DistanceField(
            goals=targets,
            corner_distance=distance[:count],
            next_node=np.where(before[:count] < 0, -1, before[:count]).astype(np.int64),
        )

    def distance(self, field: DistanceField, point: Point) -> float:
        """Metres from `point` to the nearest goal of `field`; inf when there is no way."""
        return self._first_leg(field, point)[0]

    def path(self, field: DistanceField, point: Point) -> list[Point]:
        """Way points from `point` to the nearest goal of `field`, both included; empty when there is no way."""
        distance, node = self._first_leg(field, point)
        if not np.isfinite(distance):
            return []
        path = [point]
        count = len(self.corners)
        while node < count:
            path.append((float(self.corners[node, 0]), float(self.corners[node, 1])))
            node = int(field.next_node[node])
        goal = field.goals[node - count]
        return [*path, (float(goal[0]), float(goal[1]))]

    def _first_leg(self, field: DistanceField, point: Point) -> tuple[float, int]:
        """Distance to the nearest goal and the node one walks to first (numbered as in `next_node`)."""
        region = self.region_of(point)
        if not region:
            return np.inf, -1
        here = np.asarray(point, np.float64)
        offset = self.corners - here
        bound = np.concatenate(
            [field.corner_distance + np.hypot(offset[:, 0], offset[:, 1]), np.hypot(*(field.goals - here).T)]
        )
        nodes = np.concatenate([self.corners, field.goals])
        # The first candidate in sight, in order of total length, is the best: all others are at least as long.
        order = np.argsort(bound, kind="stable")
        order = order[np.isfinite(bound[order])]
        at, size = 0, 8
        while at < len(order):
            block = order[at : at + size]
            seen = self.floor.sees(np.broadcast_to(here, (len(block), 2)), nodes[block])
            if seen.any():
                node = int(block[int(seen.argmax())])
                return float(bound[node]), node
            at, size = at + size, size * 4
        return np.inf, -1

    def _join(self) -> sparse.coo_array:
        """Links between corners in sight of each other, in both directions, weighted with their length."""
        size = len(self.corners)
        links: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        rows = max(1, _PAIRS_AT_A_TIME // max(size, 1))
        for at in range(0, size, rows):
            a, b = np.meshgrid(np.arange(at, min(at + rows, size)), np.arange(at + 1, size), indexing="ij")
            later = (b > a) & (self._region[a] == self._region[b])
            a, b = a[later], b[later]
            offset = self.corners[b] - self.corners[a]
            taut = self._taut(a, offset) & self._taut(b, offset)
            a, b = a[taut], b[taut]
            seen = self.floor.sees(self.corners[a], self.corners[b])
            links.append((a[seen], b[seen]))
        a = np.concatenate([link[0] for link in links]) if links else np.zeros(0, np.int64)
        b = np.concatenate([link[1] for link in links]) if links else np.zeros(0, np.int64)
        length = np.hypot(*(self.corners[b] - self.corners[a]).T)
        return sparse.coo_array(
            (np.concatenate([length, length]), (np.concatenate([a, b]), np.concatenate([b, a]))), shape=(size, size)
        )

    def _taut(self, corner: NDArray[np.int64], offset: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether a line through the corner with this (x, z) direction can bend round what blocks there."""
        slack = 0.6 * CELL
        falling = offset[:, 0] * offset[:, 1] < 0
        axis = (np.abs(offset[:, 0]) < slack) | (np.abs(offset[:, 1]) < slack)
        # Bits: 1 and 2 when the blocked diagonals are (+, +) or (-, -), which lines with a falling direction pass.
        passes_falling = (self._blocked[corner] & 1).astype(bool)
        passes_rising = (self._blocked[corner] & 2).astype(bool)
        return axis | (falling & passes_falling) | (~falling & passes_rising)


def _regions(walkable: NDArray[np.bool_]) -> NDArray[np.int32]:
    regions = np.zeros(walkable.shape, np.int32)
    ndimage.label(walkable, output=regions)
    return regions


def _corners(walkable: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Rows and columns of walkable cells at which a path can bend, and which diagonals are blocked there."""
    core = walkable[1:-1, 1:-1]
    bits = np.zeros(core.shape, np.uint8)
    rows, columns = walkable.shape
    for dr in (-1, 1):
        for dc in (-1, 1):
            diagonal = walkable[1 + dr : rows - 1 + dr, 1 + dc : columns - 1 + dc]
            beside = walkable[1 + dr : rows - 1 + dr, 1:-1] & walkable[1:-1, 1 + dc : columns - 1 + dc]
            bits |= ((core & beside & ~diagonal) * (1 if dr == dc else 2)).astype(np.uint8)
    row, column = np.nonzero(bits)
    return row + 1, column + 1, bits[row, column]
