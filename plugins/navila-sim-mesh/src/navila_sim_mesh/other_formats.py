"""Read PLY and OBJ files with trimesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from navila.errors import SceneError
from numpy.typing import NDArray
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import MultiMaterial, PBRMaterial

from navila_sim_mesh.parts import GREY, Images, Part


def read_other(path: Path, images: Images) -> list[Part]:
    """The meshes of a file in world coordinates; textures go into `images`.

    Raises:
        SceneError: the file is corrupt or of another format.
    """
    try:
        scene = trimesh.load_scene(path, process=False)
    except MemoryError:
        raise
    # Parsers of many formats fail in every imaginable way on corrupt bytes.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SceneError(f"The scene {path} cannot be read ({reason}); it is corrupt or not of its format.") from error
    parts = []
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        geometry = scene.geometry.get(name)
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_part(geometry, np.asarray(matrix, np.float64), images))
    return parts


def _part(mesh: trimesh.Trimesh, matrix: NDArray[np.float64], images: Images) -> Part:
    vertices = np.asarray(mesh.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    faces = np.asarray(mesh.faces, np.int64)
    visual: Any = mesh.visual
    uv, texture, shaded = np.zeros((len(faces), 3, 2)), 0, False
    kind = getattr(visual, "kind", None)
    if isinstance(visual, TextureVisuals):
        image, rgb = _base_colour(visual.material)
        place = np.asarray(visual.uv, np.float64) if visual.uv is not None else np.zeros((0, 2))
        if image is not None and len(place) == len(vertices):
            # trimesh counts v from the bottom row, as OBJ does; images count from the top.
            uv, texture = np.nan_to_num(place[faces] * (1.0, -1.0) + (0.0, 1.0)), images.add(id(image), image)
        else:
            shaded = True
    elif kind == "vertex":
        rgb = (np.asarray(visual.vertex_colors, np.float64)[:, :3] / 255)[faces]
    elif kind == "face":
        rgb = np.asarray(visual.face_colors, np.float64)[:, None, :3] / 255
    else:
        rgb, shaded = np.array(GREY), True
    return Part(
        triangles=vertices[faces],
        rgb=np.broadcast_to(rgb, (len(faces), 3, 3)),
        uv=uv,
        texture=texture,
        shaded=shaded,
    )


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
