"""A navigation mesh: convex polygons to walk on, joined by portals; what stands where, and how one moves on it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from navila.simulation import Position
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

#: How far from a point the polygon it belongs to is looked for, metres aside and up or down, as habitat does.
REACH_ASIDE, REACH_UP = 2.0, 4.0
#: Least side of the squares polygons are filed under, metres, and most squares along a side of the mesh.
_SQUARE, _SQUARES = 0.5, 2000
#: What stopped at a wall is moved this far towards the middle of its polygon, metres: a wall may have no thickness.
_NUDGE = 1e-4
#: A move shorter than wanted by more than this is a collision, metres; habitat's value.
_COLLISION = 1e-5

Plan = tuple[float, float]
"""A point (x, z) seen from above, metres."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Portals:
    """Where one can cross from polygon to polygon; K of them, each good for both directions."""

    polygons: NDArray[np.int32]
    """(K, 2)."""
    edges: NDArray[np.int32]
    """(K, 2) the edge of each of the two polygons they lie on; edge i runs from corner i to the next."""
    ends: NDArray[np.float64]
    """(K, 2, 3) metres."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NavMesh:
    """P convex polygons with C corners in all and T triangles that tell their heights."""

    corners: NDArray[np.float64]
    """(C, 3) corners of all polygons, one after the other; seen from above, each turns from +x towards +z."""
    first: NDArray[np.int64]
    """(P + 1,), where the corners of each polygon start."""
    triangles: NDArray[np.float64]
    """(T, 3, 3)."""
    first_triangle: NDArray[np.int64]
    """(P + 1,), where the triangles of each polygon start."""
    portals: Portals
    climb: float
    """Highest step, metres."""
    one_way: NDArray[np.bool_]
    """(P,) off-mesh connections, of two corners, that lead only from the first to the second."""

    @property
    def count(self) -> int:
        return len(self.first) - 1

    @cached_property
    def islands(self) -> NDArray[np.int32]:
        """(P,) number of the connected part each polygon belongs to."""
        a, b = self.portals.polygons.T
        graph = sparse.coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(self.count, self.count))
        return np.asarray(csgraph.connected_components(graph, directed=False)[1], np.int32)

    def polygon(self, number: int) -> Polygon:
        """What lies round one polygon, as plain numbers."""
        if number not in self._polygons:
            self._polygons[number] = self._polygon(number)
        return self._polygons[number]

    def nearest(
        self, position: Position, aside: float = REACH_ASIDE, up: float = REACH_UP
    ) -> tuple[int, Position] | None:
        """The polygon nearest to `position` and the point of it, None when all are farther than that.

        A polygon above or below the point by no more than a step is at no distance, as in Detour.
        """
        x, y, z = position
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            return None
        over: list[tuple[float, int, float]] = []
        for number in self._filed(x, z, 0.0):
            if self.polygon(number).holds(x, z):
                height = self.height(number, x, z)
                over.append((abs(height - y), number, height))
        if over and min(over)[0] <= self.climb:
            _, number, height = min(over)
            return number, (x, height, z)
        best: tuple[float, int, Position] | None = None
        for number in self._filed(x, z, aside):
            px, pz = self.polygon(number).nearest(x, z)
            if max(abs(px - x), abs(pz - z)) > aside:
                continue
            height = self.height(number, px, pz)
            if (px, pz) == (x, z):
                apart = max(abs(height - y) - self.climb, 0.0)
            else:
                apart = math.dist((px, height, pz), position)
            if abs(height - y) <= up and (best is None or apart < best[0]):
                best = apart, number, (px, height, pz)
        return (best[1], best[2]) if best else None

    def height(self, number: int, x: float, z: float) -> float:
        """Height in metres of a polygon at (x, z), by its triangles; at a point off them, that of the nearest edge."""
        best = -math.inf, 0.0
        for (ax, ay, az), (bx, by, bz), (cx, cy, cz) in self.polygon(number).triangles:
            area = (bx - ax) * (cz - az) - (bz - az) * (cx - ax)
            if abs(area) < 1e-12:
                continue
            v = ((x - ax) * (cz - az) - (z - az) * (cx - ax)) / area
            w = ((bx - ax) * (z - az) - (bz - az) * (x - ax)) / area
            inside = min(v, w, 1.0 - v - w)
            if inside > best[0]:
                u, v, w = max(1.0 - v - w, 0.0), max(v, 0.0), max(w, 0.0)
                best = inside, (u * ay + v * by + w * cy) / (u + v + w)
            if inside >= 0.0:
                break
        if best[0] == -math.inf:
            corners = self.corners[self.first[number] : self.first[number + 1]]
            return float(corners[np.hypot(corners[:, 0] - x, corners[:, 2] - z).argmin(), 1])
        return best[1]

    def step(self, position: Position, dx: float, dz: float, *, sliding: bool) -> tuple[Position, bool]:
        """Move by (dx, dz) metres over the surface; where one ends, and whether a wall stopped or deflected one.

        With `sliding` that is the reachable point nearest to the wanted one, as Detour's moveAlongSurface gives it.
        Where what is nearest to the wanted point is another island, one does not move at all, as in habitat.
        """
        start = self.nearest(position)
        if start is None:
            return position, True
        number, (x, _, z) = start
        target = x + dx, z + dz
        if sliding:
            number, end = self._slide(number, (x, z), target)
        else:
            number, end = self._walk(number, (x, z), target)
        if end != target:
            wanted = self.nearest((target[0], position[1], target[1]))
            if wanted is None or self.islands[wanted[0]] != self.islands[number]:
                return position, True
            middle = self.polygon(number).middle
            away = math.dist(middle, end)
            share = min(1.0, _NUDGE / away) if away else 0.0
            end = end[0] + share * (middle[0] - end[0]), end[1] + share * (middle[1] - end[1])
        reached = end[0], self.height(number, *end), end[1]
        return reached, math.dist(reached, start[1]) + _COLLISION + 2 * _NUDGE < math.hypot(dx, dz)

    def in_line(self, start: Position, goal: Position) -> bool:
        """Whether the straight line from one point of the mesh to another leads over it all the way."""
        at = self.nearest(start)
        if at is None or (start[0], start[2]) == (goal[0], goal[2]):
            return False
        number, end = self._walk(at[0], (start[0], start[2]), (goal[0], goal[2]))
        return end == (goal[0], goal[2]) and abs(self.height(number, *end) - goal[1]) <= self.climb

    def _walk(self, number: int, start: Plan, target: Plan) -> tuple[int, Plan]:
        """Go straight on from `start` in a polygon: the polygon and the point one comes to."""
        (x, z), (dx, dz) = start, (target[0] - start[0], target[1] - start[1])
        length = math.hypot(dx, dz)
        seen = {number}
        while not self.polygon(number).holds(*target):
            here = self.polygon(number)
            share = here.leaves(x, z, dx, dz)
            edge = x + share * dx, z + share * dz
            ahead = min(1.0, share + 1e-6 / length)
            beyond = x + ahead * dx, z + ahead * dz
            for portal in here.portals:
                if portal.to not in seen and portal.distance(*edge) < 1e-5 and self.polygon(portal.to).holds(*beyond):
                    number = portal.to
                    seen.add(number)
                    break
            else:
                return number, edge
        return number, target

    def _slide(self, number: int, start: Plan, target: Plan) -> tuple[int, Plan]:
        middle = (start[0] + target[0]) / 2, (start[1] + target[1]) / 2
        radius = math.dist(start, target) / 2 + 0.001
        best, at, point = math.inf, number, start
        queue, seen = deque([number]), {number}
        while queue:
            number = queue.popleft()
            here = self.polygon(number)
            if here.holds(*target):
                return number, target
            for x0, z0, x1, z1 in here.walls:
                px, pz = _closest(*target, x0, z0, x1, z1)
                apart = math.hypot(px - target[0], pz - target[1])
                if apart < best:
                    best, at, point = apart, number, (px, pz)
            for portal in here.portals:
                if portal.to not in seen and portal.distance(*middle) <= radius:
                    seen.add(portal.to)
                    queue.append(portal.to)
        return at, point

    def _filed(self, x: float, z: float, reach: float) -> list[int]:
        """Polygons to walk on whose bounds come within `reach` metres of (x, z) along each axis."""
        index = self._index
        side = index.side
        low = max(0, math.floor((x - reach - index.x0) / side)), max(0, math.floor((z - reach - index.z0) / side))
        high = math.floor((x + reach - index.x0) / side), math.floor((z + reach - index.z0) / side)
        high = min(index.columns - 1, high[0]), min(index.rows - 1, high[1])
        squares = [
            index.numbers[index.first[row * index.columns + low[0]] : index.first[row * index.columns + high[0] + 1]]
            for row in range(low[1], high[1] + 1)
            if low[0] <= high[0]
        ]
        numbers = np.unique(np.concatenate(squares)) if squares else np.zeros(0, np.int64)
        box = self._bounds[numbers]
        slack = reach + 1e-6
        near = (box[:, 0] <= x + slack) & (box[:, 2] >= x - slack) & (box[:, 1] <= z + slack) & (box[:, 3] >= z - slack)
        return numbers[near].tolist()

    @cached_property
    def _polygons(self) -> dict[int, Polygon]:
        return {}

    @cached_property
    def _bounds(self) -> NDArray[np.float64]:
        """(P, 4) least x and z, greatest x and z of each polygon."""
        plan = self.corners[:, [0, 2]]
        starts = self.first[:-1]
        return np.concatenate([np.minimum.reduceat(plan, starts), np.maximum.reduceat(plan, starts)], axis=1)

    @cached_property
    def _index(self) -> _Index:
        walkable = np.flatnonzero(np.diff(self.first) > 2)
        return _Index.of(self._bounds, walkable)

    @cached_property
    def walls(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Pieces of edges without portal (W, 2, 3), by polygon, and where those of each polygon start (P + 1,)."""
        starts, ends = self.corners, self.corners[self._next]
        edge = (self.first[:-1][self.portals.polygons] + self.portals.edges).reshape(-1)
        points = np.repeat(self.portals.ends, 2, axis=0).reshape(-1, 2, 3)
        side = (ends - starts)[edge][:, None, [0, 2]]
        share = ((points - starts[edge][:, None])[..., [0, 2]] * side).sum(axis=2)
        share = np.clip(share / np.maximum((side**2).sum(axis=2), 1e-18), 0.0, 1.0)
        order = np.lexsort((share.min(axis=1), edge))
        # Open pieces lie between the end of one portal and the start of the next; each edge starts and ends with one.
        owner = np.concatenate([np.arange(len(starts)), edge[order]])
        opened = np.concatenate([np.zeros(len(starts)), share.max(axis=1)[order]])
        sort = np.lexsort((opened, owner))
        owner, opened = owner[sort], opened[sort]
        closes = np.ones(len(owner))
        # Within an edge, piece i closes where portal i opens, and the last one at the far corner.
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        portals = np.bincount(edge, minlength=len(starts))
        has_next = rank < portals[owner]
        closes[has_next] = share.min(axis=1)[order]
        solid = closes - opened > 1e-6
        owner, opened, closes = owner[solid], opened[solid], closes[solid]
        walls = np.stack(
            [starts[owner] + share[:, None] * (ends - starts)[owner] for share in (opened, closes)], axis=1
        )
        number = np.searchsorted(self.first, owner, side="right") - 1
        return walls, np.searchsorted(number, np.arange(self.count + 1))

    @cached_property
    def _next(self) -> NDArray[np.int64]:
        """(C,) the corner that follows each one round its polygon."""
        following = np.arange(1, len(self.corners) + 1)
        following[self.first[1:] - 1] = self.first[:-1]
        return following

    @cached_property
    def portals_of(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Portals of each polygon (2 K,), sorted by polygon, and where those of each polygon start (P + 1,)."""
        owner = self.portals.polygons.reshape(-1)
        order = np.argsort(owner, kind="stable")
        return order // 2, np.searchsorted(owner[order], np.arange(self.count + 1))

    def _polygon(self, number: int) -> Polygon:
        walls, first_wall = self.walls
        numbers, first_portal = self.portals_of
        mine = numbers[first_portal[number] : first_portal[number + 1]]
        pairs = self.portals.polygons[mine]
        others = np.where(pairs[:, 0] == number, pairs[:, 1], pairs[:, 0])
        spans = self.portals.ends[mine].reshape(-1, 6).tolist()
        corners = self.corners[self.first[number] : self.first[number + 1]]
        sides = walls[first_wall[number] : first_wall[number + 1]][:, :, [0, 2]].reshape(-1, 4)
        triangles = self.triangles[self.first_triangle[number] : self.first_triangle[number + 1]]
        return Polygon(
            corners=tuple((x, z) for x, _, z in corners.tolist()),
            walls=tuple((x0, z0, x1, z1) for x0, z0, x1, z1 in sides.tolist()),
            portals=tuple(
                Crossing(to=to, span=(x0, z0, x1, z1))
                for to, (x0, _, z0, x1, _, z1) in zip(others.tolist(), spans, strict=True)
                if len(corners) > 2 and self.first[to + 1] - self.first[to] > 2
            ),
            triangles=tuple(tuple(map(tuple, triangle)) for triangle in triangles.tolist()),
        )


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A portal seen from one of its polygons."""

    to: int
    span: tuple[float, float, float, float]
    """x and z of one end, x and z of the other, metres."""

    def distance(self, x: float, z: float) -> float:
        px, pz = _closest(x, z, *self.span)
        return math.hypot(px - x, pz - z)


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """One polygon seen from above, with what bounds it."""

    corners: tuple[Plan, ...]
    walls: tuple[tuple[float, float, float, float], ...]
    portals: tuple[Crossing, ...]
    triangles: tuple[tuple[tuple[float, float, float], ...], ...]

    @property
    def middle(self) -> Plan:
        count = len(self.corners)
        return sum(x for x, _ in self.corners) / count, sum(z for _, z in self.corners) / count

    def holds(self, x: float, z: float) -> bool:
        """Whether (x, z) is inside, or off an edge by no more than a tenth of a micrometre."""
        ax, az = self.corners[-1]
        for bx, bz in self.corners:
            if (bx - ax) * (z - az) - (bz - az) * (x - ax) < -1e-7 * (abs(bx - ax) + abs(bz - az)):
                return False
            ax, az = bx, bz
        return len(self.corners) > 2

    def nearest(self, x: float, z: float) -> Plan:
        if self.holds(x, z):
            return x, z
        sides = zip(self.corners, (*self.corners[1:], self.corners[0]), strict=True)
        return min((_closest(x, z, *a, *b) for a, b in sides), key=lambda p: math.hypot(p[0] - x, p[1] - z))

    def leaves(self, x: float, z: float, dx: float, dz: float) -> float:
        """The share of the way from (x, z) by (dx, dz) that lies inside."""
        share = 1.0
        ax, az = self.corners[-1]
        for bx, bz in self.corners:
            out = (bz - az) * dx - (bx - ax) * dz
            if out > 0.0:
                room = (bx - ax) * (z - az) - (bz - az) * (x - ax)
                share = min(share, max(0.0, room / out))
            ax, az = bx, bz
        return share


@dataclass(frozen=True, kw_only=True)
class _Index:
    """Polygons filed under the squares their bounds touch."""

    side: float
    x0: float
    z0: float
    rows: int
    columns: int
    numbers: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, bounds: NDArray[np.float64], numbers: NDArray[np.int64]) -> _Index:
        box = bounds[numbers]
        x0, z0 = box[:, :2].min(axis=0).tolist()
        side = max(_SQUARE, float((box[:, 2:].max(axis=0) - (x0, z0)).max()) / _SQUARES)
        low = np.floor((box[:, :2] - (x0, z0)) / side).astype(np.int64)
        high = np.floor((box[:, 2:] - (x0, z0)) / side).astype(np.int64)
        columns, rows = (high.max(axis=0) + 1).tolist()
        wide, deep = (high - low + 1).T
        owner = np.repeat(np.arange(len(numbers)), wide * deep)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(wide * deep) - wide * deep, wide * deep)
        square = (low[owner, 1] + place // wide[owner]) * columns + low[owner, 0] + place % wide[owner]
        order = np.argsort(square, kind="stable")
        first = np.searchsorted(square[order], np.arange(rows * columns + 1))
        return cls(side=side, x0=x0, z0=z0, rows=rows, columns=columns, numbers=numbers[owner[order]], first=first)


def _closest(x: float, z: float, x0: float, z0: float, x1: float, z1: float) -> Plan:
    """The point of the line from (x0, z0) to (x1, z1) nearest to (x, z)."""
    dx, dz = x1 - x0, z1 - z0
    long = dx * dx + dz * dz
    share = min(1.0, max(0.0, ((x - x0) * dx + (z - z0) * dz) / long)) if long else 0.0
    return x0 + share * dx, z0 + share * dz
