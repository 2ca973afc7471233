"""Where an agent can stand, and how it moves: a floor grid with the distance to the nearest obstacle."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from navila.simulation import Position
from numpy.typing import NDArray
from scipy import ndimage

from navila_sim_mesh.houses import House

#: Side of a grid cell in metres.
CELL = 0.05
#: Motion is resolved in pieces no longer than this, metres.
SUBSTEP = 0.025


@dataclass(frozen=True, kw_only=True)
class FloorGrid:
    """One floor, seen from above; rows run along +z, columns along +x."""

    origin: tuple[float, float]
    """World (x, z) of the centre of cell (0, 0), metres."""
    height: NDArray[np.float32]
    """(rows, columns) floor height in metres where `free`."""
    free: NDArray[np.bool_]
    """(rows, columns), floor with nothing on it."""
    clearance: NDArray[np.float32]
    """(rows, columns) metres from the cell centre to the nearest edge of what is not free; 0 in there."""
    walkable: NDArray[np.bool_]
    """(rows, columns), where the centre of the agent may be."""
    radius: float
    """Radius of the agent, metres."""

    @classmethod
    def build(
        cls, *, origin: tuple[float, float], free: NDArray[np.bool_], height: NDArray[np.float32], radius: float
    ) -> FloorGrid:
        """Make a grid from free cells; the rim of the array must not be free."""
        clearance = np.asarray(ndimage.distance_transform_edt(free)) * CELL - CELL / 2
        clearance = np.maximum(clearance, 0.0).astype(np.float32)
        # Half a millimetre forgives the rounding of float32.
        walkable = free & (clearance >= radius - 5e-4)
        return cls(
            origin=origin,
            height=height,
            free=free,
            clearance=clearance,
            walkable=walkable,
            radius=radius,
        )

    def cell(self, x: float, z: float) -> tuple[int, int]:
        """Row and column of the cell that holds (x, z); may lie outside the array."""
        return round((z - self.origin[1]) / CELL), round((x - self.origin[0]) / CELL)

    def inside(self, row: int, column: int) -> bool:
        return 0 <= row < self.free.shape[0] and 0 <= column < self.free.shape[1]

    def is_walkable(self, x: float, z: float) -> bool:
        row, column = self.cell(x, z)
        return self.inside(row, column) and bool(self.walkable[row, column])

    def nearest_walkable(self, x: float, z: float, limit: float) -> tuple[float, float] | None:
        """(x, z) itself when walkable, else the centre of the nearest walkable cell within `limit` metres."""
        if self.is_walkable(x, z):
            return x, z
        row, column = self.cell(x, z)
        reach = math.ceil(limit / CELL)
        top, left = max(0, row - reach), max(0, column - reach)
        rows, columns = np.nonzero(self.walkable[top : max(0, row + reach + 1), left : max(0, column + reach + 1)])
        if not len(rows):
            return None
        xs = self.origin[0] + CELL * (columns + left)
        zs = self.origin[1] + CELL * (rows + top)
        apart = np.hypot(xs - x, zs - z)
        best = int(apart.argmin())
        return (float(xs[best]), float(zs[best])) if apart[best] <= limit else None

    def floor_height(self, x: float, z: float) -> float:
        row, column = self.cell(x, z)
        return float(self.height[row, column])

    def clearance_at(self, x: float, z: float) -> tuple[float, float, float]:
        """Distance to the nearest obstacle at (x, z), interpolated, and its gradient (d/dx, d/dz)."""
        column, row = (x - self.origin[0]) / CELL, (z - self.origin[1]) / CELL
        c, r = math.floor(column), math.floor(row)
        if not (0 <= r < self.free.shape[0] - 1 and 0 <= c < self.free.shape[1] - 1):
            return 0.0, 0.0, 0.0
        s, t = column - c, row - r
        (a, b), (d, e) = self.clearance[r : r + 2, c : c + 2].tolist()
        value = (a * (1 - s) + b * s) * (1 - t) + (d * (1 - s) + e * s) * t
        return value, ((b - a) * (1 - t) + (e - d) * t) / CELL, ((d - a) * (1 - s) + (e - b) * s) / CELL

    def step(self, position: Position, dx: float, dz: float, *, sliding: bool) -> tuple[Position, bool]:
        """Where a move by (dx, dz) metres ends, and whether something stopped or deflected it."""
        x, z, collided = self.move(position[0], position[2], dx, dz, sliding=sliding)
        return (x, self.floor_height(x, z), z), collided

    def move(self, x: float, z: float, dx: float, dz: float, *, sliding: bool) -> tuple[float, float, bool]:
        """Move a disc from (x, z) by (dx, dz) metres; return where it ends and whether something was in the way."""
        length = math.hypot(dx, dz)
        if self.clearance_at(x, z)[0] >= self.radius + length + 2 * CELL:
            return x + dx, z + dz, False
        pieces = max(1, math.ceil(length / SUBSTEP))
        sx, sz = dx / pieces, dz / pieces
        collided = False
        for _ in range(pieces):
            nx, nz, touched = self._advance(x, z, sx, sz, sliding)
            collided = collided or touched
            if (nx, nz) == (x, z):
                break
            x, z = nx, nz
        return x, z, collided

    def _advance(self, x: float, z: float, dx: float, dz: float, sliding: bool) -> tuple[float, float, bool]:
        here = self.clearance_at(x, z)[0]
        # An agent may stand a hair too close, on the rim of the grid's rounding; it must not get closer.
        needed = min(self.radius, here)
        nx, nz = x + dx, z + dz
        if self.clearance_at(nx, nz)[0] >= needed:
            return nx, nz, False
        if not sliding:
            return x, z, True
        for _ in range(4):
            value, gx, gz = self.clearance_at(nx, nz)
            norm = math.hypot(gx, gz)
            if value >= needed or norm < 1e-6:
                break
            push = needed - value + 1e-4
            nx, nz = nx + gx / norm * push, nz + gz / norm * push
        forward = (nx - x) * dx + (nz - z) * dz
        moved = math.hypot(nx - x, nz - z)
        if self.clearance_at(nx, nz)[0] < needed - 1e-3 or forward <= 0.0 or moved > 2 * math.hypot(dx, dz):
            return x, z, True
        return nx, nz, True

    def sees(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the agent can walk straight from `start` (N, 2) to `end` (N, 2), points as (x, z) metres."""
        result = np.zeros(len(start), np.bool_)
        if not len(start):
            return result
        first = (start - self.origin) / CELL
        delta = (end - start) / CELL
        steps = np.ceil(np.abs(delta).max(axis=1)).astype(np.int64)
        order = np.argsort(steps, kind="stable")
        walkable, columns = self.walkable.reshape(-1), self.walkable.shape[1]
        # Blocks of similar length, so that little of each block is wasted on the short ones.
        at = 0
        while at < len(order):
            size = max(64, 400_000 // (int(steps[order[min(at + 64, len(order) - 1)]]) + 1))
            block = order[at : at + size]
            share = np.linspace(0.0, 1.0, int(steps[block[-1]]) + 1, dtype=np.float32)
            # Most lines are blocked, and a look at every eighth point finds most of those.
            for some in (share[::8], share) if len(share) > 16 else (share,):
                column = np.rint(first[block, 0, None] + delta[block, 0, None] * some).astype(np.int32)
                row = np.rint(first[block, 1, None] + delta[block, 1, None] * some).astype(np.int32)
                seen = walkable[row * columns + column].all(axis=1)
                result[block] = seen
                block = block[seen]
            at += size
        return result


def house_floor(house: House, radius: float) -> FloorGrid:
    """The floor of a procedural house, exact to the grid since the layout is snapped to it."""
    rects = [*house.rooms, *(door.floor for door in house.doors)]
    x0, z0 = min(r.x0 for r in rects) - 2 * CELL, min(r.z0 for r in rects) - 2 * CELL
    x1, z1 = max(r.x1 for r in rects) + 2 * CELL, max(r.z1 for r in rects) + 2 * CELL
    rows, columns = round((z1 - z0) / CELL), round((x1 - x0) / CELL)
    origin = (x0 + CELL / 2, z0 + CELL / 2)
    free = np.zeros((rows, columns), np.bool_)
    for rect in rects:
        free[_span(rect.z0, rect.z1, z0), _span(rect.x0, rect.x1, x0)] = True
    for obstacle in house.obstacles:
        hx, hz = obstacle.half_size
        zs, xs = _span(obstacle.z - hz, obstacle.z + hz, z0), _span(obstacle.x - hx, obstacle.x + hx, x0)
        if obstacle.round:
            z = origin[1] + CELL * np.arange(zs.start, zs.stop)[:, None] - obstacle.z
            x = origin[0] + CELL * np.arange(xs.start, xs.stop)[None, :] - obstacle.x
            free[zs, xs] &= x * x + z * z > hx * hx
        else:
            free[zs, xs] = False
    return FloorGrid.build(origin=origin, free=free, height=np.zeros((rows, columns), np.float32), radius=radius)


def _span(low: float, high: float, start: float) -> slice:
    return slice(max(0, round((low - start) / CELL)), max(0, round((high - start) / CELL)))


def polyline_length(points: Iterable[tuple[float, float, float]]) -> float:
    """Metres along a chain of points."""
    return sum(math.dist(a, b) for a, b in pairwise(points))
