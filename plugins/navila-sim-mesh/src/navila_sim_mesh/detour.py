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
#: Nothing lies farther than this from the origin, metres; greater numbers are damage.
_FARTHEST = 1e5
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
        (len(faces) and not vertices)
        or (faces["count"] > 6).any()
        or (faces["vertices"][used] >= vertices).any()
        or (faces["neighbours"][inner] > polygons).any()
        or (connections["polygon"] >= polygons).any()
    ):
        raise broken("refers to corners or polygons it does not have")
    numbers = np.concatenate([points, detail_points, connections["ends"].reshape(-1), header[15:18]])
    if not (np.abs(numbers) <= _FARTHEST).all():
        raise broken("has corners that are nowhere")
    faces = faces.copy()
    faces["vertices"][~used] = 0
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


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """The polygons of one tile that one can walk on, or leap by."""

    tile: _Tile
    number: NDArray[np.int64]
    """(P,) of each polygon of the tile in the whole mesh, -1 for those left out."""
    kept: NDArray[np.int64]
    """The others."""
    flipped: NDArray[np.bool_]
    """Which of those are turned round, so that all turn from +x towards +z."""
    triangles: NDArray[np.float64]
    owner: NDArray[np.int64]
    """The polygon of the tile each triangle belongs to; sorted."""
    one_way: NDArray[np.bool_]


def _joined(path: Path, tiles: list[_Tile]) -> NavMesh | None:
    """One mesh of all tiles, without the polygons one cannot walk on."""
    sheets: list[_Sheet] = []
    total = 0
    for index, tile in enumerate(tiles):
        sheets.append(_sheet(path, index, tile, total))
        total += len(sheets[-1].kept)
    faces = [sheet.tile.polygons[sheet.kept] for sheet in sheets]
    size = np.concatenate([face["count"] for face in faces]).astype(np.int64) if faces else np.zeros(0, np.int64)
    if not (size > 2).any():
        return None
    corners = []
    for sheet, face in zip(sheets, faces, strict=True):
        count = face["count"].astype(np.int64)[:, None]
        place = np.arange(6) % count
        place = np.where(sheet.flipped[:, None], count - 1 - place, place)
        ring = np.take_along_axis(face["vertices"], place, axis=1)[np.arange(6) < count]
        corners.append(sheet.tile.vertices[ring])
    owner = np.concatenate([sheet.number[sheet.owner] for sheet in sheets])
    joins = [*(_inner(sheet) for sheet in sheets), _listed(_seams(sheets)), _listed(_leaps(sheets))]
    pairs, edges, ends = (np.concatenate(part) for part in zip(*joins, strict=True))
    # Edge i of a polygon that was turned round is edge n - 2 - i now.
    flipped = np.concatenate([sheet.flipped for sheet in sheets])
    edges = np.where(flipped[pairs], (size[pairs] - 2 - edges) % size[pairs], edges)
    return NavMesh(
        corners=np.concatenate(corners),
        first=np.append(0, np.cumsum(size)),
        triangles=np.concatenate([sheet.triangles for sheet in sheets]),
        first_triangle=np.searchsorted(owner, np.arange(total + 1)),
        portals=Portals(polygons=pairs.astype(np.int32), edges=edges.astype(np.int32), ends=ends),
        climb=max(tile.climb for tile in tiles),
        one_way=np.concatenate([sheet.one_way for sheet in sheets]),
    )


def _sheet(path: Path, index: int, tile: _Tile, first: int) -> _Sheet:
    faces = tile.polygons
    link = faces["area_and_type"] >> 6 == 1
    triangles, owner = _heights(path, index, tile)
    crossed = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area = np.bincount(owner, np.linalg.norm(crossed, axis=1) / 2, len(faces))
    keep = (faces["flags"] & WALK != 0) & np.where(
        link, faces["count"] == 2, (faces["count"] > 2) & (area >= LEAST_AREA)
    )
    plan = tile.vertices[faces["vertices"]][:, :, [0, 2]]
    following = np.take_along_axis(plan, _next(faces)[:, :, None], axis=1)
    turn = plan[..., 0] * following[..., 1] - following[..., 0] * plan[..., 1]
    turn[np.arange(6) >= faces["count"][:, None]] = 0.0
    kept = np.flatnonzero(keep)
    number = np.full(len(faces), -1)
    number[kept] = first + np.arange(len(kept))
    one_way = np.zeros(len(faces), np.bool_)
    one_way[tile.off_mesh["polygon"][tile.off_mesh["flags"] & 1 == 0]] = True
    return _Sheet(
        tile=tile,
        number=number,
        kept=kept,
        flipped=((turn.sum(axis=1) < 0) & ~link)[kept],
        triangles=triangles[keep[owner]],
        owner=owner[keep[owner]],
        one_way=(one_way & link)[kept],
    )


def _next(faces: NDArray[np.void]) -> NDArray[np.int64]:
    """(P, 6) the place of the corner that follows each one round its polygon."""
    return (np.arange(6) + 1) % np.maximum(faces["count"].astype(np.int64), 1)[:, None]


def _heights(path: Path, index: int, tile: _Tile) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Triangles (T, 3, 3) of the detail meshes, or fans of polygons without, and the polygon (T,) of each, in order."""
    faces, details = tile.polygons, tile.details
    bare = faces["area_and_type"] >> 6 != 1
    triangles, owners = [np.zeros((0, 3, 3))], [np.zeros(0, np.int64)]
    if len(details):
        count = details["triangles"][: len(faces)].astype(np.int64)
        owner = np.repeat(np.arange(len(count)), count)
        row = (
            details["triangle"][owner].astype(np.int64)
            + np.arange(len(owner))
            - np.repeat(np.cumsum(count) - count, count)
        )
        whole = bool((row < len(tile.detail_triangles)).all())
        corner = tile.detail_triangles[row, :3].astype(np.int64) if whole else np.zeros((0, 3), np.int64)
        own = corner - faces["count"][owner].astype(np.int64)[:, None] if whole else corner
        extra = details["vertex"][owner].astype(np.int64)[:, None] + own if whole else corner
        if (
            not whole
            or (own >= details["vertices"][owner][:, None]).any()
            or (extra >= len(tile.detail_vertices)).any()
        ):
            raise SceneError(
                f"Tile {index + 1} of the navigation mesh {path} refers to corners or polygons it does not have; make"
                " it anew from its scene."
            )
        points = tile.vertices[np.take_along_axis(faces["vertices"][owner], np.minimum(corner, 5), axis=1)]
        inner = own >= 0
        points[inner] = tile.detail_vertices[extra[inner]]
        triangles.append(points)
        owners.append(owner)
        bare[: len(count)] &= count == 0
    for step in range(1, 5):
        fan = np.flatnonzero(bare & (faces["count"] >= step + 2))
        triangles.append(tile.vertices[faces["vertices"][fan][:, [0, step, step + 1]]])
        owners.append(fan)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(triangles)[order], owner[order]


_Joins = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Portals: polygons (K, 2), edges (K, 2) and ends (K, 2, 3)."""


def _listed(joins: Iterator[_Join]) -> _Joins:
    rows = list(joins)
    return (
        np.array([(a, b) for a, _, b, _, _ in rows], np.int64).reshape(-1, 2),
        np.array([(i, j) for _, i, _, j, _ in rows], np.int64).reshape(-1, 2),
        np.array([span for *_, span in rows], np.float64).reshape(-1, 2, 3),
    )


def _inner(sheet: _Sheet) -> _Joins:
    """Portals within a tile."""
    faces = sheet.tile.polygons
    used = np.arange(6) < faces["count"][:, None]
    within = used & (faces["neighbours"] != 0) & (faces["neighbours"] & _BEYOND == 0)
    here, edge = np.nonzero(within)
    there = faces["neighbours"][here, edge].astype(np.int64) - 1
    # Each portal is told of by both its polygons.
    once = (here < there) & (sheet.number[here] >= 0) & (sheet.number[there] >= 0)
    here, edge, there = here[once], edge[once], there[once]
    following = _next(faces)
    a, b = faces["vertices"][here, edge], faces["vertices"][here, following[here, edge]]
    c = faces["vertices"][there]
    d = np.take_along_axis(c, following[there], axis=1)
    facing = within[there] & (faces["neighbours"][there] == here[:, None] + 1)
    facing &= ((c == b[:, None]) & (d == a[:, None])) | ((c == a[:, None]) & (d == b[:, None]))
    met = facing.any(axis=1)
    pairs = np.stack([sheet.number[here], sheet.number[there]], axis=1)
    edges = np.stack([edge, facing.argmax(axis=1)], axis=1)
    ends = np.stack([sheet.tile.vertices[a], sheet.tile.vertices[b]], axis=1)
    return pairs[met], edges[met], ends[met]


def _seams(sheets: list[_Sheet]) -> Iterator[_Join]:
    """Portals between tiles: where edges that look at each other overlap."""
    borders: dict[tuple[int, int, int], list[tuple[int, int, NDArray[np.float64]]]] = {}
    for sheet in sheets:
        faces = sheet.tile.polygons
        looks = (np.arange(6) < faces["count"][:, None]) & (faces["neighbours"] & _BEYOND != 0)
        following = _next(faces)
        for polygon, edge in np.argwhere(looks & (sheet.number >= 0)[:, None]).tolist():
            side = int(faces["neighbours"][polygon, edge]) & 0xFF
            if side in _TILE_AT:
                ends = sheet.tile.vertices[faces["vertices"][polygon, [edge, following[polygon, edge]]]]
                borders.setdefault((*sheet.tile.place, side), []).append((int(sheet.number[polygon]), edge, ends))
    climb = max((sheet.tile.climb for sheet in sheets), default=0.0)
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


def _leaps(sheets: list[_Sheet]) -> Iterator[_Join]:
    """Portals of off-mesh connections: a point of the polygon at either end."""
    for sheet in sheets:
        for connection in sheet.tile.off_mesh:
            link = int(sheet.number[connection["polygon"]])
            if link < 0:
                continue
            for end, place in enumerate(connection["ends"].astype(np.float64)):
                landing = _landing(sheets, place, float(connection["radius"]), sheet.tile.climb)
                if landing is not None:
                    yield link, end, landing, 0, (place, place)


def _landing(sheets: list[_Sheet], place: NDArray[np.float64], radius: float, climb: float) -> int | None:
    """The polygon nearest to `place`, at most `radius` metres aside."""
    best: tuple[float, int | None] = (radius + 1e-6, None)
    for sheet in sheets:
        for polygon in sheet.kept.tolist():
            face = sheet.tile.polygons[polygon]
            points = sheet.tile.vertices[face["vertices"][: int(face["count"])]]
            if len(points) < 3 or abs(points[:, 1] - place[1]).min() > climb + np.ptp(points[:, 1]):
                continue
            apart = _apart(points[:, [0, 2]], place[[0, 2]])
            if apart < best[0]:
                best = apart, int(sheet.number[polygon])
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
