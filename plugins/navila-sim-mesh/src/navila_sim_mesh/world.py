"""A loaded scene: what it looks like and where one can walk in it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from navila.errors import SceneError
from navila.simulation import Embodiment, Position, TopDownMap

from navila_sim_mesh.geodesic import DistanceField, VisibilityGraph
from navila_sim_mesh.houses import House, build_house
from navila_sim_mesh.navigation import CELL, FloorGrid, house_floor
from navila_sim_mesh.renderer import Renderer

#: How far from the walkable floor a start or goal may lie and still be moved onto it, metres.
SNAP_DISTANCE = 0.35
#: A point belongs to a floor when it is at most this far above or below it, metres.
FLOOR_TOLERANCE = 0.35
#: How far above the floor a map is cut, metres: below door lintels and ceilings.
PLAN_HEIGHT = 2.0
#: Distance fields kept per scene.
FIELDS_KEPT = 256


@dataclass(frozen=True, kw_only=True)
class Place:
    """A point on a floor."""

    floor: int
    x: float
    z: float


class World:
    """One scene with its floors; `house` is set for procedural ones."""

    def __init__(self, scene_id: str, renderer: Renderer, floors: Sequence[FloorGrid], house: House | None = None):
        self.scene_id = scene_id
        self.renderer = renderer
        self.floors = tuple(floors)
        self.house = house
        self._graphs: dict[int, VisibilityGraph] = {}
        self._fields: OrderedDict[tuple[int, tuple[Position, ...]], DistanceField | None] = OrderedDict()

    @classmethod
    def of_house(cls, scene_id: str, seed: int, radius: float) -> World:
        """Build the procedural house of `seed` for an agent of `radius` metres."""
        house = build_house(seed)
        return cls(scene_id, Renderer(house.surface), [house_floor(house, radius)], house)

    @classmethod
    def of_file(cls, scene_id: str, path: Path, body: Embodiment, up: Literal["y", "z"]) -> World:
        """Load a mesh file and find its floors.

        Raises:
            SceneError: the file cannot be read, or there is no floor in it.
        """
        # Procedural houses need no trimesh, which takes a while to import.
        from navila_sim_mesh.loading import load_surface
        from navila_sim_mesh.walkable import find_floors

        surface = load_surface(path, up)
        renderer = Renderer(surface)
        return cls(scene_id, renderer, find_floors(str(path), surface.triangles, renderer, body))

    def graph(self, floor: int) -> VisibilityGraph:
        """Visibility graph of a floor, made on first use."""
        if floor not in self._graphs:
            self._graphs[floor] = VisibilityGraph(self.floors[floor])
        return self._graphs[floor]

    def place(self, position: Position) -> Place | None:
        """The walkable point nearest to `position`, at most `SNAP_DISTANCE` away on the floor next to it in height."""
        best: tuple[float, Place] | None = None
        for index, floor in enumerate(self.floors):
            spot = floor.nearest_walkable(position[0], position[2], SNAP_DISTANCE)
            if spot is None:
                continue
            rise = abs(floor.floor_height(*spot) - position[1])
            if rise <= FLOOR_TOLERANCE and (best is None or rise < best[0]):
                best = rise, Place(floor=index, x=spot[0], z=spot[1])
        return best[1] if best else None

    def field(self, floor: int, goals: tuple[Position, ...]) -> DistanceField | None:
        """Distances to the nearest of `goals` on one floor; None when none of them is on it."""
        key = (floor, goals)
        if key not in self._fields:
            places = [self.place(goal) for goal in goals]
            points = [(spot.x, spot.z) for spot in places if spot is not None and spot.floor == floor]
            self._fields[key] = self.graph(floor).field(points) if points else None
            while len(self._fields) > FIELDS_KEPT:
                self._fields.popitem(last=False)
        self._fields.move_to_end(key)
        return self._fields[key]

    def distance(self, start: Position, goals: tuple[Position, ...]) -> float:
        """Metres of the shortest walkable path to the nearest goal; inf when there is none."""
        spot = self.place(start)
        field = self.field(spot.floor, goals) if spot is not None else None
        if spot is None or field is None:
            return math.inf
        graph, floor = self.graph(spot.floor), self.floors[spot.floor]
        if floor.flat:
            return graph.distance(field, (spot.x, spot.z))
        path = graph.path(field, (spot.x, spot.z))
        return floor.walk_length(path) if path else math.inf

    def top_down_map(self, floor: int) -> TopDownMap:
        """One floor seen from two metres above it; where nothing is to be seen, the inside of walls, it is dark."""
        grid = self.floors[floor]
        level = float(grid.height[grid.walkable].min()) if grid.walkable.any() else 0.0
        rgb, seen = self.renderer.render_plan(
            origin=grid.origin, shape=grid.free.shape, resolution=CELL, eye_height=level + PLAN_HEIGHT
        )
        rgb[~seen] = 40
        return TopDownMap(rgb=rgb, walkable=grid.walkable.copy(), origin=grid.origin, resolution=CELL)

    def path(self, start: Position, goals: tuple[Position, ...]) -> tuple[Position, ...]:
        """Way points of that path; empty when there is none."""
        spot = self.place(start)
        field = self.field(spot.floor, goals) if spot is not None else None
        if spot is None or field is None:
            return ()
        floor = self.floors[spot.floor]
        return tuple((x, floor.floor_height(x, z), z) for x, z in self.graph(spot.floor).path(field, (spot.x, spot.z)))


def house_seed(scene_id: str) -> int | None:
    """Seed in `houses/<seed>`; None for other scenes.

    Raises:
        SceneError: the part after `houses/` is no seed.
    """
    if not scene_id.startswith("houses/"):
        return None
    text = scene_id.removeprefix("houses/")
    if not (text.isascii() and text.isdigit()):
        raise SceneError(f"The scene {scene_id!r} is not a procedural house; write houses/<seed> with a whole number.")
    return int(text)
