"""Places on a connectivity graph, and distances between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from navila.connectivity import ConnectivityGraph
from navila.simulation import Position
from numpy.typing import NDArray

#: Metres that positions may be off the graph: episode files place them on the floor where the graph guesses its height.
SNAP_DISTANCE = 1.0
#: Metres under which two distances are one.
_SAME = 1e-6


@dataclass(frozen=True)
class Place:
    """`along` metres from the viewpoint `start` towards `end`; at a viewpoint both are the same."""

    start: str
    end: str
    along: float = 0.0


class Ways:
    """A graph as lines in space."""

    def __init__(self, graph: ConnectivityGraph) -> None:
        self.graph = graph
        self.edges = [(a, b) for a, others in graph.neighbours.items() for b in others if a < b]

    @cached_property
    def _ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(E, 3) floor points at both ends of every edge."""
        points = self.graph.positions
        first = np.array([points[a] for a, _ in self.edges], float).reshape(-1, 3)
        return first, np.array([points[b] for _, b in self.edges], float).reshape(-1, 3)

    def length(self, start: str, end: str) -> float:
        """Metres from a viewpoint to one next to it."""
        return self.graph.neighbours[start][end]

    def position(self, place: Place) -> Position:
        """The floor point of a place."""
        a, b = self.graph.positions[place.start], self.graph.positions[place.end]
        if place.start == place.end:
            return a
        share = place.along / self.length(place.start, place.end)
        x, y, z = (p + (q - p) * share for p, q in zip(a, b, strict=True))
        return x, y, z

    def bearing(self, start: str, end: str) -> float:
        """Yaw in radians of the view from one viewpoint to another; 0 looks along -z, positive is to the left."""
        a, b = self.graph.positions[start], self.graph.positions[end]
        return math.atan2(a[0] - b[0], a[2] - b[2])

    def onward(self, place: Place) -> list[Place]:
        """The same place as the beginning or middle of each way on from it."""
        if place.start == place.end:
            return [Place(place.start, other) for other in sorted(self.graph.neighbours[place.start])]
        back = Place(place.end, place.start, self.length(place.start, place.end) - place.along)
        return [place, back]

    def moved(self, way: Place, metres: float) -> Place:
        """The place `metres` further along a way, at most its end."""
        along = way.along + metres
        return (
            Place(way.end, way.end)
            if along >= self.length(way.start, way.end) - _SAME
            else Place(way.start, way.end, along)
        )

    def snap(self, position: Position) -> list[Place]:
        """The places nearest to a point: several where edges cross, none beyond `SNAP_DISTANCE`."""
        first, second = self._ends
        if not len(first):
            return []
        point = np.asarray(position, float)
        along = second - first
        share = np.clip(((point - first) * along).sum(1) / (along * along).sum(1), 0.0, 1.0)
        distance = np.linalg.norm(first + share[:, None] * along - point, axis=1)
        if distance.min() > SNAP_DISTANCE:
            return []
        found: list[Place] = []
        for number in np.flatnonzero(distance <= distance.min() + _SAME):
            start, end = self.edges[number]
            metres = float(share[number]) * self.length(start, end)
            place = Place(start, start) if metres < _SAME else self.moved(Place(start, end), metres)
            if place not in found:
                found.append(place)
        # A viewpoint is exact; beside it the edges that meet there say the same.
        return [place for place in found if place.start == place.end] or found


class Remaining:
    """Metres along the graph to the nearest of some goals, from anywhere on it."""

    def __init__(self, ways: Ways, goals: Sequence[Position]) -> None:
        self._ways = ways
        self._goals = [place for goal in goals for place in ways.snap(goal)]
        starts: dict[str, float] = {}
        for goal in self._goals:
            left = 0.0 if goal.start == goal.end else ways.length(goal.start, goal.end) - goal.along
            for viewpoint, metres in ((goal.start, goal.along), (goal.end, left)):
                starts[viewpoint] = min(metres, starts.get(viewpoint, math.inf))
        self._of_viewpoint: Mapping[str, float] = ways.graph.distances(starts)

    def via(self, way: Place) -> float:
        """Metres to the goal for who walks on along a way."""
        length = self._ways.length(way.start, way.end)
        best = length - way.along + self._of_viewpoint.get(way.end, math.inf)
        for goal in self._goals:
            on_it = {(goal.start, goal.end): goal.along, (goal.end, goal.start): length - goal.along}
            metres = on_it.get((way.start, way.end), -1.0)
            if metres >= way.along:
                best = min(best, metres - way.along)
        return best

    def at(self, place: Place) -> float:
        """Metres to the goal from a place; `inf` where none can be reached."""
        if place.start == place.end:
            return self._of_viewpoint.get(place.start, math.inf)
        return min(map(self.via, self._ways.onward(place)))

    def ahead(self, place: Place) -> tuple[Position, ...]:
        """Corners of the shortest way from a place to the goal, both ends included; empty when there is none."""
        if not math.isfinite(self.at(place)):
            return ()
        points = [self._ways.position(place)]
        while self.at(place) > _SAME:
            way = min(self._ways.onward(place), key=self.via)
            to_end = self._ways.length(way.start, way.end) - way.along
            place = self._ways.moved(way, min(to_end, self.via(way)))
            points.append(self._ways.position(place))
        return tuple(points)
