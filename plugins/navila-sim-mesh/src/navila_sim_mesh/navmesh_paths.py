"""Shortest paths over a navigation mesh: distance fields over points of its portals, pulled taut by a funnel.

The field decides through which polygons a path leads; within them its length is exact: the chain of straight lines
from bend to bend that Detour's findStraightPath gives. Detour looks for polygons by the middles of portals alone, so
its path is at times a little longer than the shortest; here bends that no wall is at are straightened besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from navila.simulation import Position
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from navila_sim_mesh.navigation import polyline_length
from navila_sim_mesh.navmesh import NavMesh

#: Distance between the points of a portal that paths are searched over, metres, and most pieces it is cut into.
SPACING, MOST_PIECES = 0.25, 24
#: First points tried from a start: any that the field takes for at most so much farther than the best.
_DOUBT = 1.03
_TRIED = 2


@dataclass(frozen=True, kw_only=True)
class NavField:
    """Distances to the nearest of some goals; made by `NavMeshPaths.field`."""

    goals: tuple[Position, ...]
    """On the mesh, metres."""
    goal_polygons: tuple[int, ...]
    distance: NDArray[np.float64]
    """(N,) metres from each point to the nearest goal, inf when there is no way."""
    following: memoryview[int]
    """The point the path from each of N points goes on to; N + g for goal g, negative when there is no way."""


class NavMeshPaths:
    """Path search over one mesh; N points lie on its portals, both ends of each among them."""

    def __init__(self, mesh: NavMesh) -> None:
        self.mesh = mesh
        ends = mesh.portals.ends
        pieces = np.ceil(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) / SPACING).astype(np.int64)
        pieces = np.minimum(pieces, MOST_PIECES)
        counts = pieces + 1
        self._portal = np.repeat(np.arange(len(ends)), counts)
        first = np.cumsum(counts) - counts
        share = (np.arange(counts.sum()) - first[self._portal]) / np.maximum(pieces, 1)[self._portal]
        self._points = ends[self._portal, 0] + share[:, None] * (ends[self._portal, 1] - ends[self._portal, 0])
        self._first_point = np.append(first, counts.sum())

    def field(self, goals: Sequence[Position]) -> NavField:
        """Distances from everywhere to the nearest of `goals`; those far off the mesh do not count."""
        found = [spot for spot in map(self.mesh.nearest, goals) if spot is not None]
        count = len(self._points)
        near = [self._points_of(polygon) for polygon, _ in found]
        lengths = [np.linalg.norm(self._points[n] - place, axis=1) for n, (_, place) in zip(near, found, strict=True)]
        # One more source, the last, is at every goal at once. A link of no length would be no link.
        links, size = self._links, count + len(found) + 1
        data = np.concatenate([links.data, *lengths, np.zeros(len(found))])
        indices = np.concatenate([links.indices, *near, np.arange(count, count + len(found))])
        ends = np.cumsum([len(links.data), *map(len, near), len(found)])
        graph = sparse.csr_array(
            (np.maximum(data, 1e-12), indices, np.concatenate([links.indptr, ends[1:]])),
            shape=(size, size),
        )
        distance, before = csgraph.dijkstra(graph, indices=size - 1, return_predecessors=True)
        return NavField(
            goals=tuple(place for _, place in found),
            goal_polygons=tuple(polygon for polygon, _ in found),
            distance=distance[:count],
            following=memoryview(before[:count].astype(np.int32)),
        )

    def path(self, field: NavField, start: Position) -> tuple[Position, ...]:
        """Way points from the point of the mesh nearest to `start` to the nearest goal; empty when there is no way."""
        spot = self.mesh.nearest(start)
        if spot is None:
            return ()
        polygon, place = spot
        candidates: list[tuple[Position, ...]] = [
            (place, goal) for goal, number in zip(field.goals, field.goal_polygons, strict=True) if number == polygon
        ]
        near = self._points_of(polygon)
        total = np.linalg.norm(self._points[near] - place, axis=1) + field.distance[near]
        order = near[np.argsort(total, kind="stable")]
        total = np.sort(total)
        tried: set[tuple[int, ...]] = set()
        for point in order[total <= _DOUBT * total[0]] if len(near) and np.isfinite(total[0]) else ():
            corridor = self._corridor(field, polygon, int(point))
            if corridor in tried:
                continue
            tried.add(corridor)
            candidates.append(self._taut(place, field.goals[corridor[-1]], corridor[:-1]))
            if len(tried) == _TRIED:
                break
        return self._straightened(min(candidates, key=polyline_length)) if candidates else ()

    def _straightened(self, path: tuple[Position, ...]) -> tuple[Position, ...]:
        """The path without the bends that the choice of polygons made, where there is no wall."""
        points, bend = list(path), 1
        while bend < len(points) - 1:
            x, _, z = points[bend]
            free = (round(x, 5), round(z, 5)) not in self._wall_ends
            if free and self.mesh.in_line(points[bend - 1], points[bend + 1]):
                del points[bend]
                bend = max(1, bend - 1)
            else:
                bend += 1
        return tuple(points)

    def _corridor(self, field: NavField, polygon: int, point: int) -> tuple[int, ...]:
        """Portals crossed from `polygon` to a goal by way of `point`, each with its direction, and the goal's number.

        Portal k is 2 k when it is crossed from its first polygon to its second, else 2 k + 1.
        """
        count, pairs, portals = len(self._points), self._pairs, self._portal_of
        polygons, crossed = [polygon], []
        place = {polygon: 0}
        while point < count:
            portal, following, here = portals[point], field.following[point], polygons[-1]
            first, second = pairs[portal]
            if following < count:
                # The link to the next point leads through a polygon that both portals belong to.
                goes = here if here in pairs[portals[following]] else first + second - here
            else:
                goes = field.goal_polygons[following - count]
            point = following
            if goes == here:
                continue
            if goes in place:
                # It has been there before: leave the loop out.
                for left in polygons[place[goes] + 1 :]:
                    del place[left]
                del polygons[place[goes] + 1 :], crossed[place[goes] :]
            else:
                crossed.append(2 * portal + (first != here))
                place[goes] = len(polygons)
                polygons.append(goes)
        return (*crossed, point - count)

    def _taut(self, start: Position, goal: Position, corridor: Sequence[int]) -> tuple[Position, ...]:
        """The shortest chain of points from start to goal through the portals of a corridor."""
        left, right = [], []
        for crossing in corridor:
            a, b = self._sides[crossing]
            left.append(a)
            right.append(b)
        return string_pull(start, goal, left, right)

    def _points_of(self, polygon: int) -> NDArray[np.int64]:
        numbers, first = self.mesh.portals_of
        portals = numbers[first[polygon] : first[polygon + 1]]
        spans = [np.arange(*self._first_point[portal : portal + 2].tolist()) for portal in portals.tolist()]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    @cached_property
    def _wall_ends(self) -> frozenset[tuple[float, ...]]:
        """Where walls end, seen from above to a hundredth of a millimetre."""
        return frozenset(map(tuple, np.round(self.mesh.walls[0][..., [0, 2]], 5).reshape(-1, 2).tolist()))

    @cached_property
    def _pairs(self) -> list[list[int]]:
        """The two polygons of each portal; plain lists, as numbers are taken from them one by one."""
        return self.mesh.portals.polygons.tolist()

    @cached_property
    def _portal_of(self) -> list[int]:
        return self._portal.tolist()

    @cached_property
    def _sides(self) -> list[tuple[Position, Position]]:
        """Left and right end of each portal, as crossed in either direction."""
        mesh, portals = self.mesh, self.mesh.portals
        counts = np.diff(mesh.first)
        owner = np.repeat(np.arange(mesh.count), counts)
        middle = np.stack([np.bincount(owner, mesh.corners[:, axis], mesh.count) / counts for axis in (0, 2)], axis=1)
        a, b = portals.ends[:, 0], portals.ends[:, 1]
        back = middle[portals.polygons[:, 0]] - a[:, [0, 2]]
        ahead = middle[portals.polygons[:, 1]] - a[:, [0, 2]]
        way = (b - a)[:, [0, 2]]
        # Which side of the line from a to b the first polygon lies on, and the second does not.
        turn = (way[:, 0] * back[:, 1] - way[:, 1] * back[:, 0]) - (way[:, 0] * ahead[:, 1] - way[:, 1] * ahead[:, 0])
        flip = (turn > 0)[:, None]
        left, right = np.where(flip, b, a), np.where(flip, a, b)
        pairs = zip(map(tuple, left.tolist()), map(tuple, right.tolist()), strict=True)
        return [side for first, second in pairs for side in ((first, second), (second, first))]

    @cached_property
    def _links(self) -> sparse.csr_array:
        """(N, N) metres across one polygon, from the point one walks to to the one walked from."""
        mesh = self.mesh
        numbers, first = mesh.portals_of
        owner = np.repeat(np.arange(mesh.count), np.diff(first))
        counts = np.diff(self._first_point)[numbers]
        points = np.repeat(self._first_point[:-1][numbers] - np.cumsum(counts) + counts, counts)
        points += np.arange(counts.sum())
        owner = np.repeat(owner, counts)
        size = np.bincount(owner, minlength=mesh.count)
        start = np.cumsum(size) - size
        a = np.repeat(np.arange(len(points)), size[owner])
        b = np.arange(len(a)) - np.repeat(np.cumsum(size[owner]) - size[owner], size[owner]) + start[owner[a]]
        keep = a != b
        if mesh.one_way.any():
            edges = self._edge_of(owner, points)
            keep &= ~(mesh.one_way[owner[a]] & (edges[a] < edges[b]))
        # Points of one portal are in sight of each other across both its polygons, but linked once.
        count = len(self._points)
        pair = np.sort(points[a[keep]] * count + points[b[keep]])
        a, b = np.divmod(pair[np.diff(pair, prepend=-1) > 0], max(count, 1))
        length = np.linalg.norm(self._points[a] - self._points[b], axis=1)
        return sparse.csr_array((np.maximum(length, 1e-12), (a, b)), shape=(count, count))

    def _edge_of(self, polygon: NDArray[np.int64], point: NDArray[np.int64]) -> NDArray[np.int32]:
        portals = self.mesh.portals
        portal = self._portal[point]
        return np.where(portals.polygons[portal, 0] == polygon, portals.edges[portal, 0], portals.edges[portal, 1])


def string_pull(
    start: Position, goal: Position, left: Sequence[Position], right: Sequence[Position]
) -> tuple[Position, ...]:
    """The shortest path through portals, given by their left and right ends (the "simple stupid funnel algorithm").

    Seen from above with x to the right and z up, a portal's left end is to the left of who crosses it.
    """
    lefts, rights = [*left, goal], [*right, goal]
    path = [start]
    apex, at_left, at_right = start, 0, 0
    side_left = side_right = start
    number = 0
    while number < len(lefts):
        a, b = lefts[number], rights[number]
        if _turn(apex, side_right, b) >= 0.0:
            if side_right == apex or _turn(apex, side_left, b) < 0.0:
                side_right, at_right = b, number
            else:
                path.append(side_left)
                apex = side_right = side_left
                number = at_right = at_left
                number += 1
                continue
        if _turn(apex, side_left, a) <= 0.0:
            if side_left == apex or _turn(apex, side_right, a) > 0.0:
                side_left, at_left = a, number
            else:
                path.append(side_right)
                apex = side_left = side_right
                number = at_left = at_right
                number += 1
                continue
        number += 1
    path.append(goal)
    # A path that bends at a corner of several portals has it several times.
    return (*(p for p, q in pairwise(path) if p != q), goal)


def _turn(a: Position, b: Position, c: Position) -> float:
    """Positive when c lies to the left of the line from a to b, x to the right and z up."""
    return (b[0] - a[0]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[0] - a[0])
