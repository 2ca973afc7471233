"""Read `.navmesh` files as habitat-sim writes them: a set of Detour tiles.

Layout, little-endian, as of habitat-sim's `PathFinder::saveNavMesh` and Detour's `DetourNavMesh.h` (version 7 of the
tile format, 32-bit references). The links stored in a tile are those of the program that wrote it; Detour makes them
anew from the edges when it adds a tile, and so does this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from navila.errors import SceneError
from numpy.typing import NDArray

from navila_sim_mesh.navmesh import NavMesh, Portals

SET_MAGIC, SET_VERSIONS = b"TESM", (1, 2)
TILE_MAGIC, TILE_VERSION = b"VAND", 7
SET_HEADER = struct.Struct("<4sii3f2f2i")
"""Magic, version, tiles; origin, tile width and depth, most tiles, most polygons a tile."""
TILE_HEADER = struct.Struct("<4s4iI9i10f")
"""Magic, version, x, y, layer; user id; nine counts; agent height, radius and climb, bounds, quantisation."""
TILE_ENTRY = struct.Struct("<Ii")
"""Reference and size in bytes of the tile that follows."""

POLYGON = np.dtype(
    [
        ("link", "<u4"),
        ("vertices", "<u2", 6),
        ("neighbours", "<u2", 6),
        ("flags", "<u2"),
        ("count", "u1"),
        ("area_and_type", "u1"),
    ]
)
LINK = np.dtype([("reference", "<u4"), ("next", "<u4"), ("edge", "u1"), ("side", "u1"), ("low", "u1"), ("high", "u1")])
DETAIL = np.dtype([("vertex", "<u4"), ("triangle", "<u4"), ("vertices", "u1"), ("triangles", "u1"), ("pad", "V2")])
NODE = np.dtype([("low", "<u2", 3), ("high", "<u2", 3), ("index", "<i4")])
OFF_MESH = np.dtype(
    [("ends", "<f4", (2, 3)), ("radius", "<f4"), ("polygon", "<u2"), ("flags", "u1"), ("side", "u1"), ("user", "<u4")]
)

#: Flag of polygons habitat walks on.
WALK = 1
#: Polygons smaller than this are left out as habitat does, square metres.
LEAST_AREA = 1e-5
#: Set in a neighbour that lies in another tile; the low byte is the side: 0 +x, 2 +z, 4 -x, 6 -z.
_BEYOND = 0x8000
_TILE_AT = {0: (1, 0), 2: (0, 1), 4: (-1, 0), 6: (0, -1)}
#: Edges of neighbouring tiles meet when they are this close, metres.
_SEAM = 0.01
#: How many bytes of settings may stand between the header of the set and its first tile (version 2).
_SETTINGS = 512


_Span = tuple[NDArray[np.float64], NDArray[np.float64]]
_Join = tuple[int, int, int, int, _Span]
"""A portal: polygon and edge on either side, and its two ends."""


@dataclass(frozen=True, kw_only=True)
class _Tile:
    place: tuple[int, int]
    climb: float
    polygons: NDArray[np.void]
    vertices: NDArray[np.float64]
    details: NDArray[np.void]
    detail_vertices: NDArray[np.float64]
    detail_triangles: NDArray[np.uint8]
    off_mesh: NDArray[np.void]


def read_navmesh(path: Path) -> NavMesh:
    """Read a `.navmesh` file.

    Raises:
        SceneError: it cannot be read, is cut off, of another format or version, or has nothing to walk on.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SceneError(f"The navigation mesh {path} cannot be read ({error.strerror}).") from error
    tiles = _tiles(path, data)
    mesh = _joined(path, tiles)
    if mesh is None:
        raise SceneError(f"The navigation mesh {path} has no polygon to walk on; make it anew from its scene.")
    return mesh


def _tiles(path: Path, data: bytes) -> list[_Tile]:
    if len(data) < SET_HEADER.size or data[:4] != SET_MAGIC:
        raise SceneError(
            f"The navigation mesh {path} is no file of habitat's (magic MSET); save one with habitat-sim, or take it"
            " away and one is built from the scene."
        )
    _, version, count, *_ = SET_HEADER.unpack_from(data)
    if version not in SET_VERSIONS:
        raise SceneError(
            f"The navigation mesh {path} is of version {version}; versions 1 and 2 can be read: save it with"
            " habitat-sim 0.1.5 to 0.3, or take it away and one is built from the scene."
        )
    at = SET_HEADER.size
    if version == 2 and count:
        # The settings it was made with have grown over the years; the first tile tells where they end.
        at = data.find(TILE_MAGIC, at, at + _SETTINGS) - TILE_ENTRY.size
    tiles = []
    for number in range(count):
        if not SET_HEADER.size <= at <= len(data) - TILE_ENTRY.size:
            raise _cut_off(path, number, count)
        reference, size = TILE_ENTRY.unpack_from(data, at)
        at += TILE_ENTRY.size
        if not reference or not size:
            break
        if size < 0 or at + size > len(data):
            raise _cut_off(path, number, count)
        tiles.append(_tile(path, number, data[at : at + size]))
        at += size
    return tiles


def _cut_off(path: Path, number: int, count: int) -> SceneError:
    return SceneError(f"The navigation mesh {path} ends within tile {number + 1} of {count}; copy it again.")


def _tile(path: Path, number: int, data: bytes) -> _Tile:
    def broken(what: str) -> SceneError:
        return SceneError(f"Tile {number + 1} of the navigation mesh {path} {what}; make it anew from its scene.")

    if len(data) < TILE_HEADER.size or data[:4] != TILE_MAGIC:
        raise broken("is no Detour tile")
    header = TILE_HEADER.unpack_from(data)
    if header[1] != TILE_VERSION:
        raise broken(f"is of Detour's version {header[1]}, not {TILE_VERSION}")
    _, _, x, z, _, _, polygons, vertices, links, details, detail_vertices, detail_triangles, nodes, off_mesh, _ = (
        header[:15]
    )
    at = TILE_HEADER.size

    def take(kind: np.dtype, count: int, width: int = 1) -> NDArray:
        nonlocal at
        size = kind.itemsize * count * width
        if count < 0 or at + size > len(data):
            raise broken("is shorter than its header says")
        found = np.frombuffer(data, kind, count * width, at)
        # Every part starts at a multiple of four bytes.
        at += -(-size // 4) * 4
        return found

    points = take(np.dtype("<f4"), vertices, 3)
    faces = take(POLYGON, polygons)
    take(LINK, links)
    meshes = take(DETAIL, details)
    detail_points = take(np.dtype("<f4"), detail_vertices, 3)
    corners = take(np.dtype("u1"), detail_triangles, 4)
    take(NODE, nodes)
    connections = take(OFF_MESH, off_mesh)
    used = np.arange(6) < faces["count"][:, None]
    inner = used & (faces["neighbours"] != 0) & (faces["neighbours"] & _BEYOND == 0)
    if (
        (faces["count"] > 6).any()
        or (faces["vertices"][used] >= vertices).any()
        or (faces["neighbours"][inner] > polygons).any()
        or not np.isfinite(points).all()
        or (connections["polygon"] >= polygons).any()
    ):
        raise broken("refers to corners or polygons it does not have")
    return _Tile(
        place=(x, z),
        climb=float(header[17]),
        polygons=faces,
        vertices=points.reshape(-1, 3).astype(np.float64),
        details=meshes,
        detail_vertices=detail_points.reshape(-1, 3).astype(np.float64),
        detail_triangles=corners.reshape(-1, 4),
        off_mesh=connections,
    )


def _joined(path: Path, tiles: list[_Tile]) -> NavMesh | None:
    """One mesh of all tiles, without the polygons one cannot walk on."""
    corners: list[NDArray[np.float64]] = []
    triangles: list[NDArray[np.float64]] = []
    flipped: list[bool] = []
    number_of: dict[tuple[int, int], int] = {}
    one_way: list[bool] = []
    for index, tile in enumerate(tiles):
        directed = {int(link["polygon"]): not link["flags"] & 1 for link in tile.off_mesh}
        for polygon, face in enumerate(tile.polygons):
            count = int(face["count"])
            points = tile.vertices[face["vertices"][:count]]
            link = int(face["area_and_type"]) >> 6 == 1
            heights = points[:0].reshape(0, 3, 3) if link else _heights(path, index, tile, polygon, points)
            if not face["flags"] & WALK or count < 2 + (not link) or not (link or _area(heights) >= LEAST_AREA):
                continue
            turn = _turn(points) < 0 and not link
            number_of[index, polygon] = len(corners)
            corners.append(points[::-1] if turn else points)
            flipped.append(turn)
            triangles.append(heights)
            one_way.append(bool(link and directed.get(polygon, False)))
    if not any(len(points) > 2 for points in corners):
        return None
    joins = [*_inner(tiles, number_of), *_seams(tiles, number_of), *_leaps(tiles, number_of)]
    pairs = np.array([(a, b) for a, _, b, _, _ in joins], np.int32).reshape(-1, 2)
    edges = np.array([(i, j) for _, i, _, j, _ in joins], np.int32).reshape(-1, 2)
    size = np.array([len(points) for points in corners])
    # Edge i of a polygon that was turned round is edge n - 2 - i now.
    turned = np.array(flipped)[pairs] if len(pairs) else np.zeros((0, 2), np.bool_)
    edges = np.where(turned, (size[pairs] - 2 - edges) % np.maximum(size[pairs], 1), edges).astype(np.int32)
    ends = np.array([span for *_, span in joins], np.float64).reshape(-1, 2, 3)
    return NavMesh(
        corners=np.concatenate(corners),
        first=np.append(0, np.cumsum(size)),
        triangles=np.concatenate(triangles),
        first_triangle=np.append(0, np.cumsum([len(heights) for heights in triangles])),
        portals=Portals(polygons=pairs, edges=edges, ends=ends),
        climb=max(tile.climb for tile in tiles),
        one_way=np.array(one_way),
    )


def _heights(path: Path, index: int, tile: _Tile, polygon: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Triangles (n, 3, 3) of a polygon's detail mesh, else a fan of the polygon itself."""
    if polygon < len(tile.details):
        detail = tile.details[polygon]
        first, count = int(detail["triangle"]), int(detail["triangles"])
        own = tile.detail_vertices[int(detail["vertex"]) : int(detail["vertex"]) + int(detail["vertices"])]
        faces = tile.detail_triangles[first : first + count, :3]
        points = np.concatenate([points, own])
        if len(faces) != count or (count and int(faces.max()) >= len(points)):
            raise SceneError(
                f"Tile {index + 1} of the navigation mesh {path} refers to corners or polygons it does not have; make"
                " it anew from its scene."
            )
        if count:
            return points[faces]
    fan = np.arange(1, len(points) - 1)
    return points[np.stack([np.zeros_like(fan), fan, fan + 1], axis=1)]


def _inner(tiles: list[_Tile], number_of: dict[tuple[int, int], int]) -> Iterator[_Join]:
    """Portals within tiles: polygon and edge of either side, and the two ends."""
    for index, tile in enumerate(tiles):
        for polygon, face in enumerate(tile.polygons):
            if (index, polygon) not in number_of:
                continue
            for edge in range(int(face["count"])):
                other = int(face["neighbours"][edge]) - 1
                # Each portal is told of by both its polygons.
                if not polygon < other < _BEYOND - 1 or (index, other) not in number_of:
                    continue
                back = np.flatnonzero(tile.polygons[other]["neighbours"] == polygon + 1)
                a, b = face["vertices"][edge], face["vertices"][(edge + 1) % int(face["count"])]
                for facing in back.tolist():
                    ring = tile.polygons[other]["vertices"][: int(tile.polygons[other]["count"])]
                    if facing < len(ring) and {ring[facing], ring[(facing + 1) % len(ring)]} == {a, b}:
                        mine, theirs = number_of[index, polygon], number_of[index, other]
                        yield mine, edge, theirs, facing, (tile.vertices[a], tile.vertices[b])


def _seams(tiles: list[_Tile], number_of: dict[tuple[int, int], int]) -> Iterator[_Join]:
    """Portals between tiles: where edges that look at each other overlap."""
    borders: dict[tuple[int, int, int], list[tuple[int, int, NDArray[np.float64]]]] = {}
    for index, tile in enumerate(tiles):
        for polygon, face in enumerate(tile.polygons):
            if (index, polygon) not in number_of:
                continue
            count = int(face["count"])
            for edge in range(count):
                neighbour = int(face["neighbours"][edge])
                if neighbour & _BEYOND and neighbour & 0xFF in _TILE_AT:
                    ends = tile.vertices[face["vertices"][[edge, (edge + 1) % count]]]
                    key = (*tile.place, neighbour & 0xFF)
                    borders.setdefault(key, []).append((number_of[index, polygon], edge, ends))
    climb = max((tile.climb for tile in tiles), default=0.0)
    for (x, z, side), mine in borders.items():
        # Each pair of sides is met twice; the sides towards +x and +z do the joining.
        if side > 2:
            continue
        dx, dz = _TILE_AT[side]
        theirs = borders.get((x + dx, z + dz, side + 4), []) + borders.get((x, z, side + 4), [])
        if not theirs:
            continue
        across, along = (0, 2) if side == 0 else (2, 0)
        others = np.array([ends for _, _, ends in theirs])
        order = np.argsort(others[:, :, along], axis=1)
        others = np.take_along_axis(others, order[:, :, None], axis=1)
        for number, edge, ends in mine:
            low, high = ends[np.argsort(ends[:, along])]
            start = np.maximum(others[:, 0, along], low[along])
            end = np.minimum(others[:, 1, along], high[along])
            here = np.abs(others[:, 0, across] - low[across]) <= _SEAM
            for facing in np.flatnonzero(here & (end - start >= 2 * _SEAM)).tolist():
                spans = [_between(low, high, along, at) for at in (start[facing], end[facing])]
                rises = [
                    _between(others[facing, 0], others[facing, 1], along, at)[1] - span[1]
                    for at, span in zip((start[facing], end[facing]), spans, strict=True)
                ]
                if rises[0] * rises[1] < 0 or min(map(abs, rises)) <= 2 * climb:
                    yield number, edge, theirs[facing][0], theirs[facing][1], (spans[0], spans[1])


def _between(low: NDArray[np.float64], high: NDArray[np.float64], axis: int, at: float) -> NDArray[np.float64]:
    """The point of the line from `low` to `high` whose coordinate `axis` is `at`."""
    return low + (at - low[axis]) / max(high[axis] - low[axis], 1e-12) * (high - low)


def _leaps(tiles: list[_Tile], number_of: dict[tuple[int, int], int]) -> Iterator[_Join]:
    """Portals of off-mesh connections: a point of the polygon at either end."""
    for index, tile in enumerate(tiles):
        for connection in tile.off_mesh:
            link = number_of.get((index, int(connection["polygon"])))
            if link is None:
                continue
            for end, place in enumerate(connection["ends"].astype(np.float64)):
                landing = _landing(tiles, number_of, place, float(connection["radius"]), tile.climb)
                if landing is not None:
                    yield link, end, landing, 0, (place, place)


def _landing(
    tiles: list[_Tile], number_of: dict[tuple[int, int], int], place: NDArray[np.float64], radius: float, climb: float
) -> int | None:
    best = (radius + 1e-6, None)
    for (index, polygon), number in number_of.items():
        face = tiles[index].polygons[polygon]
        points = tiles[index].vertices[face["vertices"][: int(face["count"])]]
        if len(points) < 3 or abs(points[:, 1] - place[1]).min() > climb + np.ptp(points[:, 1]):
            continue
        apart = _apart(points[:, [0, 2]], place[[0, 2]])
        if apart < best[0]:
            best = apart, number
    return best[1]


def _apart(ring: NDArray[np.float64], place: NDArray[np.float64]) -> float:
    """Metres from a point to a convex polygon (n, 2), 0 inside."""
    way = np.roll(ring, -1, axis=0) - ring
    offset = place - ring
    side = way[:, 0] * offset[:, 1] - way[:, 1] * offset[:, 0]
    if (side >= 0).all() or (side <= 0).all():
        return 0.0
    share = np.clip((offset * way).sum(axis=1) / np.maximum((way**2).sum(axis=1), 1e-18), 0.0, 1.0)
    return float(np.linalg.norm(offset - share[:, None] * way, axis=1).min())


def _turn(points: NDArray[np.float64]) -> float:
    """Twice the area of a polygon seen from above, positive when it turns from +x towards +z."""
    x, z = points[:, 0], points[:, 2]
    return float((x * np.roll(z, -1) - np.roll(x, -1) * z).sum())


def _area(triangles: NDArray[np.float64]) -> float:
    return float(
        np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])).sum() / 2
    )
