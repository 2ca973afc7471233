"""R2R's and RxR's own files, paths of viewpoints with instructions, as episodes of VLN-CE. Light."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from navila.connectivity import ConnectivityGraph, ConnectivityGraphs
from navila.errors import DataError
from navila.simulation import Episode, Position, Rotation, rotation_of

#: Metres between positions of the dense path that nDTW is measured against: one step.
STEP = 0.25
#: Bytes of a file that tell what it is: more than a line of RxR with the times of its words.
_HEAD = 1 << 20


def read_r2r(path: str | Path, graphs: ConnectivityGraphs) -> tuple[Episode, ...]:
    """Episodes of a file of R2R (`R2R_val_unseen.json`, EnvDrop's `aug_paths.json`) or RxR (`….jsonl[.gz]`).

    One episode an instruction, called `<path_id>_<number>` as R2R's submissions are, or by RxR's `instruction_id`.

    Raises:
        DataError: a record is malformed, or its path is none of its scan's graph; names file, record and key.
    """
    path = Path(path)
    episodes: list[Episode] = []
    for number, record in enumerate(r2r_records(path)):
        try:
            episodes += _episodes(record, graphs)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"has no {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
            raise DataError(f"Record {number} of {path} {problem}; correct it or remove it.") from None
    if not episodes:
        raise DataError(f"{path} holds no path with an instruction; give a file of R2R or RxR.")
    return tuple(episodes)


def is_r2r(path: str | Path) -> bool:
    """Whether a file begins like one of R2R or RxR rather than one of VLN-CE; the rest is not looked at.

    Raises:
        DataError: the file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(_HEAD).decode(errors="replace").lstrip()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"The file of paths {path} cannot be read ({error}); check it.") from error
    if head.startswith("["):
        return True
    try:
        record = json.loads(head.partition("\n")[0])
    except ValueError:
        return False
    return isinstance(record, Mapping) and "path" in record


def r2r_records(path: Path) -> list[Any]:
    """The records of a JSON list or of JSON lines, gzipped or not.

    Raises:
        DataError: the file cannot be read or is neither.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"The file of paths {path} cannot be read ({error}); check it.") from error
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    try:
        lines = document if document is not None else [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise DataError(f"The file of paths {path} is neither JSON nor JSON lines ({error}); fetch it again.") from None
    return lines if isinstance(lines, list) else [lines]


def rotation_of_heading(heading: float) -> Rotation:
    """Quaternion of Matterport's heading: radians clockwise from its +y axis, which is -z here."""
    return rotation_of(-heading)


def densified(path: Sequence[Position], step: float = STEP) -> tuple[Position, ...]:
    """Points along a polyline: every `step` metres of each segment, and its end."""
    points: list[Position] = list(path[:1])
    for a, b in itertools.pairwise(path):
        length = math.dist(a, b)
        whole = math.ceil(length / step - 1e-9) - 1
        points += [_between(a, b, number * step / length) for number in range(1, whole + 1)]
        points.append(b)
    return tuple(points)


def _episodes(record: Any, graphs: ConnectivityGraphs) -> list[Episode]:
    if not isinstance(record, Mapping):
        raise TypeError(f"it is {type(record).__name__}, not an object")
    path_id, scan, viewpoints, heading = (record[key] for key in ("path_id", "scan", "path", "heading"))
    instructions = [record["instruction"]] if "instruction" in record else record["instructions"]
    if not isinstance(instructions, list) or not all(isinstance(text, str) for text in instructions):
        raise TypeError("its instructions are no list of text")
    points = _points(graphs[scan], viewpoints)
    goal = viewpoints[-1] if len(viewpoints) > 1 else None  # Test splits give the start alone.
    info: dict[str, Any] = {"scan": scan, "path": list(viewpoints)}
    if "language" in record:
        info["instruction"] = {"language": record["language"]}
    ids = [str(record["instruction_id"])] if "instruction_id" in record else None
    return [
        Episode(
            episode_id=ids[0] if ids else f"{path_id}_{number}",
            trajectory_id=str(path_id),
            scene_id=f"mp3d/{scan}/{scan}.glb",
            start_position=points[0],
            start_rotation=rotation_of_heading(float(heading)),
            goals=(points[-1],) if goal else (),
            instruction=text,
            reference_path=points,
            gt_locations=densified(points) if goal else (),
            geodesic_distance=graphs[scan].distances({goal: 0.0})[viewpoints[0]] if goal else None,
            info=info,
        )
        for number, text in enumerate(instructions)
    ]


def _points(graph: ConnectivityGraph, viewpoints: Any) -> tuple[Position, ...]:
    if not isinstance(viewpoints, list) or not viewpoints:
        raise TypeError("its path is no list of viewpoints")
    for viewpoint in viewpoints:
        if viewpoint not in graph.positions:
            raise ValueError(f"the scan {graph.scan} has no viewpoint {viewpoint!r}")
    for a, b in itertools.pairwise(viewpoints):
        if b not in graph.neighbours[a]:
            raise ValueError(f"the viewpoints {a} and {b} of the scan {graph.scan} are not next to each other")
    return tuple(graph.positions[viewpoint] for viewpoint in viewpoints)


def _between(a: Position, b: Position, share: float) -> Position:
    x, y, z = (p + (q - p) * share for p, q in zip(a, b, strict=True))
    return x, y, z
