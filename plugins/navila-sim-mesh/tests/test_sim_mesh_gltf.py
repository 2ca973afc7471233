"""glTF scenes in the layouts of tools from outside: what is read, how it looks, and what is refused in one sentence."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.errors import SceneError
from navila.simulation import Embodiment, Episode
from navila_sim_mesh.loading import load_surface
from navila_sim_mesh.renderer import Camera, Renderer, Surface
from navila_sim_mesh.simulator import MeshSimulator
from PIL import Image

COMPONENTS = {"b": 5120, "B": 5121, "h": 5122, "H": 5123, "I": 5125, "f": 5126}
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
#: Two triangles of a wall at z = -2, 2 m x 2 m round the axis, and what paints it from left to right and top to bottom.
WALL = np.array([(-1, -1, -2), (1, -1, -2), (1, 1, -2), (-1, 1, -2)], np.float32)
WALL_UV = np.array([(0, 1), (1, 1), (1, 0), (0, 0)], np.float32)
TWO = [0, 1, 2, 0, 2, 3]


class Gltf:
    """A glTF file while it is put together."""

    def __init__(self) -> None:
        self.data = b""
        self.facts: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}]}
        self.facts |= {name: [] for name in ("nodes", "meshes", "accessors", "bufferViews", "materials", "textures")}
        self.facts |= {"images": [], "samplers": []}

    def add(self, kind: str, fact: dict[str, Any]) -> int:
        self.facts[kind].append(fact)
        return len(self.facts[kind]) - 1

    def view(self, data: bytes, **more: Any) -> int:
        at = len(self.data)
        self.data += data + b"\0" * (-len(data) % 4)
        return self.add("bufferViews", {"buffer": 0, "byteOffset": at, "byteLength": len(data), **more})

    def accessor(self, values: Any, code: str = "f", **more: Any) -> int:
        array = np.array(values, np.dtype(code).newbyteorder("<"))
        array = array[:, None] if array.ndim == 1 else array
        fact = {"bufferView": self.view(array.tobytes()), "componentType": COMPONENTS[code], "count": len(array)}
        return self.add("accessors", fact | {"type": KINDS[array.shape[1]]} | more)

    def mesh(self, *primitives: dict[str, Any], **node: Any) -> None:
        self.add("nodes", {"mesh": self.add("meshes", {"primitives": list(primitives)}), **node})

    def picture(self, kind: str = "PNG", **texture: Any) -> int:
        """The texture red, green over blue, yellow."""
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[:32, :32], pixels[:32, 32:], pixels[32:, :32], pixels[32:, 32:] = RED, GREEN, BLUE, YELLOW
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, kind, quality=95)
        source = self.add("images", {"bufferView": self.view(out.getvalue()), "mimeType": f"image/{kind.lower()}"})
        return self.add("textures", {"source": source, **texture})

    def painted(self, texture: int, **reference: Any) -> int:
        metal = {"baseColorTexture": {"index": texture, **reference}}
        return self.add("materials", {"pbrMetallicRoughness": metal, "doubleSided": True})

    def wall(self, **more: Any) -> dict[str, Any]:
        attributes = {"POSITION": self.accessor(WALL), "TEXCOORD_0": self.accessor(WALL_UV)}
        return {"attributes": attributes, "indices": self.accessor(TWO, "H"), **more}

    def glb(self) -> bytes:
        facts = self.facts | {"buffers": [{"byteLength": len(self.data)}]}
        text = json.dumps(facts).encode()
        text += b" " * (-len(text) % 4)
        total = 28 + len(text) + len(self.data)
        parts = struct.pack("<4sII", b"glTF", 2, total), struct.pack("<I4s", len(text), b"JSON"), text
        return b"".join(parts) + struct.pack("<I4s", len(self.data), b"BIN\0") + self.data

    def load(self, folder: Path, name: str = "scene.glb") -> Surface:
        (folder / name).write_bytes(self.glb())
        return load_surface(folder / name)


def colours(surface: Surface) -> list[tuple[int, ...]]:
    """What the four quarters of the wall show, from left to right and top to bottom."""
    seen = Renderer(surface).render(Camera(64, 64, 90.0), (0.0, 0.0, 0.0), 0.0).rgb
    return [tuple(seen[row, column].tolist()) for row in (24, 40) for column in (24, 40)]


def close(found: list[tuple[int, ...]], *expected: tuple[int, ...]) -> bool:
    return bool(np.abs(np.array(found) - np.array(expected)).max() <= 6)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_textures_inside_a_glb_are_seen_the_right_way_up(tmp_path: Path, kind: str) -> None:
    file = Gltf()
    file.mesh(file.wall(material=file.painted(file.picture(kind))))
    assert close(colours(file.load(tmp_path)), RED, GREEN, BLUE, YELLOW)


@pytest.mark.parametrize("code", ["B", "H", "I", None])
def test_every_kind_of_index_gives_the_same_triangles(tmp_path: Path, code: str | None) -> None:
    file = Gltf()
    attributes = {"POSITION": file.accessor(WALL if code else WALL[TWO])}
    file.mesh({"attributes": attributes} | ({"indices": file.accessor(TWO, code)} if code else {}))
    np.testing.assert_array_equal(file.load(tmp_path).triangles, WALL[TWO].reshape(2, 3, 3))


def test_strips_and_fans_are_triangles_and_points_and_lines_are_passed_over(tmp_path: Path) -> None:
    for mode, order in ((5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])):
        file = Gltf()
        shared = {"attributes": {"POSITION": file.accessor(WALL)}, "indices": file.accessor(order, "H")}
        file.mesh(shared | {"mode": mode}, shared | {"mode": 0}, shared | {"mode": 3})
        triangles = file.load(tmp_path).triangles
        normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        np.testing.assert_allclose(normal, [(0, 0, 4), (0, 0, 4)], err_msg=f"mode {mode}")


def test_interleaved_and_quantised_attributes_are_read(tmp_path: Path) -> None:
    file = Gltf()
    rows = b"".join(
        struct.pack("<3fHH", *p, *(int(65535 * c) for c in uv)) for p, uv in zip(WALL, WALL_UV, strict=True)
    )
    view = file.view(rows, byteStride=16)
    facts = {"bufferView": view, "count": 4}
    place = file.add("accessors", {**facts, "componentType": 5126, "type": "VEC3"})
    uv = file.add("accessors", {**facts, "componentType": 5123, "type": "VEC2", "byteOffset": 12, "normalized": True})
    primitive = {"attributes": {"POSITION": place, "TEXCOORD_0": uv}, "indices": file.accessor(TWO, "B")}
    file.mesh(primitive | {"material": file.painted(file.picture())})
    assert close(colours(file.load(tmp_path)), RED, GREEN, BLUE, YELLOW)

    small = Gltf()
    small.facts["extensionsRequired"] = ["KHR_mesh_quantization"]
    attributes = {"POSITION": small.accessor(np.rint(WALL / 2 * 32767), "h", normalized=True)}
    small.mesh({"attributes": attributes, "indices": small.accessor(TWO, "B")}, scale=[2, 2, 2])
    np.testing.assert_allclose(small.load(tmp_path).triangles, WALL[TWO].reshape(2, 3, 3), atol=1e-4)


def test_sparse_accessors_replace_some_elements(tmp_path: Path) -> None:
    for bare in (False, True):
        file = Gltf()
        base = np.zeros_like(WALL) if bare else WALL * (1, 1, 3)
        rows = [0, 1, 2, 3] if bare else [1, 3]
        sparse = {
            "count": len(rows),
            "indices": {"bufferView": file.view(bytes(rows)), "componentType": 5121},
            "values": {"bufferView": file.view(WALL[rows].tobytes())},
        }
        place = file.accessor(base, sparse=sparse)
        if bare:
            del file.facts["accessors"][place]["bufferView"]
        file.mesh({"attributes": {"POSITION": place}, "indices": file.accessor(TWO, "B")})
        expected = WALL.copy()
        expected[[0, 2]] *= (1, 1, 1 if bare else 3)
        np.testing.assert_array_equal(file.load(tmp_path).triangles, expected[TWO].reshape(2, 3, 3))


def test_nodes_are_placed_by_their_ancestors_and_mirrors_keep_the_front(tmp_path: Path) -> None:
    file = Gltf()
    half = math.sqrt(0.5)
    file.add("nodes", {"translation": [1, 2, 3], "children": [1, 3]})
    file.add("nodes", {"rotation": [0, half, 0, half], "scale": [2, 1, 1], "children": [2]})
    file.mesh({"attributes": {"POSITION": file.accessor(WALL)}, "indices": file.accessor(TWO, "B")})
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[:3, 3] = (5, 0, 0)
    file.add("nodes", {"mesh": 0, "matrix": mirror.T.reshape(-1).tolist()})
    file.mesh({"attributes": {"POSITION": file.accessor(WALL + 100)}})
    found = file.load(tmp_path).triangles
    assert len(found) == 4, "the last node is in no scene"
    # A quarter turn to the left takes -z to -x and x to -z.
    turned = np.stack([WALL[:, 2], WALL[:, 1], -2 * WALL[:, 0]], axis=1) + np.array([1, 2, 3])
    np.testing.assert_allclose(found[:2], turned[TWO].reshape(2, 3, 3), atol=1e-6)
    normal = np.cross(found[:, 1] - found[:, 0], found[:, 2] - found[:, 0])
    np.testing.assert_allclose(normal[2:], [(0, 0, 4), (0, 0, 4)], atol=1e-5)
    assert sorted({x for x in found[2:, :, 0].reshape(-1).tolist()}) == [5.0, 7.0]


def test_texture_transforms_second_coordinates_and_clamping_are_heeded(tmp_path: Path) -> None:
    file = Gltf()
    shift = {"KHR_texture_transform": {"offset": [0.5, 0], "scale": [1, 1]}}
    file.mesh(file.wall(material=file.painted(file.picture(), extensions=shift)))
    assert close(colours(file.load(tmp_path)), GREEN, RED, YELLOW, BLUE)
    file = Gltf()
    # A quarter turn about the corner, then shifted back onto the picture.
    turn = {"KHR_texture_transform": {"rotation": math.pi / 2, "offset": [0, 1]}}
    file.mesh(file.wall(material=file.painted(file.picture(), extensions=turn)))
    assert close(colours(file.load(tmp_path)), BLUE, RED, YELLOW, GREEN)
    file = Gltf()
    wall = file.wall(material=file.painted(file.picture(), texCoord=1))
    wall["attributes"]["TEXCOORD_1"] = file.accessor(WALL_UV[:, ::-1])
    file.mesh(wall)
    assert close(colours(file.load(tmp_path)), RED, BLUE, GREEN, YELLOW)
    file = Gltf()
    sampler = file.add("samplers", {"wrapS": 33071, "wrapT": 33071})
    wall = file.wall(material=file.painted(file.picture(sampler=sampler)))
    wall["attributes"]["TEXCOORD_0"] = file.accessor(WALL_UV + 1)
    file.mesh(wall)
    assert close(colours(file.load(tmp_path)), YELLOW, YELLOW, YELLOW, YELLOW)


def test_colours_of_corners_and_factors_multiply_the_texture(tmp_path: Path) -> None:
    for code, top, width in (("B", 255, 4), ("H", 65535, 3), ("f", 1, 3)):
        file = Gltf()
        paint = file.add("materials", {"pbrMetallicRoughness": {"baseColorFactor": [1, 0.5, 0.5, 1]}})
        wall = file.wall(material=paint)
        shade = np.array([[0, 1, 1, 1]] * 2 + [[1, 1, 1, 1]] * 2)[:, :width] * top
        wall["attributes"]["COLOR_0"] = file.accessor(shade, code, normalized=code != "f")
        file.mesh(wall)
        seen = np.array(colours(file.load(tmp_path)))
        assert (np.abs(seen[:, 1:] - 127) <= 1).all(), code
        assert (seen[:2, 0] > 150).all(), code
        assert (seen[2:, 0] < 110).all(), code


def test_a_textured_material_without_coordinates_shows_its_factor(tmp_path: Path) -> None:
    file = Gltf()
    paint = file.painted(file.picture())
    file.facts["materials"][paint]["pbrMetallicRoughness"]["baseColorFactor"] = [0, 0, 1, 1]
    wall = file.wall(material=paint)
    del wall["attributes"]["TEXCOORD_0"]
    file.mesh(wall, file.wall(material=file.painted(file.picture())))
    surface = file.load(tmp_path)
    assert (surface.rgb[:2, :2] == 0).all()
    assert (surface.rgb[:2, 2] > 0.5).all()
    assert set(surface.texture.tolist()) == {0, 1}


def test_a_gltf_takes_its_data_from_data_uris_and_files_beside_it(tmp_path: Path) -> None:
    file = Gltf()
    file.mesh(file.wall(material=file.painted(file.picture())))
    facts = file.facts | {"buffers": [{"byteLength": len(file.data), "uri": "my%20scene.bin"}]}
    view = facts["bufferViews"][facts["images"][0].pop("bufferView")]
    picture = file.data[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    facts["images"][0]["uri"] = "data:image/png;base64," + base64.b64encode(picture).decode()
    (tmp_path / "my scene.bin").write_bytes(file.data)
    (tmp_path / "scene.gltf").write_text(json.dumps(facts))
    assert close(colours(load_surface(tmp_path / "scene.gltf")), RED, GREEN, BLUE, YELLOW)
    for uri, complaint in (
        ("../secret.bin", "not beside it"),
        ("https://example.org/a.bin", "not beside it"),
        ("gone.bin", r"'gone\.bin' it refers to cannot be read"),
    ):
        facts["buffers"][0]["uri"] = uri
        (tmp_path / "scene.gltf").write_text(json.dumps(facts))
        with pytest.raises(SceneError, match=complaint):
            load_surface(tmp_path / "scene.gltf")


def refusal(folder: Path, file: Gltf) -> str:
    with pytest.raises(SceneError, match=r"scene\.glb") as caught:
        file.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_compressed_names_the_extension_and_the_tool_that_undoes_it(tmp_path: Path) -> None:
    for required in (True, False):
        file = Gltf()
        wall = file.wall()
        wall["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
        file.mesh(wall)
        file.facts["extensionsRequired"] = ["KHR_draco_mesh_compression"] if required else []
        said = refusal(tmp_path, file)
        assert "KHR_draco_mesh_compression" in said
        assert "gltf-transform/cli copy" in said
    file = Gltf()
    texture = file.add("textures", {"extensions": {"KHR_texture_basisu": {"source": 0}}})
    file.mesh(file.wall(material=file.painted(texture)))
    assert "ktxdecompress" in refusal(tmp_path, file)
    file = Gltf()
    file.mesh(file.wall())
    file.facts["extensionsRequired"] = ["EXT_meshopt_compression"]
    assert "EXT_meshopt_compression" in refusal(tmp_path, file)
    file.facts["extensionsRequired"] = ["VENDOR_voxels"]
    assert "VENDOR_voxels" in refusal(tmp_path, file)


def broken(name: str) -> Gltf:
    file = Gltf()
    file.mesh(file.wall(material=file.painted(file.picture())))
    facts = file.facts
    if name == "corner":
        facts["meshes"][0]["primitives"][0]["indices"] = file.accessor([0, 1, 9], "B")
    elif name == "beyond":
        facts["accessors"][0]["count"] = 5000
    elif name == "view":
        facts["bufferViews"][0]["byteLength"] = 10**6
    elif name == "circle":
        facts["nodes"][0]["children"] = [0]
    elif name == "nowhere":
        facts["nodes"][0]["mesh"] = 7
    elif name == "version":
        facts["asset"]["version"] = "1.0"
    elif name == "kind":
        facts["accessors"][0]["componentType"] = 5130
    elif name == "picture":
        facts["images"][0]["bufferView"] = facts["accessors"][0]["bufferView"]
    elif name == "empty":
        facts["nodes"] = [{}]
    return file


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("corner", "corner 9 of 4"),
        ("beyond", "5000 elements"),
        ("view", "lie beyond the end"),
        ("circle", "its own ancestor"),
        ("nowhere", "refers to what it does not hold"),
        ("version", "glTF 1.0, not 2.0"),
        ("kind", "refers to what it does not hold"),
        ("picture", "cannot be decoded"),
        ("empty", "no triangles"),
    ],
)
def test_a_broken_glb_is_one_sentence(tmp_path: Path, name: str, complaint: str) -> None:
    assert complaint in refusal(tmp_path, broken(name))


def test_random_damage_is_read_or_refused_but_never_a_crash(tmp_path: Path) -> None:
    file = Gltf()
    file.mesh(file.wall(material=file.painted(file.picture())))
    whole = file.glb()
    rng = np.random.default_rng(0)
    said = []
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 1800), 3):
            data[at] = rng.integers(0, 256)
        (tmp_path / "scene.glb").write_bytes(bytes(data[: rng.integers(len(data) // 2, len(data) + 200)]))
        try:
            load_surface(tmp_path / "scene.glb")
        except SceneError as error:
            said.append(str(error))
    assert len(said) > 50
    assert not any("\n" in sentence for sentence in said)


def house(*, z_up: bool) -> Gltf:
    """Two storeys with stairs, thick as a scan is, in the axes of glTF or of Matterport."""
    boxes = [((-4, -0.1, -4), (4, 0, 4)), ((-4, 2.7, -4), (4, 2.8, 0.4)), ((-4.1, 0, -4), (-4, 5, 4))]
    boxes += [((4, 0, -4), (4.1, 5, 4)), ((-4, 0, -4.1), (4, 5, -4)), ((-4, 0, 4), (4, 5, 4.1))]
    boxes += [((1, 0, 3.4 - 0.2 * k), (2.5, 0.175 * (k + 1), 3.6 - 0.2 * k)) for k in range(16)]
    file = Gltf()
    corner = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))]
    paint = file.painted(file.picture("JPEG"))
    for low, high in boxes:
        points = np.array(low) + corner * (np.array(high) - np.array(low))
        if z_up:
            points = np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)
        attributes = {"POSITION": file.accessor(points), "TEXCOORD_0": file.accessor(points[:, :2])}
        file.mesh({"attributes": attributes, "indices": file.accessor(np.ravel(faces), "B"), "material": paint})
    file.facts["scenes"] = [{"nodes": list(range(len(boxes)))}]
    return file


@pytest.mark.parametrize("z_up", [False, True])
def test_the_expert_climbs_the_stairs_of_a_house_from_outside(tmp_path: Path, z_up: bool) -> None:
    (tmp_path / "mp3d" / "house").mkdir(parents=True)
    (tmp_path / "mp3d" / "house" / "house.glb").write_bytes(house(z_up=z_up).glb())
    sim = MeshSimulator(Embodiment(width=32, height=32, depth=True), scene_root=tmp_path)
    goal = (-3.0, 2.8, -3.0)
    episode = Episode(
        episode_id="1",
        scene_id="mp3d/house/house.glb",
        start_position=(-2.0, 0.0, 3.0),
        start_rotation=(0.0, 0.0, 0.0, 1.0),
        goals=(goal,),
    )
    seen = sim.reset(episode)
    assert seen.depth is not None
    assert seen.depth[16, 16] == pytest.approx(7.0, abs=0.05), "the far wall"
    distance = sim.geodesic(seen.position, [goal])
    assert 9.5 < distance < 14, "up the stairs, not through the ceiling"
    path, walked = sim.shortest_path(seen.position, goal), 0.0
    assert path[0] == seen.position
    assert path[-1] == pytest.approx(goal, abs=0.02)
    steps, last = 0, seen.position
    while not seen.done and steps < 200:
        seen = sim.step(sim.expert_action(goal, 0.5))
        steps, walked, last = steps + 1, walked + math.dist(last, seen.position), seen.position
    assert seen.done
    assert seen.position[1] == pytest.approx(2.8, abs=0.02)
    assert sim.geodesic(seen.position, [goal]) < 0.5
    assert walked < 1.15 * distance
    upstairs = sim.top_down_map()
    row, column = (
        round((w - o) / upstairs.resolution) for w, o in zip((3.0, -2.0), upstairs.origin[::-1], strict=True)
    )
    assert not (0 <= row < upstairs.walkable.shape[0] and upstairs.walkable[row, column]), "the start is a storey below"
