"""Read GLB, PLY and OBJ files into a `Surface`: one list of triangles in world coordinates with their looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from navila.errors import SceneError
from numpy.typing import NDArray
from PIL import Image

from navila_sim_mesh.gltf import read_gltf
from navila_sim_mesh.navmesh import NavMesh
from navila_sim_mesh.parts import Images, Part
from navila_sim_mesh.renderer import LIGHT, Surface

Up = Literal["auto", "y", "z"]
SUFFIXES = (".glb", ".gltf", ".ply", ".obj")
#: How much more level surface a storey must have along z than along y for z to be the vertical axis.
_SURE = 1.5


def load_surface(path: Path, up: Up = "y", mesh: NavMesh | None = None) -> Surface:
    """Read a mesh file; node transforms are applied, and where z is the vertical axis, it becomes y.

    Colours come from the base colour texture and factor and from vertex or face colours, else they are grey. Factors
    and vertex colours are shown as they stand, without conversion from linear light, as habitat does. `mesh` is the
    scene's navigation mesh, by which `up="auto"` is decided where there is one.

    Raises:
        SceneError: the file is missing, of another format, corrupt or without triangles.
    """
    images = Images()
    parts = [part for part in _read(path, images) if len(part.triangles)]
    triangles = np.concatenate([part.triangles for part in parts]) if parts else np.zeros((0, 3, 3), np.float32)
    keep = _sound(triangles)
    if not keep.any():
        raise SceneError(f"The scene {path} has no triangles; give a mesh with a surface, not points or lines.")
    triangles = triangles[keep]
    if (vertical_axis(triangles, mesh) if up == "auto" else up) == "z":
        triangles = np.stack([triangles[..., 0], triangles[..., 2], -triangles[..., 1]], axis=-1)
    triangles = triangles.astype(np.float32)
    counts = [len(part.triangles) for part in parts]
    rgb = np.concatenate([part.rgb for part in parts])[keep]
    shaded = np.repeat([part.shaded for part in parts], counts)[keep]
    rgb[shaded] *= _light(triangles[shaded])[:, None, None]
    try:
        atlas = images.atlas()
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
        texture=np.repeat(np.array([part.texture for part in parts], np.int32), counts)[keep],
        atlas=atlas,
    )


def vertical_axis(triangles: NDArray[np.floating[Any]], mesh: NavMesh | None) -> Literal["y", "z"]:
    """Which axis of the triangles (F, 3, 3) points up; y, as glTF has it, unless z is clearly meant.

    With a navigation mesh, whose y points up, that is the axis with which the mesh lies within the scene. Without,
    floors decide: level surface gathers at a few heights, more than walls do at any one place.
    """
    low, high = triangles.min(axis=(0, 1)).astype(np.float64), triangles.max(axis=(0, 1)).astype(np.float64)
    if mesh is not None:
        inner = mesh.corners.min(axis=0), mesh.corners.max(axis=0)
        turned = np.array([low[0], low[2], -high[1]]), np.array([high[0], high[2], -low[1]])
        outside = [
            float(np.maximum(a - inner[0], 0.0).sum() + np.maximum(inner[1] - b, 0.0).sum())
            for a, b in ((low, high), turned)
        ]
        if abs(outside[0] - outside[1]) > 0.5:
            return "y" if outside[0] < outside[1] else "z"
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area = np.linalg.norm(normal, axis=1)
    most = []
    for axis in (1, 2):
        level = np.abs(normal[:, axis]) > 0.95 * area
        place = (triangles[level, 0, axis] - low[axis]) / 0.25
        most.append(np.bincount(place.astype(np.int64), area[level]).max() if level.any() else 0.0)
    return "z" if most[1] > _SURE * most[0] and high[2] - low[2] < high[1] - low[1] else "y"


def _read(path: Path, images: Images) -> list[Part]:
    if path.suffix.lower() not in SUFFIXES:
        raise SceneError(f"The scene {path} is none of {', '.join(SUFFIXES)}; convert it or write houses/<seed>.")
    if not path.is_file():
        raise SceneError(
            f"There is no scene file {path}; check the scene id and the scene root (`navila data` takes --scene-root)."
        )
    if path.suffix.lower() in (".glb", ".gltf"):
        return read_gltf(path, images)
    # trimesh takes a while to import.
    from navila_sim_mesh.other_formats import read_other

    return read_other(path, images)


def _sound(triangles: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Which triangles are finite and have an area."""
    finite = np.asarray(np.isfinite(triangles).all(axis=(1, 2)))
    whole = np.nan_to_num(triangles, nan=0.0, posinf=0.0, neginf=0.0)
    edges = whole[:, 1:] - whole[:, :1]
    return finite & (np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) > 1e-12)


def _light(triangles: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """Brightness (F,) of faces seen from either side: a mesh from outside may be wound either way."""
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return 0.6 + 0.4 * np.abs(normal @ LIGHT)
