"""Named nodes of a GLB: places that were marked in the program a scan was edited with."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navila.simulation import Position

_MAGIC, _JSON_CHUNK = 0x46546C67, 0x4E4F534A
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Marker:
    """Where a node stands, and its yaw in radians: where its -z axis points, 0 along -z, left positive."""

    position: Position
    yaw: float


def markers_of(scene: Path) -> dict[str, Marker]:
    """Nodes of a GLB or glTF file by name, in y-up metres; none where the file is of another kind or malformed."""
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
                # Columns are the axes: the node looks along minus its third.
                found[name] = Marker((matrix[12], matrix[13], matrix[14]), math.atan2(matrix[8], matrix[10]))
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        return {}


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
