"""Named nodes of a GLB: places that were marked in the program a scan was edited with."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from navila.simulation import Position

_MAGIC, _JSON_CHUNK = 0x46546C67, 0x4E4F534A
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Marker:
    """Where a node stands, y up, and its yaw in radians: where its -z axis points, 0 along -z, left positive."""

    position: Position
    yaw: float


def markers_of(scene: Path, up: Literal["y", "z"] = "y") -> dict[str, Marker]:
    """Nodes of a GLB or glTF file by name; none where the file is of another kind or malformed.

    In a file whose z points up they look along their y axis, as a view of heading 0 does there.
    """
    try:
        document = _json_of(scene)
        nodes: Sequence[Mapping[str, Any]] = document.get("nodes", [])
        children = {child for node in nodes for child in node.get("children", ())}
        found: dict[str, Marker] = {}
        seen: set[int] = set()
        waiting = [(root, _IDENTITY) for root in range(len(nodes)) if root not in children]
        while waiting:
            number, parent = waiting.pop()
            if number in seen:
                continue
            seen.add(number)
            matrix = _product(parent, _matrix(nodes[number]))
            waiting += [(child, matrix) for child in nodes[number].get("children", ())]
            if name := nodes[number].get("name"):
                found[name] = _marker(matrix, up)
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        return {}


def _marker(matrix: Sequence[float], up: Literal["y", "z"]) -> Marker:
    """What a node's column-major world matrix says; the columns are its axes and its place."""
    x, y, z = matrix[12:15]
    if up == "z":
        return Marker((x, z, -y), math.atan2(-matrix[4], matrix[5]))
    return Marker((x, y, z), math.atan2(matrix[8], matrix[10]))


def _json_of(scene: Path) -> Any:
    with scene.open("rb") as file:
        head = file.read(20)
        if len(head) == 20 and struct.unpack_from("<I", head)[0] == _MAGIC:
            length, kind = struct.unpack_from("<II", head, 12)
            return json.loads(file.read(length)) if kind == _JSON_CHUNK else {}
    return json.loads(scene.read_bytes()) if scene.suffix.lower() == ".gltf" else {}


def _matrix(node: Mapping[str, Any]) -> tuple[float, ...]:
    """(16,) column-major transform of a node in its parent."""
    if "matrix" in node:
        return tuple(map(float, node["matrix"]))
    x, y, z, w = map(float, node.get("rotation", (0, 0, 0, 1)))
    sx, sy, sz = map(float, node.get("scale", (1, 1, 1)))
    tx, ty, tz = map(float, node.get("translation", (0, 0, 0)))
    return (
        *(sx * (1 - 2 * (y * y + z * z)), sx * 2 * (x * y + z * w), sx * 2 * (x * z - y * w), 0.0),
        *(sy * 2 * (x * y - z * w), sy * (1 - 2 * (x * x + z * z)), sy * 2 * (y * z + x * w), 0.0),
        *(sz * 2 * (x * z + y * w), sz * 2 * (y * z - x * w), sz * (1 - 2 * (x * x + y * y)), 0.0),
        *(tx, ty, tz, 1.0),
    )


def _product(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
    """Column-major 4 x 4 product."""
    return tuple(sum(a[k * 4 + row] * b[column * 4 + k] for k in range(4)) for column in range(4) for row in range(4))
