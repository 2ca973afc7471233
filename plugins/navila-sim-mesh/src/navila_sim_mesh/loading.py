"""Read GLB, PLY and OBJ files into a `Surface`: one list of triangles in world coordinates with their looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import trimesh
from navila.errors import SceneError
from numpy.typing import NDArray
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import MultiMaterial, PBRMaterial

from navila_sim_mesh.renderer import Surface
from navila_sim_mesh.textures import MAX_LEVELS, build_atlas

SUFFIXES = (".glb", ".gltf", ".ply", ".obj")
#: Textures are made smaller together until they hold at most so many texels (four bytes each).
MAX_TEXELS = 96_000_000
#: Colour of a mesh that has none.
GREY = (0.7, 0.7, 0.7)
#: Towards the light that shades meshes without texture or vertex colours; the others carry their light in the colour.
_LIGHT = np.array([0.35, 0.85, 0.40]) / np.linalg.norm([0.35, 0.85, 0.40])


def load_surface(path: Path, up: Literal["y", "z"] = "y") -> Surface:
    """Read a mesh file; node transforms are applied and, with `up="z"`, z becomes y.

    Colours come from the base colour texture and factor, else from vertex or face colours, else they are grey. Factors
    and vertex colours are shown as they stand, without conversion from linear light, as habitat and trimesh do.

    Raises:
        SceneError: the file is missing, of another format, corrupt or without triangles.
    """
    scene = _read(path)
    parts: list[_Part] = []
    images = _Images()
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        geometry = scene.geometry.get(name)
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_part(geometry, np.asarray(matrix, np.float64), images))
    triangles = np.concatenate([part.triangles for part in parts]) if parts else np.zeros((0, 3, 3))
    keep = _sound(triangles)
    if not keep.any():
        raise SceneError(f"The scene {path} has no triangles; give a mesh with a surface, not points or lines.")
    if up == "z":
        triangles = np.stack([triangles[..., 0], triangles[..., 2], -triangles[..., 1]], axis=-1)
    rgb = np.concatenate([part.rgb for part in parts])[keep]
    shaded = np.concatenate([part.shaded for part in parts])[keep]
    triangles = triangles[keep].astype(np.float32)
    rgb[shaded] *= _light(triangles[shaded])[:, None, None]
    try:
        pictures = images.within_budget()
    # Pillow decodes only now, and says what is wrong with a picture in many ways.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SceneError(
            f"A texture of the scene {path} cannot be decoded ({error}); export the scene again."
        ) from error
    # Most meshes have one colour a face; only true vertex colours pay for blending them in every pixel.
    flat = bool((rgb == rgb[:, :1]).all())
    return Surface(
        triangles=triangles,
        rgb=(rgb[:, 0] if flat else rgb).astype(np.float32),
        uv=np.concatenate([part.uv for part in parts])[keep].astype(np.float32),
        texture=np.concatenate([part.texture for part in parts])[keep],
        atlas=build_atlas(pictures),
    )


class _Part:
    """What one mesh of the file adds; F triangles."""

    def __init__(
        self,
        triangles: NDArray[np.float64],
        rgb: NDArray[np.float64],
        uv: NDArray[np.float64],
        texture: int,
        *,
        shaded: bool,
    ) -> None:
        count = len(triangles)
        self.triangles = triangles
        self.rgb = np.broadcast_to(rgb, (count, 3, 3))
        self.uv = uv
        self.texture = np.full(count, texture, np.int32)
        self.shaded = np.full(count, shaded, np.bool_)


class _Images:
    """The distinct textures of a file; number 0 is plain white, for what has none."""

    def __init__(self) -> None:
        self._images: list[Image.Image] = [Image.new("RGB", (1, 1), (255, 255, 255))]
        self._index: dict[int, int] = {}

    def add(self, image: Image.Image) -> int:
        if id(image) not in self._index:
            self._index[id(image)] = len(self._images)
            self._images.append(image)
        return self._index[id(image)]

    def within_budget(self) -> list[NDArray[np.uint8]]:
        """All images as RGB with sides that are powers of two, shrunk together where they would not fit."""
        limit = 1 << (MAX_LEVELS - 1)
        while True:
            sizes = [
                (min(_power_of_two(image.width), limit), min(_power_of_two(image.height), limit))
                for image in self._images
            ]
            if sum(width * height for width, height in sizes) <= MAX_TEXELS or limit <= 64:
                break
            limit //= 2
        plain = [image.convert("RGB") for image in self._images]
        return [
            np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))
            for image, size in zip(plain, sizes, strict=True)
        ]


def _read(path: Path) -> trimesh.Scene:
    if path.suffix.lower() not in SUFFIXES:
        raise SceneError(f"The scene {path} is none of {', '.join(SUFFIXES)}; convert it or write houses/<seed>.")
    if not path.is_file():
        raise SceneError(f"There is no scene file {path}; check the scene id and the scene root.")
    try:
        return trimesh.load_scene(path, process=False)
    except MemoryError:
        raise
    # Parsers of binary formats fail in every imaginable way on corrupt bytes.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SceneError(f"The scene {path} cannot be read ({reason}); it is corrupt or not of its format.") from error


def _part(mesh: trimesh.Trimesh, matrix: NDArray[np.float64], images: _Images) -> _Part:
    vertices = np.asarray(mesh.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    faces = np.asarray(mesh.faces, np.int64)
    triangles = vertices[faces]
    no_uv = np.zeros((len(faces), 3, 2))
    visual: Any = mesh.visual
    if isinstance(visual, TextureVisuals):
        image, factor = _base_colour(visual.material)
        uv = np.asarray(visual.uv, np.float64) if visual.uv is not None else np.zeros((0, 2))
        if image is not None and len(uv) == len(vertices):
            # trimesh counts v from the bottom row, as OBJ does; images count from the top.
            corners = np.nan_to_num(uv[faces] * (1.0, -1.0) + (0.0, 1.0))
            return _Part(triangles, factor, corners, images.add(image), shaded=False)
        return _Part(triangles, factor, no_uv, 0, shaded=True)
    kind = getattr(visual, "kind", None)
    if kind == "vertex":
        colours = np.asarray(visual.vertex_colors, np.float64)[:, :3] / 255
        return _Part(triangles, colours[faces], no_uv, 0, shaded=False)
    if kind == "face":
        colours = np.asarray(visual.face_colors, np.float64)[:, None, :3] / 255
        return _Part(triangles, colours, no_uv, 0, shaded=False)
    return _Part(triangles, np.array(GREY), no_uv, 0, shaded=True)


def _base_colour(material: Any) -> tuple[Image.Image | None, NDArray[np.float64]]:
    """Texture, if any, and the colour (3,) in 0..1 it is multiplied with."""
    if isinstance(material, MultiMaterial):
        material = material.materials[0] if material.materials else None
    if isinstance(material, PBRMaterial):
        image, factor = material.baseColorTexture, material.baseColorFactor
    else:
        image, factor = getattr(material, "image", None), getattr(material, "diffuse", None)
        if image is not None:
            factor = None
    if not isinstance(image, Image.Image):
        image = None
    if factor is None:
        return image, np.ones(3) if image is not None else np.array(GREY)
    colour = np.atleast_1d(np.asarray(factor))
    scale = 255.0 if colour.dtype.kind in "ui" or float(colour.max()) > 1.0 else 1.0
    return image, np.clip(colour[:3] / scale, 0.0, 1.0)


def _power_of_two(side: int) -> int:
    return 1 << max(0, (side - 1).bit_length())


def _sound(triangles: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which triangles are finite and have an area."""
    finite = np.asarray(np.isfinite(triangles).all(axis=(1, 2)))
    whole = np.nan_to_num(triangles, nan=0.0, posinf=0.0, neginf=0.0)
    edges = whole[:, 1:] - whole[:, :1]
    return finite & (np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) > 1e-12)


def _light(triangles: NDArray[np.float32]) -> NDArray[np.floating]:
    """Brightness (F,) of faces seen from either side: a mesh from outside may be wound either way."""
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return 0.6 + 0.4 * np.abs(normal @ _LIGHT)
