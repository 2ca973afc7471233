"""Connectivity graphs of Matterport3D scans: the viewpoints that R2R's and RxR's paths are made of. Light.

Coordinates are habitat's (x, y up, z): Matterport's (x, y, z up) become (x, z, -y). Points are those of the floor below
the cameras, which the graphs' own points are.
"""

from __future__ import annotations

import gzip
import heapq
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navila.errors import DataError
from navila.simulation import Position

#: Metres from the floor to a camera where a file does not say; Matterport's tripod stood at 1.3 to 1.7.
CAMERA_HEIGHT = 1.5


@dataclass(frozen=True, kw_only=True)
class ConnectivityGraph:
    """Viewpoints of one scan and the straight ways between them."""

    scan: str
    positions: Mapping[str, Position]
    """Floor point of each viewpoint, metres."""
    neighbours: Mapping[str, Mapping[str, float]]
    """Of each viewpoint, those next to it and the metres to them."""

    def distances(self, starts: Mapping[str, float]) -> dict[str, float]:
        """Metres to every viewpoint that can be reached, from the nearest of `starts` with its own offset."""
        found: dict[str, float] = {}
        waiting = [(offset, viewpoint) for viewpoint, offset in starts.items()]
        heapq.heapify(waiting)
        while waiting:
            distance, here = heapq.heappop(waiting)
            if here in found:
                continue
            found[here] = distance
            for there, length in self.neighbours[here].items():
                if there not in found:
                    heapq.heappush(waiting, (distance + length, there))
        return found

    def shortest_path(self, start: str, goal: str) -> tuple[str, ...]:
        """Viewpoints of the shortest way, both ends included; empty when there is none."""
        left = self.distances({goal: 0.0})
        if start not in left:
            return ()
        path = [start]
        while path[-1] != goal:
            ways = self.neighbours[path[-1]]
            path.append(min((v for v in ways if v not in path), key=lambda v: ways[v] + left[v]))
        return tuple(path)


class ConnectivityGraphs:
    """The graphs of a folder or file, each built when it is first asked for.

    A folder has `<scan>_connectivity.json` as Matterport3D's simulator ships them. A file, gzipped or not, has all:
    `{scan: {"nodes": {viewpoint: [x, y, z]}, "edges": [[viewpoint, viewpoint, …], …]}}`, cameras in habitat's axes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._graphs: dict[str, ConnectivityGraph] = {}
        self._scans: Mapping[str, Any] | None = None
        if self.path.is_dir():
            return
        if not self.path.exists():
            raise DataError(
                f"There are no connectivity graphs at {self.path}: download the folder 'connectivity' of "
                "https://github.com/peteanderson80/Matterport3DSimulator and give its path."
            )
        scans = _load(self.path)
        if not isinstance(scans, Mapping):
            raise DataError(f"{self.path} is no object keyed by scan: give connectivity graphs.")
        self._scans = scans

    def __getitem__(self, scan: str) -> ConnectivityGraph:
        """The graph of a scan.

        Raises:
            DataError: there is none, or it is malformed.
        """
        if scan not in self._graphs:
            self._graphs[scan] = self._read(scan)
        return self._graphs[scan]

    def _read(self, scan: str) -> ConnectivityGraph:
        if self._scans is None:
            path = self.path / f"{scan}_connectivity.json"
            if not path.is_file():
                raise DataError(f"There is no graph of the scan {scan!r}: {path} does not exist.")
            return _of_matterport(scan, _load(path), path)
        if scan not in self._scans:
            raise DataError(f"There is no graph of the scan {scan!r} in {self.path}, which has {len(self._scans)}.")
        return _of_nodes(scan, self._scans[scan], self.path)


def graph_of(scan: str, positions: Mapping[str, Position], edges: Iterable[Sequence[str]]) -> ConnectivityGraph:
    """A graph of floor points and pairs of viewpoints.

    Raises:
        KeyError: an edge names a viewpoint without position.
    """
    neighbours: dict[str, dict[str, float]] = {viewpoint: {} for viewpoint in positions}
    for a, b in edges:
        length = math.dist(positions[a], positions[b])
        if a != b and length > 0:
            neighbours[a][b] = neighbours[b][a] = length
    return ConnectivityGraph(scan=scan, positions=dict(positions), neighbours=neighbours)


def _of_nodes(scan: str, record: Any, path: Path) -> ConnectivityGraph:
    try:
        positions = {str(viewpoint): _point(xyz, CAMERA_HEIGHT) for viewpoint, xyz in record["nodes"].items()}
        return graph_of(scan, positions, [(edge[0], edge[1]) for edge in record["edges"]])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _malformed(scan, path, error) from None


def _of_matterport(scan: str, record: Any, path: Path) -> ConnectivityGraph:
    """Viewpoints that are included, joined where the way is unobstructed: the rule R2R's paths were drawn by."""
    try:
        # The pose is a row-major 4 x 4 matrix from camera to world, z up.
        positions = {
            str(view["image_id"]): _point((view["pose"][3], view["pose"][11], -view["pose"][7]), view["height"])
            for view in record
            if view["included"]
        }
        edges = [
            (str(view["image_id"]), str(other["image_id"]))
            for view in record
            if view["included"]
            for other, free in zip(record, view["unobstructed"], strict=True)
            if free and other["included"]
        ]
        return graph_of(scan, positions, edges)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _malformed(scan, path, error) from None


def _point(camera: Sequence[float], height: float) -> Position:
    x, y, z = map(float, camera)
    if not all(map(math.isfinite, (x, y, z, height))):
        raise ValueError("a position is not finite")
    return x, y - height, z


def _malformed(scan: str, path: Path, error: Exception) -> DataError:
    return DataError(
        f"The graph of the scan {scan!r} in {path} is malformed ({type(error).__name__}: {error}); fetch it again."
    )


def _load(path: Path) -> Any:
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (ValueError, EOFError, zlib.error, OSError, RecursionError) as error:
        raise DataError(f"The connectivity graphs {path} cannot be read ({error}); fetch them again.") from error
