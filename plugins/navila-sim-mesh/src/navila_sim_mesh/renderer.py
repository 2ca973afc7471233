"""Ray-cast images of a triangle mesh on the CPU: embree finds the hits, numpy shades them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from navila.simulation import Embodiment
from numpy.typing import NDArray

from navila_sim_mesh.textures import MAX_LEVELS, Atlas

#: Colour of a ray that leaves the scene.
SKY = (0.55, 0.65, 0.75)
#: Unit vector towards the light, by which surfaces are shaded that carry none in their colours.
LIGHT = np.array([0.35, 0.85, 0.40]) / np.linalg.norm([0.35, 0.85, 0.40])


@dataclass(frozen=True, kw_only=True)
class Surface:
    """Triangles and how each of them looks; all arrays run over the same F triangles."""

    triangles: NDArray[np.float32]
    """(F, 3, 3) corner positions in metres, y up."""
    rgb: NDArray[np.float32]
    """(F, 3) linear factor on the texture in 0..1, light included; (F, 3, 3) for a colour a corner."""
    uv: NDArray[np.float32]
    """(F, 3, 2) texture coordinates of the corners, 1 being one repetition, v down."""
    texture: NDArray[np.int32]
    """(F,) index into the atlas."""
    atlas: Atlas
    falloff: float = 0.0
    """How fast light fades with distance (1/m); 0 for scans, whose textures are lit already."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One rendered image."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    depth: NDArray[np.float32]
    """(H, W) metres along the optical axis, 0 where nothing was hit."""
    triangle: NDArray[np.int32]
    """(H, W) index of the triangle seen, -1 for none."""


def camera_rays(width: int, height: int, hfov: float, pitch: float) -> NDArray[np.float32]:
    """Directions (H * W, 3) through the pixel centres for a camera that looks along -z, with unit planar depth.

    `hfov` and `pitch` in degrees; a hit at ray parameter t lies t metres along the optical axis.
    """
    half = math.tan(math.radians(hfov) / 2)
    x = ((np.arange(width) + 0.5) / width * 2 - 1) * half
    y = (1 - (np.arange(height) + 0.5) / height * 2) * half * height / width
    rays = np.empty((height, width, 3))
    tilt = math.radians(pitch)
    rays[..., 0] = x[None, :]
    rays[..., 1] = y[:, None] * math.cos(tilt) + math.sin(tilt)
    rays[..., 2] = y[:, None] * math.sin(tilt) - math.cos(tilt)
    return rays.reshape(-1, 3).astype(np.float32)


def yaw_matrix(yaw: float) -> NDArray[np.float32]:
    """Rotation by `yaw` radians about +y, counter-clockwise seen from above; applies to row vectors as `v @ M`."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]], np.float32)


class Camera:
    """A pinhole camera of fixed size; keeps its ray directions and buffers between images."""

    def __init__(self, width: int, height: int, hfov: float, pitch: float = 0.0) -> None:
        self.width, self.height = width, height
        self.pixel = 2 * math.tan(math.radians(hfov) / 2) / width
        self.rays = camera_rays(width, height, hfov, pitch)
        self.ray_length = np.linalg.norm(self.rays, axis=1).astype(np.float32)
        self.origins = np.empty_like(self.rays)

    @classmethod
    def of(cls, body: Embodiment) -> Camera:
        return cls(body.width, body.height, body.hfov, body.camera_pitch)


class Renderer:
    """Draws one `Surface` from any pose."""

    def __init__(self, surface: Surface) -> None:
        self._embree = EmbreeScene()
        # The geometry object must live as long as the scene that refers to it.
        self._geometry = TriangleMesh(self._embree, np.ascontiguousarray(surface.triangles, np.float32))
        self._atlas = surface.atlas
        self._falloff = surface.falloff
        # Every table has one row more than there are triangles: embree says -1 for a miss, which takes the last row.
        count = len(surface.triangles)
        size = (1 << surface.atlas.log2_size[surface.texture]).astype(np.float32)
        corners = surface.uv - np.floor(surface.uv.min(axis=1, keepdims=True))
        corners = corners * size[:, None, :]
        self._uv = np.zeros((count + 1, 6), np.float32)
        self._uv[:-1, 0:2] = corners[:, 0]
        self._uv[:-1, 2:4] = corners[:, 1] - corners[:, 0]
        self._uv[:-1, 4:6] = corners[:, 2] - corners[:, 0]
        self._texture = np.append(surface.texture, surface.texture[:1]).astype(np.int32)
        self._corner_rgb: NDArray[np.float32] | None = None
        if surface.rgb.ndim == 3:
            self._corner_rgb = np.zeros((count + 1, 9), np.float32)
            self._corner_rgb[:-1, 0:3] = surface.rgb[:, 0]
            self._corner_rgb[:-1, 3:6] = surface.rgb[:, 1] - surface.rgb[:, 0]
            self._corner_rgb[:-1, 6:9] = surface.rgb[:, 2] - surface.rgb[:, 0]
        self._rgb = np.zeros((count + 1, 4), np.float32)
        if surface.rgb.ndim == 2:
            self._rgb[:-1, :3] = surface.rgb
        self._normal = np.zeros((count + 1, 3), np.float32)
        self._normal[:-1] = _scaled_normals(surface.triangles, corners)
        same = (surface.atlas.log2_size == surface.atlas.log2_size[0]).all()
        self._uniform_log2 = tuple(int(n) for n in surface.atlas.log2_size[0]) if same else None

    def cast(
        self, origins: NDArray[np.float32], directions: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """First triangle (N,), -1 for none, and ray parameter (N,) along rays (N, 3)."""
        hits = self._embree.run(origins, directions, query="INTERSECT", output=True)
        return hits["primID"], hits["tfar"]

    def triangles_seen(self, camera: Camera, eye: tuple[float, float, float], yaw: float) -> NDArray[np.int32]:
        """Index (H, W) of the triangle each pixel shows, -1 for none."""
        camera.origins[:] = eye
        triangle, _ = self.cast(camera.origins, camera.rays @ yaw_matrix(yaw))
        return triangle.reshape(camera.height, camera.width)

    def render(self, camera: Camera, eye: tuple[float, float, float], yaw: float) -> Frame:
        """The image from `eye` (metres), looking along `yaw` (radians, 0 is -z)."""
        camera.origins[:] = eye
        directions = camera.rays @ yaw_matrix(yaw)
        colour, depth, triangle = self._image(camera.origins, directions, camera.ray_length, camera.pixel)
        shape = (camera.height, camera.width)
        return Frame(rgb=colour.reshape(*shape, 3), depth=depth.reshape(shape), triangle=triangle.reshape(shape))

    def render_plan(
        self, *, origin: tuple[float, float], shape: tuple[int, int], resolution: float, eye_height: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The scene below `eye_height` seen straight from above, and where anything was seen.

        Pixel (row, column) of the (H, W, 3) image shows x = origin[0] + column * resolution, z likewise, metres.
        """
        rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].reshape(2, -1)
        origins = np.empty((rows.size, 3), np.float32)
        origins[:, 0] = origin[0] + columns * resolution
        origins[:, 1] = eye_height
        origins[:, 2] = origin[1] + rows * resolution
        directions = np.broadcast_to(np.array([0.0, -1.0, 0.0], np.float32), origins.shape).copy()
        # All rays are parallel; the mip level is right for what lies two metres down.
        colour, _, triangle = self._image(origins, directions, np.ones(len(origins), np.float32), resolution / 2)
        return colour.reshape(*shape, 3), (triangle >= 0).reshape(shape)

    def _image(
        self,
        origins: NDArray[np.float32],
        directions: NDArray[np.float32],
        ray_length: NDArray[np.float32],
        pixel: float,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]:
        """Colour (N, 3), depth (N,) and triangle (N,) along rays; a pixel is `pixel` wide at unit depth."""
        hits = self._embree.run(origins, directions, query="INTERSECT", output=True)
        triangle, depth, u, v = hits["primID"], hits["tfar"], hits["u"], hits["v"]
        missed = np.flatnonzero(triangle < 0)
        depth[missed] = 0.0
        rows = self._uv.take(triangle, axis=0)
        x = rows[:, 0] + u * rows[:, 2] + v * rows[:, 4]
        y = rows[:, 1] + u * rows[:, 3] + v * rows[:, 5]
        # Texels a pixel covers, squared: (depth * pixel * density)^2 / cos(incidence). `_normal` carries 1 / density^2.
        facing = np.einsum("ij,ij->i", self._normal.take(triangle, axis=0), directions)
        covered = depth * depth
        covered *= ray_length
        covered *= np.float32(pixel**2)
        covered /= np.abs(facing) + np.float32(1e-12)
        texel = self._texels(triangle, x, y, covered)
        if self._corner_rgb is None:
            colour = self._rgb.take(triangle, axis=0)
        else:
            rows = self._corner_rgb.take(triangle, axis=0)
            colour = np.zeros((len(triangle), 4), np.float32)
            colour[:, :3] = rows[:, 0:3] + u[:, None] * rows[:, 3:6] + v[:, None] * rows[:, 6:9]
        colour *= texel.view(np.uint8).reshape(-1, 4)
        if self._falloff:
            colour *= np.reciprocal(1.0 + self._falloff * depth)[:, None]
        colour[missed, :3] = 255 * np.array(SKY, np.float32)
        return np.ascontiguousarray(colour.astype(np.uint8)[:, :3]), depth, triangle

    def _texels(
        self,
        triangle: NDArray[np.int32],
        x: NDArray[np.float32],
        y: NDArray[np.float32],
        covered: NDArray[np.float32],
    ) -> NDArray[np.uint32]:
        """Texel at (x, y), level-0 texels, of the mip level at which one texel is about as large as the pixel."""
        texture = self._texture.take(triangle)
        if self._uniform_log2 is not None:
            log2_width, log2_height = (np.int32(n) for n in self._uniform_log2)
            top = np.int32(min(self._uniform_log2))
        else:
            sizes = self._atlas.log2_size.take(texture, axis=0)
            log2_width, log2_height = sizes[:, 0], sizes[:, 1]
            top = self._atlas.levels.take(texture)
        # The exponent bits of a float32 are its floored log2; half of it, as `covered` is squared.
        level = ((covered.view(np.int32) >> 23) - 126) >> 1
        np.clip(level, 0, top, out=level)
        one = np.int32(1)
        column, row = x.astype(np.int32), y.astype(np.int32)
        column &= (one << log2_width) - one
        row &= (one << log2_height) - one
        column >>= level
        row >>= level
        row <<= log2_width - level
        column += row
        texture *= np.int32(MAX_LEVELS)
        texture += level
        column += self._atlas.level_offset.take(texture)
        return self._atlas.texels.take(column)


def _scaled_normals(triangles: NDArray[np.float32], texel_corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit normals (F, 3) divided by the squared texel density (texels a metre)."""
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    e1 = texel_corners[:, 1] - texel_corners[:, 0]
    e2 = texel_corners[:, 2] - texel_corners[:, 0]
    texels = np.abs(e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0])
    # |normal| is twice the area in square metres and `texels` twice the area in texels, so |normal| / texels is right.
    return (normal / np.maximum(texels, 1e-6)[:, None]).astype(np.float32)
