"""A scanned building: the surface of a mesh file and the navigation mesh beside it, else one made from it."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
from navila.simulation import Embodiment, Position, TopDownMap
from PIL import Image, ImageDraw

from navila_sim_mesh.detour import read_navmesh
from navila_sim_mesh.loading import Up, load_surface
from navila_sim_mesh.navigation import CELL, polyline_length
from navila_sim_mesh.navmesh import NavMesh
from navila_sim_mesh.navmesh_build import build_navmesh
from navila_sim_mesh.navmesh_cache import cached_navmesh
from navila_sim_mesh.navmesh_paths import NavField, NavMeshPaths
from navila_sim_mesh.renderer import Renderer
from navila_sim_mesh.world import PLAN_HEIGHT, World

#: How far from the navigation mesh an episode may start and still be moved onto it, metres aside, up or down.
START_TOLERANCE = 0.5
#: What lies at most so far above or below the agent belongs to its storey, metres.
STOREY = 1.5
#: Distance fields kept per scene; each takes 12 bytes a point of the portals.
FIELDS_KEPT = 64


class ScanWorld(World):
    """A scene from a file."""

    def __init__(self, scene_id: str, renderer: Renderer, mesh: NavMesh) -> None:
        self.scene_id = scene_id
        self.renderer = renderer
        self.ground = self.mesh = mesh
        self.paths = NavMeshPaths(mesh)
        self._fields: OrderedDict[tuple[Position, ...], NavField] = OrderedDict()

    @classmethod
    def load(cls, scene_id: str, path: Path, body: Embodiment, up: Up) -> ScanWorld:
        """Load a mesh file, and the `.navmesh` of the same name if there is one.

        Raises:
            SceneError: a file cannot be read, or there is nowhere to walk.
        """
        beside = path.with_suffix(".navmesh")
        mesh = read_navmesh(beside) if beside.is_file() else None
        surface = load_surface(path, up, mesh)
        renderer = Renderer(surface)
        if mesh is None:
            name, triangles = str(path), surface.triangles
            mesh = cached_navmesh(triangles, body, lambda: build_navmesh(name, triangles, renderer, body))
        return cls(scene_id, renderer, mesh)

    def place(self, position: Position) -> Position | None:
        spot = self.mesh.nearest(position, START_TOLERANCE, START_TOLERANCE)
        return spot[1] if spot is not None else None

    def field(self, goals: tuple[Position, ...]) -> NavField:
        """Distances to the nearest of `goals`."""
        if goals not in self._fields:
            self._fields[goals] = self.paths.field(goals)
            while len(self._fields) > FIELDS_KEPT:
                self._fields.popitem(last=False)
        self._fields.move_to_end(goals)
        return self._fields[goals]

    def distance(self, start: Position, goals: tuple[Position, ...]) -> float:
        path = self.path(start, goals)
        return polyline_length(path) if path else math.inf

    def path(self, start: Position, goals: tuple[Position, ...]) -> tuple[Position, ...]:
        return self.paths.path(self.field(goals), start) if goals else ()

    def top_down_map(self, position: Position) -> TopDownMap:
        first = self.mesh.first
        level = np.add.reduceat(self.mesh.corners[:, 1], first[:-1]) / np.diff(first)
        near = np.flatnonzero((np.abs(level - position[1]) <= STOREY) & (np.diff(first) > 2))
        rings = [self.mesh.corners[first[n] : first[n + 1]][:, [0, 2]] for n in near.tolist()]
        plan = np.concatenate(rings) if rings else np.array([[position[0], position[2]]])
        low = np.floor(plan.min(axis=0) / CELL) - 2
        width, height = (int(n) for n in np.ceil(plan.max(axis=0) / CELL) + 3 - low)
        picture = Image.new("1", (width, height))
        draw = ImageDraw.Draw(picture)
        for ring in rings:
            draw.polygon([tuple(point) for point in (ring / CELL - low).tolist()], fill=1)
        origin = (float(low[0]) * CELL, float(low[1]) * CELL)
        rgb, seen = self.renderer.render_plan(
            origin=origin, shape=(height, width), resolution=CELL, eye_height=position[1] + PLAN_HEIGHT
        )
        rgb[~seen] = 40
        return TopDownMap(rgb=rgb, walkable=np.array(picture, np.bool_), origin=origin, resolution=CELL)
