"""Meshes from outside: what is written with trimesh is loaded, looks right and can be walked."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from navila.errors import SceneError
from navila.simulation import Embodiment, Episode
from navila_sim_mesh.geodesic import VisibilityGraph
from navila_sim_mesh.houses import build_house
from navila_sim_mesh.loading import load_surface
from navila_sim_mesh.navigation import CELL, house_floor, polyline_length
from navila_sim_mesh.navmesh import NavMesh
from navila_sim_mesh.navmesh_build import build_navmesh
from navila_sim_mesh.navmesh_paths import NavMeshPaths
from navila_sim_mesh.renderer import Camera, Renderer, Surface
from navila_sim_mesh.simulator import MeshSimulator
from navila_sim_mesh.textures import build_atlas
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

BODY = Embodiment(width=96, height=96, depth=True)
UNIT_UV = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def quarters(image_format: str = "PNG") -> Image.Image:
    """Red, green over blue, yellow; 200 x 100, no power of two."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:50, :100], pixels[:50, 100:], pixels[50:, :100], pixels[50:, 100:] = RED, GREEN, BLUE, YELLOW
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, image_format, quality=95)
    return Image.open(data)


def quad(corners: list[tuple[float, float, float]], visual: Any = None) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices=corners, faces=[[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def room_scene(image_format: str = "PNG") -> trimesh.Scene:
    """A floor of 6 m x 6 m, a textured wall at z = -3 and a green box whose node is moved."""
    scene = trimesh.Scene()
    picture = PBRMaterial(baseColorTexture=quarters(image_format))
    grey = PBRMaterial(baseColorFactor=[100, 100, 100, 255])
    wall = [(-3.0, 0.0, -3.0), (3.0, 0.0, -3.0), (3.0, 3.0, -3.0), (-3.0, 3.0, -3.0)]
    floor = [(-3.0, 0.0, 3.0), (3.0, 0.0, 3.0), (3.0, 0.0, -3.0), (-3.0, 0.0, -3.0)]
    scene.add_geometry(quad(wall, TextureVisuals(uv=UNIT_UV, material=picture)), node_name="wall")
    scene.add_geometry(quad(floor, TextureVisuals(uv=UNIT_UV, material=grey)), node_name="floor")
    block = trimesh.creation.box((1.0, 1.0, 1.0))
    block.visual.face_colors = [0, 200, 0, 255]
    turn = trimesh.transformations.rotation_matrix(0.5, [0, 1, 0])
    turn[:3, 3] = (1.5, 0.5, 1.0)
    scene.add_geometry(block, node_name="block", transform=turn)
    return scene


def episode(scene_id: str, start: tuple[float, float, float] = (-1.0, 0.0, 0.0), **changes: Any) -> Episode:
    facts: dict[str, Any] = {"goals": ((2.0, 0.0, -2.0),), "start_rotation": (0.0, 0.0, 0.0, 1.0)} | changes
    return Episode(episode_id="1", scene_id=scene_id, start_position=start, **facts)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_a_textured_glb_looks_as_it_was_painted(tmp_path: Path, image_format: str) -> None:
    room_scene(image_format).export(tmp_path / "room.glb")
    sim = MeshSimulator(BODY, scene_root=tmp_path)
    seen = sim.reset(episode("room.glb"))
    assert seen.depth is not None
    assert seen.depth[48, 40] == pytest.approx(3.0, abs=1e-3)

    def colour(x: float, y: float) -> np.ndarray:
        """Colour seen at a point of the wall, 3 m ahead of an eye at x = -1, y = 1.25."""
        return seen.rgb[int(48 - (y - 1.25) / 3 * 48), int(48 + (x + 1) / 3 * 48)].astype(int)

    for x, y, expected in ((-2, 2.5, RED), (1, 2.5, GREEN), (-2, 0.5, BLUE), (1, 0.5, YELLOW)):
        assert np.abs(colour(x, y) - expected).max() <= 12, (x, y)
    floor = seen.rgb[90, 20].astype(int)
    assert np.ptp(floor) <= 1
    assert 70 <= floor[0] <= 100, "the flat grey of the floor, shaded"


def test_one_walks_round_a_moved_block_of_a_scene_graph(tmp_path: Path) -> None:
    room_scene().export(tmp_path / "room.glb")
    sim = MeshSimulator(BODY, scene_root=tmp_path)
    start, goal = (0.0, 0.0, 1.0), (2.8, 0.0, 1.0)
    seen = sim.reset(episode("room.glb", start, goals=(goal,), start_rotation=(0.0, -np.sqrt(0.5), 0.0, np.sqrt(0.5))))
    distance = sim.geodesic(start, [goal])
    assert 2.9 < distance < 3.4, "2.8 m, and round the block"
    positions = [seen.position]
    while not seen.done and len(positions) < 100:
        seen = sim.step(sim.expert_action(goal, 1.0))
        positions.append(seen.position)
    assert sim.geodesic(seen.position, [goal]) < 1.0
    assert all(np.hypot(x - 1.5, z - 1.0) > 0.55 for x, _, z in positions)
    plan = sim.top_down_map()
    row, column = (round((w - o) / plan.resolution) for w, o in zip((1.0, 1.5), plan.origin[::-1], strict=True))
    assert not plan.walkable[row, column]
    green = plan.rgb[row, column].astype(int)
    assert green[1] > 2 * max(green[0], green[2])
    assert 20 < plan.walkable.sum() * plan.resolution**2 < 36


def test_a_step_into_the_void_beyond_the_floor_is_stopped(tmp_path: Path) -> None:
    room_scene().export(tmp_path / "room.glb")
    sim = MeshSimulator(BODY, scene_root=tmp_path)
    sim.reset(episode("room.glb", (-2.5, 0.0, 2.5), start_rotation=(0.0, 1.0, 0.0, 0.0)))
    seen = [sim.step(1) for _ in range(4)][-1]
    assert seen.collided
    assert seen.position[2] <= 3.0


def test_a_ply_with_vertex_colours_and_z_up_is_turned_upright(tmp_path: Path) -> None:
    floor = trimesh.Trimesh(
        vertices=[(-3, -3, 0), (3, -3, 0), (3, 3, 0), (-3, 3, 0), (-3, 3, 3), (3, 3, 3)],
        faces=[[0, 1, 2], [0, 2, 3], [3, 2, 5], [3, 5, 4]],
        vertex_colors=[(40, 40, 40, 255)] * 2 + [(250, 20, 20, 255)] * 4,
        process=False,
    )
    floor.export(tmp_path / "scan.ply")
    sim = MeshSimulator(BODY, scene_root=tmp_path)
    seen = sim.reset(episode("scan.ply", (0.0, 0.0, 0.0), goals=((1.0, 0.0, 1.0),)))
    assert np.abs(seen.rgb[30, 48].astype(int) - (250, 20, 20)).max() <= 3, "the wall at y = 3 is ahead, at z = -3"
    near, far = seen.rgb[95, 48].astype(int), seen.rgb[75, 48].astype(int)
    assert near[0] < far[0], "vertex colours blend along the floor"
    assert sim.geodesic((0.0, 0.0, 0.0), [(1.0, 0.0, 1.0)]) == pytest.approx(2**0.5, rel=0.005)
    with pytest.raises(SceneError, match=r"off the walkable floor|no floor to walk on"):
        MeshSimulator(BODY, scene_root=tmp_path, up="y").reset(episode("scan.ply", (0.0, 0.0, 0.0)))


def test_an_obj_with_its_material_file_is_read(tmp_path: Path) -> None:
    quarters().save(tmp_path / "paint.png")
    (tmp_path / "room.mtl").write_text("newmtl paint\nKd 1 1 1\nmap_Kd paint.png\n")
    (tmp_path / "room.obj").write_text(
        "mtllib room.mtl\nv -1 -1 -1\nv 1 -1 -1\nv 1 1 -1\nv -1 1 -1\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        "usemtl paint\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
    )
    surface = load_surface(tmp_path / "room.obj")
    seen = Renderer(surface).render(Camera(64, 64, 90.0), (0.0, 0.0, 0.0), 0.0).rgb.astype(int)
    for row, column, expected in ((10, 10, RED), (10, 54, GREEN), (54, 10, BLUE), (54, 54, YELLOW)):
        assert np.abs(seen[row, column] - expected).max() <= 3


def test_the_floor_found_in_a_mesh_is_the_one_the_house_was_built_with(tmp_path: Path) -> None:
    house = build_house(2)
    surface = house.surface
    mesh = build_navmesh("house", surface.triangles, Renderer(surface), BODY)
    exact = house_floor(house, BODY.agent_radius)
    rows, columns = np.nonzero(exact.walkable)
    xs, zs = exact.origin[0] + columns * CELL, exact.origin[1] + rows * CELL
    agree = [is_floor(mesh, x, z) for x, z in zip(xs[::7], zs[::7], strict=True)]
    assert np.mean(agree) > 0.93
    sides = mesh.corners.reshape(-1, 4, 3)[:, [1, 3]] - mesh.corners.reshape(-1, 4, 3)[:, :1]
    assert np.prod(sides[:, :, [0, 2]].sum(axis=1), axis=1).sum() <= 1.01 * exact.walkable.sum() * CELL**2
    assert np.abs(mesh.corners[:, 1]).max() < 0.03, "rugs are a centimetre high"


def is_floor(mesh: NavMesh, x: float, z: float, y: float = 0.0) -> bool:
    return mesh.nearest((x, y, z), 1e-6, 0.1) is not None


def slab(width: float, depth: float, y: float, x: float = 0.0, z: float = 0.0) -> trimesh.Trimesh:
    box = trimesh.creation.box((width, 0.1, depth))
    box.apply_translation((x, y - 0.05, z))
    return box


def navmesh_of(*meshes: trimesh.Trimesh) -> NavMesh:
    triangles = np.concatenate([mesh.triangles for mesh in meshes]).astype(np.float32)
    return build_navmesh("test", triangles, Renderer(plain_surface(triangles)), BODY)


def walked(mesh: NavMesh, start: tuple[float, float, float], goal: tuple[float, float, float]) -> float:
    paths = NavMeshPaths(mesh)
    path = paths.path(paths.field([goal]), start)
    return polyline_length(path) if path else np.inf


def plain_surface(triangles: np.ndarray) -> Surface:
    count = len(triangles)
    return Surface(
        triangles=triangles,
        rgb=np.ones((count, 3), np.float32),
        uv=np.zeros((count, 3, 2), np.float32),
        texture=np.zeros(count, np.int32),
        atlas=build_atlas([np.full((1, 1, 3), 255, np.uint8)]),
    )


def test_storeys_without_stairs_are_islands_at_their_heights() -> None:
    mesh = navmesh_of(slab(6, 6, 0.0), slab(5, 5, 3.0))
    heights = [mesh.corners[np.repeat(mesh.islands, 4) == island, 1].mean() for island in (0, 1)]
    assert sorted(heights) == pytest.approx([0.0, 3.0], abs=0.01)
    assert walked(mesh, (1.0, 0.0, 1.0), (1.0, 3.0, 1.0)) == np.inf


def test_stairs_lead_from_storey_to_storey() -> None:
    steps = [slab(1.2, 0.3, 0.18 * (k + 1), 2.0, 1.0 - 0.3 * k) for k in range(15)]
    upper = slab(6, 2.0, 2.7, z=-4.4)
    mesh = navmesh_of(slab(8, 14, 0.0), *steps, upper)
    assert len(set(mesh.islands.tolist())) == 1
    start, top, far = (2.0, 0.0, 2.0), (2.0, 2.7, -4.5), (-2.0, 2.7, -4.5)
    assert walked(mesh, start, top) == pytest.approx(np.hypot(6.5, 2.7), rel=0.03)
    assert walked(mesh, far, start) == pytest.approx(np.hypot(6.5, 2.7) + 4.0, rel=0.15)
    pose = start
    heights = []
    for _ in range(26):
        pose, collided = mesh.step(pose, 0.0, -0.25, sliding=True)
        assert not collided
        heights.append(pose[1])
    assert pose == pytest.approx(top, abs=0.03)
    assert (np.diff(heights) >= -1e-3).all()
    assert np.diff(heights).max() < 0.4
    below = mesh.nearest((-2.0, 0.0, -4.5))
    assert below is not None
    assert below[1][1] == pytest.approx(0.0, abs=0.01), "there is floor below the upper storey"


def test_low_ceilings_and_high_steps_bound_the_floor_and_low_steps_do_not() -> None:
    assert is_floor(navmesh_of(slab(6, 6, 0.0)), 0.0, 0.0)
    low = navmesh_of(slab(6, 6, 0.0), slab(2, 2, 1.2))
    assert not is_floor(low, 0.0, 0.0)
    assert is_floor(low, 2.5, 2.5)
    step = navmesh_of(slab(6, 6, 0.0), slab(2, 2, 0.15))
    spot = step.nearest((0.0, 0.0, 0.0))
    assert spot is not None
    assert spot[1] == pytest.approx((0.0, 0.15, 0.0), abs=0.01)
    high = navmesh_of(slab(6, 6, 0.0), slab(2, 2, 0.4))
    assert not is_floor(high, 0.0, 0.0)
    assert walked(high, (-2.0, 0.0, 0.0), (2.0, 0.0, 0.0)) > 4.3, "round the block"


def test_a_floor_as_rough_as_a_scan_is_walked() -> None:
    # Two centimetres of noise on triangles of five: many of them are steeper than one can stand on.
    x, z = np.meshgrid(np.linspace(-3, 3, 121), np.linspace(-3, 3, 121), indexing="ij")
    y = np.random.default_rng(0).normal(0, 0.02, x.shape)
    index = np.arange(x.size).reshape(x.shape)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)]).reshape(-1, 3)
    rough = navmesh_of(trimesh.Trimesh(np.stack([x, y, z], axis=-1).reshape(-1, 3), faces, process=False))
    places = np.random.default_rng(1).uniform(-2.8, 2.8, (200, 2))
    assert np.mean([rough.nearest((px, 0.0, pz), 0.05, 0.2) is not None for px, pz in places]) > 0.9
    assert walked(rough, (-2.5, 0.0, -2.5), (2.5, 0.0, 2.5)) == pytest.approx(np.hypot(5, 5), rel=0.05)


def test_gentle_slopes_are_walked_and_steep_ones_are_not() -> None:
    def ramp(rise: float) -> trimesh.Trimesh:
        return quad([(-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, rise, -4.0), (-1.0, rise, -4.0)])

    gentle = navmesh_of(slab(2, 4, 0.0, z=2.0), ramp(1.5))
    # As Detour does: straight from bend to bend, and there is none here.
    assert walked(gentle, (0.0, 0.0, 2.0), (0.0, 1.2, -3.2)) == pytest.approx(np.hypot(5.2, 1.2), rel=0.01)
    for z in (-0.5, -1.7, -3.2):
        spot = gentle.nearest((0.0, -z * 0.375, z))
        assert spot is not None
        assert spot[1][1] == pytest.approx(-z * 0.375, abs=0.03)
    steep = navmesh_of(slab(2, 4, 0.0, z=2.0), ramp(6.0))
    assert not is_floor(steep, 0.0, -1.0, 1.5)


def test_paths_in_a_scan_are_as_short_as_in_the_house_it_is_of() -> None:
    house = build_house(2)
    mesh = build_navmesh("house", house.surface.triangles, Renderer(house.surface), BODY)
    exact = VisibilityGraph(house_floor(house, BODY.agent_radius))
    paths, rng = NavMeshPaths(mesh), np.random.default_rng(0)
    rows, columns = np.nonzero(exact.floor.walkable)
    longer = []
    for goal in rng.integers(0, len(rows), 4):
        x, z = exact.floor.origin[0] + columns[goal] * CELL, exact.floor.origin[1] + rows[goal] * CELL
        field, near = exact.field([(x, z)]), paths.field([(x, 0.0, z)])
        for start in rng.integers(0, len(rows), 12):
            here = exact.floor.origin[0] + columns[start] * CELL, exact.floor.origin[1] + rows[start] * CELL
            true = exact.distance(field, here)
            if 1.0 < true < np.inf:
                longer.append(polyline_length(paths.path(near, (here[0], 0.0, here[1]))) / true - 1)
    assert len(longer) > 30
    assert np.mean(np.abs(longer)) < 0.01
    assert max(longer) < 0.05


@pytest.mark.parametrize("name", ["broken.glb", "broken.ply", "broken.obj", "broken.gltf"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 64, b"glTF\x02\x00\x00\x00\xff\xff\xff\x7f", b"ply\nformat ascii 1.0\n"]
)
def test_a_corrupt_mesh_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SceneError, match=name.replace(".", r"\.")) as caught:
        MeshSimulator(BODY, scene_root=tmp_path).reset(episode(name))
    assert "\n" not in str(caught.value)


def test_a_glb_cut_off_in_the_middle_is_one_sentence(tmp_path: Path) -> None:
    data = room_scene().export(file_type="glb")
    assert isinstance(data, bytes)
    for share in (0.3, 0.6, 0.95):
        (tmp_path / "cut.glb").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(SceneError, match=r"cut\.glb"):
            MeshSimulator(BODY, scene_root=tmp_path).reset(episode("cut.glb"))


def test_a_glb_with_a_broken_texture_is_one_sentence(tmp_path: Path) -> None:
    data = room_scene().export(file_type="glb")
    assert isinstance(data, bytes)
    at = data.index(b"IDAT") + 8
    (tmp_path / "room.glb").write_bytes(data[:at] + b"\xff" * 40 + data[at + 40 :])
    with pytest.raises(SceneError, match=r"texture of the scene .*room\.glb") as caught:
        MeshSimulator(BODY, scene_root=tmp_path).reset(episode("room.glb"))
    assert "\n" not in str(caught.value)


def test_a_mesh_without_surface_or_floor_is_one_sentence(tmp_path: Path) -> None:
    trimesh.PointCloud(np.random.default_rng(0).uniform(size=(50, 3))).export(tmp_path / "points.ply")
    wall = quad([(-3.0, 0.0, -3.0), (3.0, 0.0, -3.0), (3.0, 3.0, -3.0), (-3.0, 3.0, -3.0)])
    wall.export(tmp_path / "wall.ply")
    huge = quad([(-3e4, 0.0, 3e4), (3e4, 0.0, 3e4), (3e4, 0.0, -3e4), (-3e4, 0.0, -3e4)])
    huge.export(tmp_path / "huge.ply")
    sim = MeshSimulator(BODY, scene_root=tmp_path, up="y")
    for name, complaint in (
        ("points.ply", "no triangles"),
        ("wall.ply", "no floor to walk on"),
        ("huge.ply", "60000 x 0 x 60000 m"),
        ("missing.glb", "no scene file"),
        ("room.fbx", "none of .glb"),
    ):
        with pytest.raises(SceneError, match=complaint) as caught:
            sim.reset(episode(name))
        assert "\n" not in str(caught.value)


def test_broken_corners_are_left_out_and_the_rest_is_shown(tmp_path: Path) -> None:
    # A PLY written by hand: one triangle with a corner that is not a number, and a floor.
    corners = [(-3, 0, 3), (3, 0, 3), (3, 0, -3), (-3, 0, -3), (float("nan"), 1, 1)]
    header = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 3\nproperty list uchar int vertex_indices\nend_header\n"
    )
    body = b"".join(struct.pack("<3f", *corner) for corner in corners)
    body += b"".join(struct.pack("<B3i", 3, *face) for face in ((0, 1, 2), (0, 2, 3), (0, 1, 4)))
    (tmp_path / "scan.ply").write_bytes(header.encode() + body)
    assert len(load_surface(tmp_path / "scan.ply").triangles) == 2
    assert MeshSimulator(BODY, scene_root=tmp_path).reset(episode("scan.ply")).rgb.any()
