"""Read glTF 2.0 scenes, GLB or JSON, as the specification of Khronos defines them.

Static meshes with their base colours are what a simulator needs; animations, skins, lights and cameras are passed over,
and so are the normals, roughness and glow of materials. Both sides of every triangle are drawn.
"""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from navila.errors import SceneError
from numpy.typing import NDArray
from PIL import Image

from navila_sim_mesh.parts import GREY, Images, Part

_COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_CLAMP = 33071
#: What a file that requires an extension is told when it cannot be read, and how to get rid of the extension.
_COMPRESSED = {
    "KHR_draco_mesh_compression": "`npx @gltf-transform/cli copy IN.glb OUT.glb` writes it without",
    "EXT_meshopt_compression": "`npx @gltf-transform/cli copy IN.glb OUT.glb` writes it without",
    "KHR_texture_basisu": "`npx @gltf-transform/cli ktxdecompress IN.glb OUT.glb` writes its textures as PNG",
}
_UNDERSTOOD = {"KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp", "KHR_materials_unlit"}


def read_gltf(path: Path, images: Images) -> list[Part]:
    """The meshes of the default scene in world coordinates; textures go into `images`.

    Raises:
        SceneError: the file is no glTF 2.0, is cut off, refers to what it does not hold, or needs an extension.
    """
    return _Reader(path, images).parts()


class _Reader:
    """One file while it is read."""

    def __init__(self, path: Path, images: Images) -> None:
        self.path = path
        self._images = images
        data = path.read_bytes()
        self._chunk: memoryview | None = None
        binary = data[:4] == b"glTF"
        text = self._unpack(data) if binary else data
        try:
            self._facts: dict[str, Any] = json.loads(text)
        except (ValueError, RecursionError) as error:
            if binary:
                raise self._error("its JSON part is corrupt", "copy it again") from error
            raise self._error("it is no glTF file", "download or export it again") from error
        if not isinstance(self._facts, dict) or not isinstance(self._facts.get("asset"), dict):
            raise self._error("it is no glTF file")
        version = str(self._facts["asset"].get("version", ""))
        if not version.startswith("2"):
            raise self._error(f"it is glTF {version or 'of no version'}, not 2.0", "export it as glTF 2.0")
        for name in self._facts.get("extensionsRequired", []):
            if name in _COMPRESSED:
                raise self._compressed(name)
            if name not in _UNDERSTOOD and not name.startswith("KHR_materials_"):
                raise self._error(f"it needs the extension {name}, which is not supported", "export it without")
        self._buffers: dict[int, memoryview] = {}
        self._textures: dict[int, int] = {}

    def parts(self) -> list[Part]:
        try:
            return [part for node, matrix in self._nodes() for part in self._mesh(node, matrix)]
        # Every reference in the JSON may point nowhere or to something of another kind.
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, MemoryError) as error:
            raise self._error(f"it refers to what it does not hold ({type(error).__name__}: {error})") from error

    def _error(self, reason: str, remedy: str = "export it again") -> SceneError:
        return SceneError(f"The scene {self.path} cannot be read: {' '.join(reason.split())[:200]}; {remedy}.")

    def _compressed(self, name: str) -> SceneError:
        return SceneError(
            f"The scene {self.path} is compressed with {name}, which is not supported; {_COMPRESSED[name]}."
        )

    def _unpack(self, data: bytes) -> bytes:
        """The JSON of a GLB; keeps its binary part."""
        if len(data) < 20:
            raise self._error("it is cut off", "copy it again")
        version, length = struct.unpack_from("<II", data, 4)
        if version != 2:
            raise self._error(f"it is glTF {version}, not 2.0", "export it as glTF 2.0")
        if length > len(data):
            raise self._error(f"it is cut off: {len(data)} of {length} bytes are there", "copy it again")
        chunks: dict[bytes, memoryview] = {}
        at = 12
        while at + 8 <= length:
            size, kind = struct.unpack_from("<I4s", data, at)
            if at + 8 + size > length:
                raise self._error("it is cut off within a part", "copy it again")
            chunks.setdefault(kind, memoryview(data)[at + 8 : at + 8 + size])
            at += 8 + size
        if b"JSON" not in chunks:
            raise self._error("it has no JSON part")
        self._chunk = chunks.get(b"BIN\0")
        return bytes(chunks[b"JSON"])

    def _nodes(self) -> Iterator[tuple[dict[str, Any], NDArray[np.float64]]]:
        """Nodes of the default scene with their matrices (4, 4)."""
        nodes = self._facts.get("nodes", [])
        scenes = self._facts.get("scenes", [])
        if scenes:
            roots = scenes[self._facts.get("scene", 0)].get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [number for number in range(len(nodes)) if number not in children]
        stack = [(number, np.eye(4), 0) for number in reversed(roots)]
        while stack:
            number, outer, depth = stack.pop()
            if depth > len(nodes):
                raise self._error("a node is its own ancestor")
            node = nodes[number]
            matrix = outer @ _matrix(node)
            yield node, matrix
            stack += [(child, matrix, depth + 1) for child in reversed(node.get("children", []))]

    def _mesh(self, node: dict[str, Any], matrix: NDArray[np.float64]) -> Iterator[Part]:
        if "mesh" not in node:
            return
        for primitive in self._facts["meshes"][node["mesh"]]["primitives"]:
            if "KHR_draco_mesh_compression" in primitive.get("extensions", {}):
                raise self._compressed("KHR_draco_mesh_compression")
            mode = primitive.get("mode", _TRIANGLES)
            if mode in (_TRIANGLES, _STRIP, _FAN) and "POSITION" in primitive["attributes"]:
                yield self._part(primitive, mode, matrix)

    def _part(self, primitive: dict[str, Any], mode: int, matrix: NDArray[np.float64]) -> Part:
        attributes = primitive["attributes"]
        points = self._accessor(attributes["POSITION"])
        vertices = (points @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
        corners = np.arange(len(points))
        if "indices" in primitive:
            corners = self._accessor(primitive["indices"], whole=True).reshape(-1).astype(np.int64)
        faces = _faces(corners, mode)
        if len(faces) and int(faces.max()) >= len(vertices):
            raise self._error(f"a triangle has corner {int(faces.max())} of {len(vertices)}")
        if np.linalg.det(matrix[:3, :3]) < 0:
            # A mirrored node turns its triangles inside out.
            faces = faces[:, ::-1]
        material = self._facts["materials"][primitive["material"]] if "material" in primitive else None
        factor, reference = _base_colour(material)
        rgb: NDArray[np.float32] = np.broadcast_to(np.array(factor, np.float32), (len(faces), 3, 3))
        coloured = "COLOR_0" in attributes
        if coloured:
            rgb = rgb * self._accessor(attributes["COLOR_0"])[:, :3][faces].astype(np.float32)
        texture, uv = 0, np.zeros((len(faces), 3, 2), np.float32)
        if reference is not None:
            transform = reference.get("extensions", {}).get("KHR_texture_transform", {})
            name = f"TEXCOORD_{transform.get('texCoord', reference.get('texCoord', 0))}"
            texture = self._texture(reference["index"]) if name in attributes else 0
            if texture:
                place = _transformed(self._accessor(attributes[name]), transform)
                uv = self._wrapped(reference["index"], np.nan_to_num(place)).astype(np.float32)[faces]
        return Part(
            triangles=vertices[faces],
            rgb=np.clip(rgb, 0.0, 1.0),
            uv=uv,
            texture=texture,
            shaded=not (texture or coloured),
        )

    def _texture(self, number: int) -> int:
        """Number among the images of a texture of the file; 0, plain white, when it has no picture."""
        if number not in self._textures:
            facts = self._facts["textures"][number]
            extensions = facts.get("extensions", {})
            source = extensions.get("EXT_texture_webp", {}).get("source", facts.get("source"))
            if source is None and "KHR_texture_basisu" in extensions:
                raise self._compressed("KHR_texture_basisu")
            self._textures[number] = 0 if source is None else self._images.add((self.path, source), self._image(source))
        return self._textures[number]

    def _image(self, number: int) -> Image.Image:
        facts = self._facts["images"][number]
        data = self._uri(facts["uri"]) if "uri" in facts else self._view(facts["bufferView"])
        if bytes(data[:12]) == b"\xabKTX 20\xbb\r\n\x1a\n":
            raise self._compressed("KHR_texture_basisu")
        name = facts.get("name") or facts.get("uri", "")[:40] or number
        try:
            with warnings.catch_warnings():
                # Photogrammetry makes pictures that Pillow holds for attacks.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return Image.open(io.BytesIO(data))
        except Image.DecompressionBombError as error:
            raise SceneError(
                f"A texture of the scene {self.path} is too large to decode (image {name});"
                " `npx @gltf-transform/cli resize --width 8192 --height 8192 IN.glb OUT.glb` shrinks it."
            ) from error
        except (OSError, SyntaxError) as error:
            raise SceneError(
                f"A texture of the scene {self.path} cannot be decoded (image {name}); export the scene again."
            ) from error

    def _wrapped(self, texture: int, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates clamped to the picture along the axes whose sampler says so; others repeat it."""
        facts = self._facts["textures"][texture]
        sampler = self._facts["samplers"][facts["sampler"]] if "sampler" in facts else {}
        for axis, name in enumerate(("wrapS", "wrapT")):
            if sampler.get(name) == _CLAMP:
                uv[:, axis] = np.clip(uv[:, axis], 0.0, 1.0 - 1e-6)
        return uv

    def _accessor(self, number: int, *, whole: bool = False) -> NDArray[Any]:
        """Elements (N, width) of an accessor; fractions as its normalisation says, unless `whole` numbers are meant."""
        facts = self._facts["accessors"][number]
        kind = np.dtype(_COMPONENTS[facts["componentType"]])
        count, width = int(facts["count"]), _WIDTHS[facts["type"]]
        values = np.zeros((count, width), kind)
        if "bufferView" in facts:
            values = self._elements(facts["bufferView"], facts.get("byteOffset", 0), kind, count, width)
        if "sparse" in facts:
            sparse = facts["sparse"]
            where, what = sparse["indices"], sparse["values"]
            index = np.dtype(_COMPONENTS[where["componentType"]])
            rows = self._elements(where["bufferView"], where.get("byteOffset", 0), index, sparse["count"], 1)
            values = values.copy()
            values[rows[:, 0]] = self._elements(
                what["bufferView"], what.get("byteOffset", 0), kind, sparse["count"], width
            )
        if whole:
            return values
        if facts.get("normalized") and kind.kind in "iu":
            return np.maximum(values / float(np.iinfo(kind).max), -1.0)
        return values.astype(np.float64)

    def _elements(self, view: int, offset: int, kind: np.dtype[Any], count: int, width: int) -> NDArray[Any]:
        data = self._view(view)
        size = kind.itemsize * width
        stride = self._facts["bufferViews"][view].get("byteStride") or size
        if count < 0 or offset < 0 or stride < size or (count and offset + stride * (count - 1) + size > len(data)):
            raise self._error(f"{count} elements of its data lie beyond the end of what holds them")
        return np.ndarray((count, width), kind.newbyteorder("<"), data, offset, (stride, kind.itemsize))

    def _view(self, number: int) -> memoryview:
        facts = self._facts["bufferViews"][number]
        data = self._buffer(facts["buffer"])
        start, length = facts.get("byteOffset", 0), facts["byteLength"]
        if not 0 <= start <= start + length <= len(data):
            raise self._error(f"{length} bytes at {start} lie beyond the end of its data of {len(data)}")
        return data[start : start + length]

    def _buffer(self, number: int) -> memoryview:
        if number not in self._buffers:
            facts = self._facts["buffers"][number]
            if "uri" in facts:
                self._buffers[number] = self._uri(facts["uri"])
            elif number == 0 and self._chunk is not None:
                self._buffers[number] = self._chunk
            else:
                raise self._error("its binary part is missing")
        return self._buffers[number]

    def _uri(self, uri: str) -> memoryview:
        """What a data URI or a file beside the scene holds."""
        if uri.startswith("data:"):
            return memoryview(base64.b64decode(uri.partition(",")[2]))
        beside = self.path.parent / unquote(uri)
        if "://" in uri or not beside.resolve().is_relative_to(self.path.parent.resolve()):
            raise self._error(f"it refers to {uri!r}, which is not beside it", "put it there or export a GLB")
        try:
            return memoryview(beside.read_bytes())
        except OSError as error:
            reason = f"the file {uri!r} it refers to cannot be read ({error.strerror})"
            raise self._error(reason, "put it beside the scene") from error


def _matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    """Transform (4, 4) of a node to its parent, from its matrix or its translation, rotation and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    norm = math.sqrt(x * x + y * y + z * z + w * w) or 1.0
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", (1.0, 1.0, 1.0)), np.float64)
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _faces(corners: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    """Triangles (F, 3) of a list, strip or fan of corners."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    number = np.arange(max(0, len(corners) - 2))
    if mode == _FAN:
        return np.stack(
            [np.full_like(number, corners[0] if len(number) else 0), corners[number + 1], corners[number + 2]], 1
        )
    odd = number % 2
    return np.stack([corners[number], corners[number + 1 + odd], corners[number + 2 - odd]], axis=1)


def _base_colour(material: dict[str, Any] | None) -> tuple[tuple[float, ...], dict[str, Any] | None]:
    """The colour factor and the reference to the texture of a material."""
    if material is None:
        return GREY, None
    shiny = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
    if shiny is not None:
        return tuple(shiny.get("diffuseFactor", (1.0, 1.0, 1.0))[:3]), shiny.get("diffuseTexture")
    metal = material.get("pbrMetallicRoughness", {})
    return tuple(metal.get("baseColorFactor", (1.0, 1.0, 1.0))[:3]), metal.get("baseColorTexture")


def _transformed(uv: NDArray[np.float64], transform: dict[str, Any]) -> NDArray[np.float64]:
    """KHR_texture_transform: scale, then rotation, then offset."""
    uv = uv[:, :2] * np.array(transform.get("scale", (1.0, 1.0)))
    s, c = math.sin(transform.get("rotation", 0.0)), math.cos(transform.get("rotation", 0.0))
    turned = np.stack([c * uv[:, 0] + s * uv[:, 1], c * uv[:, 1] - s * uv[:, 0]], axis=1)
    return turned + np.array(transform.get("offset", (0.0, 0.0)))
