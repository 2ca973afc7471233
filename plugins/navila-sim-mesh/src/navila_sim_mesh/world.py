"""A loaded scene: what it looks like and where one can walk in it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import cached_property

from navila.errors import SceneError
from navila.simulation import Position, TopDownMap

from navila_sim_mesh.agent import Ground
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


class World(ABC):
    """One scene; `house` is set for procedural ones."""

    scene_id: str
    renderer: Renderer
    ground: Ground
    house: House | None = None

    @abstractmethod
    def place(self, position: Position) -> Position | None:
        """The point an agent put at `position` stands at; None off the walkable floor."""

    @abstractmethod
    def distance(self, start: Position, goals: tuple[Position, ...]) -> float:
        """Metres of the shortest walkable path to the nearest goal; inf when there is none."""

    @abstractmethod
    def path(self, start: Position, goals: tuple[Position, ...]) -> tuple[Position, ...]:
        """Way points of that path; empty when there is none."""

    @abstractmethod
    def top_down_map(self, position: Position) -> TopDownMap:
        """The storey of `position` seen from two metres above it; dark where there is nothing, as inside walls."""


class HouseWorld(World):
    """A procedural house: one flat floor."""

    def __init__(self, scene_id: str, seed: int, radius: float) -> None:
        """Build the house of `seed` for an agent of `radius` metres."""
        self.scene_id = scene_id
        self.house = build_house(seed)
        self.renderer = Renderer(self.house.surface)
        self.floor: FloorGrid = house_floor(self.house, radius)
        self.ground = self.floor
        self._fields: OrderedDict[tuple[Position, ...], DistanceField | None] = OrderedDict()

    @cached_property
    def graph(self) -> VisibilityGraph:
        """Visibility graph of the floor, made on first use."""
        return VisibilityGraph(self.floor)

    def place(self, position: Position) -> Position | None:
        spot = self.floor.nearest_walkable(position[0], position[2], SNAP_DISTANCE)
        if spot is None:
            return None
        height = self.floor.floor_height(*spot)
        return (spot[0], height, spot[1]) if abs(height - position[1]) <= FLOOR_TOLERANCE else None

    def field(self, goals: tuple[Position, ...]) -> DistanceField | None:
        """Distances to the nearest of `goals`; None when none of them is walkable."""
        if goals not in self._fields:
            places = [self.place(goal) for goal in goals]
            points = [(spot[0], spot[2]) for spot in places if spot is not None]
            self._fields[goals] = self.graph.field(points) if points else None
            while len(self._fields) > FIELDS_KEPT:
                self._fields.popitem(last=False)
        self._fields.move_to_end(goals)
        return self._fields[goals]

    def distance(self, start: Position, goals: tuple[Position, ...]) -> float:
        spot = self.place(start)
        field = self.field(goals) if spot is not None else None
        if spot is None or field is None:
            return math.inf
        return self.graph.distance(field, (spot[0], spot[2]))

    def path(self, start: Position, goals: tuple[Position, ...]) -> tuple[Position, ...]:
        spot = self.place(start)
        field = self.field(goals) if spot is not None else None
        if spot is None or field is None:
            return ()
        way = self.graph.path(field, (spot[0], spot[2]))
        return tuple((x, self.floor.floor_height(x, z), z) for x, z in way)

    def top_down_map(self, position: Position) -> TopDownMap:
        grid = self.floor
        level = float(grid.height[grid.walkable].min()) if grid.walkable.any() else 0.0
        rgb, seen = self.renderer.render_plan(
            origin=grid.origin, shape=grid.free.shape, resolution=CELL, eye_height=level + PLAN_HEIGHT
        )
        rgb[~seen] = 40
        return TopDownMap(rgb=rgb, walkable=grid.walkable.copy(), origin=grid.origin, resolution=CELL)


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
