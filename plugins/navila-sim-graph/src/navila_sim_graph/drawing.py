"""A graph as the agent sees it, a wire frame on a floor, and from above."""

from __future__ import annotations

import math

import numpy as np
from navila.simulation import Embodiment, Position, TopDownMap
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from navila_sim_graph.ways import Ways

_SKY, _FLOOR, _EDGE, _VIEWPOINT = (214, 222, 232), (120, 112, 104), (240, 236, 226), (196, 72, 40)
#: Metres from the eye at which lines begin.
_NEAR = 0.1
#: Metres up or down to what a picture shows: the storey the agent is on.
_STOREY = 1.5
#: Metres a pixel of the map, and round the graph.
_RESOLUTION, _MARGIN = 0.1, 1.0


def first_person(ways: Ways, position: Position, yaw: float, body: Embodiment) -> NDArray[np.uint8]:
    """(H, W, 3): edges as lines on the floor and viewpoints as discs, near ones larger."""
    focal = body.width / 2 / math.tan(math.radians(body.hfov) / 2)
    pitch = math.radians(body.camera_pitch)
    horizon = body.height / 2 + focal * math.tan(pitch)
    image = Image.new("RGB", (body.width, body.height), _SKY)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, max(0, horizon), body.width, body.height), fill=_FLOOR)
    eye = np.array(position) + np.array([0.0, body.camera_height, 0.0])
    right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    level = np.array([-math.sin(yaw), 0.0, -math.cos(yaw)])
    ahead = level * math.cos(pitch) + np.array([0.0, math.sin(pitch), 0.0])
    up = np.cross(right, ahead)
    axes = np.stack([right, up, ahead])
    seen = {name: axes @ (np.array(point) - eye) for name, point in ways.graph.positions.items()}

    def pixel(point: NDArray[np.float64]) -> tuple[float, float]:
        return body.width / 2 + focal * point[0] / point[2], body.height / 2 - focal * point[1] / point[2]

    for a, b in ways.edges:
        p, q = seen[a], seen[b]
        if max(p[2], q[2]) <= _NEAR:
            continue
        if p[2] < _NEAR:
            p = p + (q - p) * (_NEAR - p[2]) / (q[2] - p[2])
        elif q[2] < _NEAR:
            q = q + (p - q) * (_NEAR - q[2]) / (p[2] - q[2])
        width = round(focal * 0.02 / min(p[2], q[2]))
        draw.line((*pixel(p), *pixel(q)), fill=_EDGE, width=min(max(1, width), max(2, body.width // 64)))
    for point in sorted(seen.values(), key=lambda point: -point[2]):
        if point[2] > _NEAR:
            x, y = pixel(point)
            radius = max(1.0, focal * 0.1 / point[2])
            draw.ellipse((x - radius, y - radius / 2, x + radius, y + radius / 2), fill=_VIEWPOINT)
    return np.asarray(image)


def from_above(ways: Ways, height: float) -> TopDownMap:
    """The edges of the storey at `height` metres; what is drawn is what can be walked."""
    points = ways.graph.positions
    xs, zs = [p[0] for p in points.values()], [p[2] for p in points.values()]
    origin = (min(xs) - _MARGIN, min(zs) - _MARGIN)
    size = (_pixels(max(xs) + _MARGIN - origin[0]), _pixels(max(zs) + _MARGIN - origin[1]))
    image, mask = Image.new("RGB", size, (255, 255, 255)), Image.new("L", size, 0)
    for a, b in ways.edges:
        if min(abs(points[a][1] - height), abs(points[b][1] - height)) > _STOREY:
            continue
        line = [((points[v][0] - origin[0]) / _RESOLUTION, (points[v][2] - origin[1]) / _RESOLUTION) for v in (a, b)]
        ImageDraw.Draw(image).line(line, fill=(190, 198, 208), width=3)
        ImageDraw.Draw(mask).line(line, fill=255, width=3)
    for point in points.values():
        if abs(point[1] - height) <= _STOREY:
            x, z = ((v - o) / _RESOLUTION for v, o in zip((point[0], point[2]), origin, strict=True))
            ImageDraw.Draw(image).ellipse((x - 2, z - 2, x + 2, z + 2), fill=_VIEWPOINT)
    return TopDownMap(rgb=np.asarray(image), walkable=np.asarray(mask) > 0, origin=origin, resolution=_RESOLUTION)


def _pixels(metres: float) -> int:
    return round(metres / _RESOLUTION) + 1
