"""Navigation meshes as habitat writes them: read, measured, walked and compared with brute force."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from navila.errors import SceneError
from navila.simulation import Embodiment, Episode
from navila_sim_mesh.agent import Pose
from navila_sim_mesh.detour import read_navmesh
from navila_sim_mesh.expert import expert_walk
from navila_sim_mesh.navigation import polyline_length
from navila_sim_mesh.navmesh import NavMesh
from navila_sim_mesh.navmesh_cache import cached_navmesh
from navila_sim_mesh.navmesh_paths import NavMeshPaths, string_pull
from navila_sim_mesh.scan import ScanWorld
from navila_sim_mesh.simulator import MeshSimulator
from scipy import sparse
from scipy.sparse import csgraph

Point = tuple[float, float, float]
Ring = Sequence[Point]


def tile_bytes(
    polygons: Sequence[Ring],
    *,
    place: tuple[int, int] = (0, 0),
    borders: dict[tuple[str, float], int] | None = None,
    flags: Sequence[int] | None = None,
    leap: tuple[Point, Point, int] | None = None,
    detail: bool = True,
) -> bytes:
    """One Detour tile, by the published layout. `borders` gives the side of edges that lie at x or z of a value."""
    vertices = sorted({corner for ring in polygons for corner in ring})
    index = {corner: number for number, corner in enumerate(vertices)}
    edges: dict[frozenset[Point], list[int]] = {}
    for number, ring in enumerate(polygons):
        for a, b in zip(ring, (*ring[1:], ring[0]), strict=True):
            edges.setdefault(frozenset((a, b)), []).append(number)
    rows = b""
    for number, ring in enumerate(polygons):
        neighbours = []
        for a, b in zip(ring, (*ring[1:], ring[0]), strict=True):
            other = next((n for n in edges[frozenset((a, b))] if n != number), number)
            side = next(
                (s for (axis, at), s in (borders or {}).items() if a["xyz".index(axis)] == b["xyz".index(axis)] == at),
                None,
            )
            neighbours.append(other + 1 if other != number else 0 if side is None else 0x8000 | side)
        pad = [0] * (6 - len(ring))
        rows += struct.pack(
            "<I6H6HHBB",
            0,
            *(index[c] for c in ring),
            *pad,
            *neighbours,
            *pad,
            (flags or [1] * 99)[number],
            len(ring),
            0,
        )
    details = triangles = b""
    count = 0
    for ring in polygons:
        details += struct.pack("<IIBBxx", 0, count, 0, len(ring) - 2)
        triangles += b"".join(struct.pack("4B", 0, i, i + 1, 0) for i in range(1, len(ring) - 1))
        count += len(ring) - 2
    leaps = b""
    if leap is not None:
        vertices += leap[:2]
        base = len(vertices) - 2
        rows += struct.pack("<I6H6HHBB", 0, base, base + 1, 0, 0, 0, 0, *[0] * 6, 1, 2, 1 << 6)
        leaps = struct.pack("<6ffHBBI", *leap[0], *leap[1], 0.3, len(polygons), leap[2], 0, 0)
    points = b"".join(struct.pack("<3f", *corner) for corner in vertices)
    total = len(polygons) + (leap is not None)
    meshes = len(polygons) if detail else 0
    header = struct.pack(
        "<4s4iI9i10f", b"VAND", 7, *place, 0, 0, total, len(vertices), 4, meshes, 0, count if detail else 0, 2,
        int(leap is not None), len(polygons), 1.5, 0.1, 0.2, *np.min(vertices, axis=0), *np.max(vertices, axis=0), 1.0,
    )  # fmt: skip
    # What the program that wrote it kept in links and bounding volumes is of no use to who reads it.
    shape = details + triangles if detail else b""
    return header + points + rows + b"\xcd" * 4 * 12 + shape + b"\xcd" * 2 * 16 + leaps


def write(path: Path, *tiles: bytes, version: int = 2) -> Path:
    settings = struct.pack("<13f4B", 0.05, 0.2, 1.5, 0.1, 0.2, 45, 20, 20, 12, 1.3, 6, 6, 1, 1, 1, 1, 0)
    data = struct.pack("<4sii3f2f2i", b"TESM", version, len(tiles), 0, 0, 0, 10, 10, 64, 4096)
    data += settings if version == 2 else b""
    path.write_bytes(data + b"".join(struct.pack("<Ii", 1 << 20 | n + 1, len(t)) + t for n, t in enumerate(tiles)))
    return path


def square(x0: float, z0: float, x1: float, z1: float, y: float = 0.0) -> Ring:
    """Corners as Recast winds them."""
    return [(x0, y, z0), (x0, y, z1), (x1, y, z1), (x1, y, z0)]


def geodesic(mesh: NavMesh, start: Point, goal: Point) -> float:
    paths = NavMeshPaths(mesh)
    path = paths.path(paths.field([goal]), start)
    return polyline_length(path) if path else math.inf


L_SHAPE = [square(0, 0, 4, 2), square(4, 0, 6, 2), square(4, 2, 6, 8)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_path_bends_at_the_inner_corner_of_an_l(tmp_path: Path, version: int) -> None:
    mesh = read_navmesh(write(tmp_path / "l.navmesh", tile_bytes(L_SHAPE), version=version))
    paths = NavMeshPaths(mesh)
    start, goal = (0.5, 0.0, 1.5), (4.5, 0.0, 7.0)
    path = paths.path(paths.field([goal]), start)
    assert path == pytest.approx(np.array([start, (4.0, 0.0, 2.0), goal]))
    far = (5.5, 0.0, 7.5)
    near = paths.path(paths.field([far, (2.5, 0.0, 0.5)]), start)
    assert near[-1] == (2.5, 0.0, 0.5), "the nearest of several goals"
    assert polyline_length(near) == pytest.approx(math.hypot(2, 1))


def test_polygons_wound_the_other_way_and_without_detail_are_the_same(tmp_path: Path) -> None:
    turned = [list(reversed(ring)) if n % 2 else ring for n, ring in enumerate(L_SHAPE)]
    mesh = read_navmesh(write(tmp_path / "l.navmesh", tile_bytes(turned, detail=False)))
    assert geodesic(mesh, (0.5, 0.0, 1.5), (4.5, 0.0, 7.0)) == pytest.approx(math.hypot(3.5, 0.5) + math.hypot(0.5, 5))


def test_two_floors_are_joined_by_their_ramp(tmp_path: Path) -> None:
    ramp = [(4.0, 0.0, 0.0), (4.0, 0.0, 2.0), (8.0, 3.0, 2.0), (8.0, 3.0, 0.0)]
    upper = [square(8, 0, 12, 2, 3.0), square(0, 0, 8, 0.5, 3.0)]
    # The upper floor runs back over the lower one, past the ramp.
    upper = [square(8, 0, 12, 2, 3.0), square(8, 2, 12, 4, 3.0), square(0, 2, 8, 4, 3.0)]
    mesh = read_navmesh(write(tmp_path / "two.navmesh", tile_bytes([square(0, 0, 4, 2), ramp, *upper])))
    below, above = (2.0, 0.0, 1.0), (2.0, 3.0, 3.0)
    expected = math.dist((2, 0, 1), (8, 3, 2)) + math.dist((8, 3, 2), above)
    assert geodesic(mesh, below, above) == pytest.approx(expected)
    assert geodesic(mesh, above, below) == pytest.approx(expected)
    assert mesh.height(1, 6.0, 1.0) == pytest.approx(1.5)
    assert mesh.nearest((2.0, 2.8, 3.0)) == (4, (2.0, 3.0, 3.0))
    assert len(set(mesh.islands.tolist())) == 1
    (x, y, z), collided = mesh.step((3.9, 0.0, 1.0), 0.25, 0.0, sliding=True)
    assert (x, y, z) == pytest.approx((4.15, 0.1125, 1.0))
    assert not collided


def test_islands_keep_apart(tmp_path: Path) -> None:
    islands = [square(0, 0, 2, 2), square(2, 0, 4, 2), square(6, 0, 7, 1)]
    mesh = read_navmesh(write(tmp_path / "islands.navmesh", tile_bytes(islands)))
    assert geodesic(mesh, (1.0, 0.0, 1.0), (6.5, 0.0, 0.5)) == math.inf
    big, small = mesh.nearest((1.0, 0.0, 1.0)), mesh.nearest((6.5, 0.0, 0.5))
    assert big is not None
    assert small is not None
    assert mesh.islands[big[0]] != mesh.islands[small[0]]
    assert mesh.nearest((4.7, 0.0, 1.0)) == (1, (4.0, 0.0, 1.0))
    for sliding in (True, False):
        assert mesh.step((3.9, 0.0, 1.0), 1.5, 0.0, sliding=sliding) == ((3.9, 0.0, 1.0), True), "next to the other"
        assert mesh.step((3.9, 0.0, 1.0), 0.25, 0.0, sliding=sliding)[0] == pytest.approx((4.0, 0.0, 1.0), abs=1e-3)
    assert mesh.nearest((50.0, 0.0, 1.0)) is None
    assert mesh.nearest((1.0, 9.0, 1.0)) is None


def test_tiles_meet_along_parts_of_their_borders(tmp_path: Path) -> None:
    west = tile_bytes([square(0, 0, 10, 4), square(0, 4, 10, 10)], borders={("x", 10): 0})
    east = tile_bytes([square(10, 6, 20, 10), square(10, 2, 20, 3)], place=(1, 0), borders={("x", 10): 4})
    lonely = tile_bytes([square(0, 20, 10, 30)], place=(0, 2), borders={("z", 20): 6})
    mesh = read_navmesh(write(tmp_path / "tiles.navmesh", west, east, lonely))
    assert geodesic(mesh, (9.0, 0.0, 5.0), (11.0, 0.0, 5.9)) == pytest.approx(math.hypot(1, 1) + 1)
    assert geodesic(mesh, (9.0, 0.0, 4.5), (12.0, 0.0, 2.5)) == pytest.approx(math.hypot(1, 1.5) + math.hypot(2, 0.5))
    assert geodesic(mesh, (9.0, 0.0, 5.0), (5.0, 0.0, 25.0)) == math.inf
    end, collided = mesh.step((9.9, 0.0, 5.0), 0.25, 0.0, sliding=False)
    assert collided
    assert end[0] == pytest.approx(10.0, abs=1e-3)
    end, collided = mesh.step((9.9, 0.0, 7.0), 0.25, 0.0, sliding=False)
    assert not collided
    assert end == pytest.approx((10.15, 0.0, 7.0))


@pytest.mark.parametrize(("flags", "back"), [(0, math.inf), (1, 6.0)])
def test_off_mesh_connections_count_in_their_directions(tmp_path: Path, flags: int, back: float) -> None:
    leap = ((2.0, 0.0, 1.0), (5.0, 0.0, 1.0), flags)
    mesh = read_navmesh(
        write(tmp_path / "leap.navmesh", tile_bytes([square(0, 0, 2, 2), square(5, 0, 7, 2)], leap=leap))
    )
    assert geodesic(mesh, (0.5, 0.0, 1.0), (6.5, 0.0, 1.0)) == pytest.approx(6.0)
    assert geodesic(mesh, (6.5, 0.0, 1.0), (0.5, 0.0, 1.0)) == pytest.approx(back)


def test_one_does_not_walk_on_polygons_without_the_flag_or_without_area(tmp_path: Path) -> None:
    sliver = [(6.0, 0.0, 0.0), (6.0, 0.0, 2.0), (6.0, 0.0, 1.0)]
    mesh = read_navmesh(write(tmp_path / "l.navmesh", tile_bytes([*L_SHAPE, sliver], flags=[1, 4, 1, 1])))
    assert mesh.count == 2
    assert geodesic(mesh, (0.5, 0.0, 1.5), (4.5, 0.0, 7.0)) == math.inf


def test_one_slides_along_walls_and_round_no_corner(tmp_path: Path) -> None:
    mesh = read_navmesh(write(tmp_path / "l.navmesh", tile_bytes(L_SHAPE)))
    end, collided = mesh.step((2.0, 0.0, 1.9), 0.2, 0.2, sliding=True)
    assert end == pytest.approx((2.2, 0.0, 2.0), abs=1e-3), "the reachable point nearest to the wanted one"
    assert collided
    end, collided = mesh.step((2.0, 0.0, 1.9), 0.2, 0.2, sliding=False)
    assert end == pytest.approx((2.1, 0.0, 2.0), abs=1e-3)
    assert collided
    rng = np.random.default_rng(0)
    for sliding in (True, False):
        place: Point = (5.0, 0.0, 5.0)
        for angle in rng.uniform(0, 2 * math.pi, 400):
            wanted = 0.25 * math.cos(angle), 0.25 * math.sin(angle)
            place, collided = mesh.step(place, *wanted, sliding=sliding)
            x, _, z = place
            assert -1e-6 <= x <= 6
            assert -1e-6 <= z <= 8
            assert x >= 4 - 1e-6 or z <= 2 + 1e-6


def jittered(rng: np.random.Generator, side: int, free: np.ndarray) -> list[Ring]:
    """A grid of quadrilaterals with corners moved about, where `free` (side, side) says so."""
    grid = np.stack(np.meshgrid(np.arange(side + 1.0), np.arange(side + 1.0), indexing="ij"), axis=-1)
    grid += rng.uniform(-0.2, 0.2, grid.shape)
    corner = [[(float(np.float32(x)), 0.0, float(np.float32(z))) for x, z in row] for row in grid]
    return [
        [corner[i][j], corner[i][j + 1], corner[i + 1][j + 1], corner[i + 1][j]] for i, j in np.argwhere(free).tolist()
    ]


def brute_force(rings: list[Ring], start: Point, goal: Point) -> float:
    """Shortest way by a graph of all corners in sight of each other; sight is tested point by point."""
    nodes = np.array([(p[0], p[2]) for p in {corner for ring in rings for corner in ring} | {start, goal}])
    shapes = np.array([[(x, z) for x, _, z in ring] for ring in rings])
    ways = np.roll(shapes, -1, axis=1) - shapes
    pairs = np.array(list(combinations(range(len(nodes)), 2)))
    share = np.linspace(0, 1, 41)[None, :, None]
    lines = nodes[pairs[:, 0]][:, None] * (1 - share) + nodes[pairs[:, 1]][:, None] * share
    inside = np.zeros(lines.shape[:2], bool)
    for shape, way in zip(shapes, ways, strict=True):
        offset = lines[:, :, None] - shape
        cross = way[:, 0] * offset[..., 1] - way[:, 1] * offset[..., 0]
        inside |= (cross <= 1e-4).all(axis=-1) | (cross >= -1e-4).all(axis=-1)
    seen = pairs[inside.all(axis=1)]
    length = np.linalg.norm(nodes[seen[:, 0]] - nodes[seen[:, 1]], axis=1)
    graph = sparse.coo_array((length, seen.T), shape=(len(nodes), len(nodes))).tocsr()
    ends = [int(np.abs(nodes - (p[0], p[2])).sum(axis=1).argmin()) for p in (start, goal)]
    return float(csgraph.dijkstra(graph, directed=False, indices=ends[0])[ends[1]])


def test_distances_among_obstacles_are_those_of_brute_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    apart = []
    for trial in range(3):
        free = rng.uniform(size=(6, 6)) > 0.3
        free[0, 0] = free[5, 5] = free[3, 3] = True
        # Where only two corners touch, whether one can pass is a matter of taste.
        for i, j in np.ndindex(5, 5):
            block = free[i : i + 2, j : j + 2]
            block |= (block == [[True, False], [False, True]]).all() | (block == [[False, True], [True, False]]).all()
        rings = jittered(rng, 6, free)
        mesh = read_navmesh(write(tmp_path / f"{trial}.navmesh", tile_bytes(rings)))
        places: list[Point] = [(0.5, 0.0, 0.5), (5.5, 0.0, 5.5), (3.5, 0.0, 3.5)]
        for a, b in combinations(places, 2):
            true, found = brute_force(rings, a, b), geodesic(mesh, a, b)
            assert math.isinf(true) == math.isinf(found)
            if math.isfinite(true):
                apart.append(found / true - 1)
                assert found >= true - 5e-3
    assert len(apart) > 5
    assert max(apart) < 0.01


def test_in_a_hall_of_small_polygons_paths_are_straight_lines(tmp_path: Path) -> None:
    squares = [square(x / 2, z / 2, x / 2 + 0.5, z / 2 + 0.5) for x in range(9) for z in range(9)]
    # A pillar to go round, and a floor above that nothing leads to.
    del squares[40]
    mesh = read_navmesh(write(tmp_path / "hall.navmesh", tile_bytes([*squares, square(0, 0, 4.5, 4.5, y=3.0)])))
    rng = np.random.default_rng(0)
    for a, b in rng.uniform(0, 4.5, (40, 2, 2)):
        start, goal = (a[0], 0.0, a[1]), (b[0], 0.0, b[1])
        line = np.linspace(a, b, 200)
        if (np.abs(line - 2.25).max(axis=1) > 0.25).all():
            assert geodesic(mesh, start, goal) == pytest.approx(math.dist(start, goal), rel=1e-9)
    round_it = 0.5 + 2 * math.hypot(1.9, 0.25)
    assert round_it <= geodesic(mesh, (0.1, 0.0, 2.25), (4.4, 0.0, 2.25)) < 1.002 * round_it


@pytest.mark.parametrize("sliding", [True, False])
def test_the_expert_arrives_by_nearly_the_shortest_way(tmp_path: Path, sliding: bool) -> None:
    rng, body, efficiency = np.random.default_rng(5), Embodiment(sliding=sliding), []
    for trial in range(2):
        rings = jittered(rng, 8, rng.uniform(size=(8, 8)) > 0.25)
        mesh = read_navmesh(write(tmp_path / f"{trial}.navmesh", tile_bytes(rings)))
        no_pictures: Any = None
        world = ScanWorld("grid", no_pictures, mesh)
        middles = [tuple(np.mean(ring, axis=0).tolist()) for ring in rings]
        for a, b in rng.integers(0, len(rings), (10, 2)):
            start, goal = middles[a], middles[b]
            shortest = world.distance(start, (goal,))
            if not 1.0 < shortest < math.inf:
                continue
            pose = Pose(x=start[0], y=start[1], z=start[2], yaw=float(rng.uniform(-3, 3)))
            walk = expert_walk(world, body, pose, (goal,), 0.5)
            assert world.distance(walk[-1], (goal,)) < 0.5
            efficiency.append(shortest / max(shortest, polyline_length(walk)))
    assert len(efficiency) > 8
    assert np.mean(efficiency) > 0.98


def test_a_string_pulled_taut_is_the_shortest_through_its_portals() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        middle = np.cumsum(rng.uniform(-1, 1, 12))
        low, high = middle - rng.uniform(0.1, 1, 12), middle + rng.uniform(0.1, 1, 12)
        left = [(i + 1.0, 0.0, float(z)) for i, z in enumerate(high)]
        right = [(i + 1.0, 0.0, float(z)) for i, z in enumerate(low)]
        found = polyline_length(string_pull((0.0, 0.0, 0.0), (13.0, 0.0, 0.0), left, right))
        # Brute force: the best of many heights at every portal.
        height = np.linspace(low, high, 400, axis=1)
        best = np.hypot(1.0, height[0])
        for a, b in pairwise(height):
            best = (best[:, None] + np.hypot(1.0, a[:, None] - b[None, :])).min(axis=0)
        assert found == pytest.approx(float((best + np.hypot(1.0, height[-1])).min()), rel=1e-3)


def test_what_is_no_navmesh_of_habitats_is_one_sentence(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.navmesh", tile_bytes(L_SHAPE)).read_bytes()
    cases = {
        "foreign": (b"NAVM" + whole[4:], "magic MSET"),
        "empty": (b"", "magic MSET"),
        "newer": (whole[:4] + struct.pack("<i", 3) + whole[8:], "version 3"),
        "no tile": (write(tmp_path / "none.navmesh").read_bytes(), "no polygon to walk on"),
        "detour": (whole.replace(b"VAND\x07", b"VAND\x06"), "Detour's version 6"),
    }
    for size in (60, 100, 130, 200, len(whole) - 1):
        cases[f"cut at {size}"] = whole[:size], "ends within tile 1 of 1"
    at = whole.index(b"VAND") + 24
    cases["counts"] = whole[:at] + struct.pack("<i", 5000) + whole[at + 4 :], "shorter than its header"
    corners = struct.pack("<6H", 0, 1, 3, 2, 0, 0)
    assert whole.count(corners) == 1
    cases["corner"] = whole.replace(corners, struct.pack("<6H", 999, 1, 3, 2, 0, 0)), "corners or polygons it does not"
    for name, (data, complaint) in cases.items():
        path = tmp_path / f"{name}.navmesh"
        path.write_bytes(data)
        with pytest.raises(SceneError, match=complaint) as caught:
            read_navmesh(path)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(SceneError, match="cannot be read"):
        read_navmesh(tmp_path / "missing.navmesh")


def test_random_damage_to_a_navmesh_is_read_or_refused_but_never_a_crash(tmp_path: Path) -> None:
    leap = ((2.0, 0.0, 1.0), (5.0, 0.0, 1.0), 1)
    whole = write(tmp_path / "whole.navmesh", tile_bytes(L_SHAPE, leap=leap)).read_bytes()
    rng, said, path = np.random.default_rng(0), [], tmp_path / "damaged.navmesh"
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 4):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        try:
            mesh = read_navmesh(path)
        except SceneError as error:
            said.append(str(error))
            continue
        geodesic(mesh, (0.5, 0.0, 1.5), (4.5, 0.0, 7.0))
        mesh.step((0.5, 0.0, 1.5), 0.2, 0.1, sliding=True)
    assert 20 < len(said) < 300
    assert not any("\n" in sentence for sentence in said)


@pytest.mark.parametrize("z_up", [False, True])
def test_a_scene_is_walked_on_the_navmesh_beside_it(tmp_path: Path, z_up: bool) -> None:
    # A bare floor of 6 m x 8 m, of which the mesh leaves out a corner; its axis is told by the mesh alone.
    floor = np.array([(0, 0, 0), (6, 0, 0), (6, 0, 8), (0, 0, 8)])
    if z_up:
        floor = np.stack([floor[:, 0], -floor[:, 2], floor[:, 1]], axis=1)
    folder = tmp_path / "scene_datasets" / "mp3d" / "bare"
    folder.mkdir(parents=True)
    trimesh.Trimesh(floor, [[0, 2, 1], [0, 3, 2]], process=False).export(folder / "bare.glb")
    write(folder / "bare.navmesh", tile_bytes(L_SHAPE))
    start, goal = (0.5, 0.0, 1.5), (4.5, 0.0, 7.0)
    facts = {"episode_id": "1", "scene_id": "mp3d/bare/bare.glb", "start_rotation": (0.0, 0.0, 0.0, 1.0)}
    episode = Episode(start_position=(0.5, 0.1, 1.5), goals=(goal,), **facts)
    # The root is the folder of scenes, as VLN-CE has it, or the one above.
    for root in (tmp_path / "scene_datasets", tmp_path):
        sim = MeshSimulator(Embodiment(width=16, height=16, depth=True), scene_root=root)
        seen = sim.reset(episode)
        assert seen.position == start
    assert seen.depth is not None
    assert seen.depth[15, 8] == pytest.approx(1.25 / (15 / 16), rel=0.02), "the floor below the camera"
    assert sim.geodesic(start, [goal]) == pytest.approx(math.hypot(3.5, 0.5) + math.hypot(0.5, 5))
    while not seen.done:
        seen = sim.step(sim.expert_action(goal, 1.0))
        assert seen.position[0] > 4 - 1e-6 or seen.position[2] < 2 + 1e-6
    assert sim.geodesic(seen.position, [goal]) < 1.0
    plan = sim.top_down_map()
    assert plan.walkable.sum() * plan.resolution**2 == pytest.approx(8 + 4 + 12, rel=0.03)
    with pytest.raises(SceneError, match="off the walkable floor"):
        sim.reset(Episode(start_position=(1.0, 0.0, 6.0), goals=(goal,), **facts))
    (folder / "bare.navmesh").write_bytes(b"something else")
    with pytest.raises(SceneError, match=r"bare\.navmesh is no file of habitat's"):
        MeshSimulator(scene_root=tmp_path).reset(episode)


def test_a_navmesh_that_took_long_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAVILA_CACHE", str(tmp_path / "cache"))
    mesh = read_navmesh(write(tmp_path / "l.navmesh", tile_bytes(L_SHAPE)))
    triangles, made = mesh.triangles.astype(np.float32), []

    def build() -> NavMesh:
        made.append(1)
        return mesh

    body = Embodiment()
    for worth_keeping, times in ((60.0, 1), (0.0, 2), (0.0, 2)):
        kept = cached_navmesh(triangles, body, build, worth_keeping)
        assert len(made) == times
        assert geodesic(kept, (0.5, 0.0, 1.5), (4.5, 0.0, 7.0)) == geodesic(mesh, (0.5, 0.0, 1.5), (4.5, 0.0, 7.0))
    cached_navmesh(triangles, Embodiment(agent_radius=0.3), build, 60.0)
    cached_navmesh(triangles + 1, body, build, 60.0)
    assert len(made) == 4
    (file,) = (tmp_path / "cache" / "navmeshes").iterdir()
    file.write_bytes(file.read_bytes()[:300])
    cached_navmesh(triangles, body, build, 0.0)
    assert len(made) == 5
    assert cached_navmesh(triangles, body, build, 0.0).count == mesh.count
    assert len(made) == 5
