"""The list of instructions a person writes for a scan of their own: JSON, JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from navila.errors import DataError
from navila.r2r import densified
from navila.simulation import Episode, Position, rotation_of

from navila_bench_vln.markers import Marker

_KEYS = ("id", "instruction", "start", "heading", "goal", "radius", "path")
_EXAMPLE = '{"instruction": "Go to the kitchen.", "start": [1.5, -2.0], "heading": 90, "goal": "kitchen"}'


def read_walks(
    path: Path,
    scene_id: str,
    markers: Mapping[str, Marker],
    anywhere: Callable[[], Position],
    up: Literal["y", "z"] = "y",
) -> tuple[Episode, ...]:
    """One episode a record.

    A point is `[x, z]`, on a floor at height 0, `[x, y, z]`, or the name of a node of the scene; in a z-up scan
    `[x, y]` and `[x, y, z]` of its own axes. `heading` is in degrees, 0 along -z (z-up: along y), positive to the left,
    and that of the node where `start` is one; `radius` is 3 m, `path` has points between. Without `start` a walk begins
    at `anywhere()`; without `goal` it is not scored.

    Raises:
        DataError: the file or a record is malformed; names the record and what is wrong.
    """
    episodes: list[Episode] = []
    for number, record in enumerate(_records(path), 1):
        where = f"Walk {number} of {path}"
        if not isinstance(record, Mapping):
            raise DataError(f"{where} is no object: write one like {_EXAMPLE}.")
        unknown = next((key for key in record if key not in _KEYS), None)
        if unknown is not None:
            raise DataError(f"{where} has {unknown!r}, which says nothing: the keys are {', '.join(_KEYS)}.")
        episodes.append(_episode(record, where, number, scene_id, markers, anywhere, up))
    if not episodes:
        raise DataError(f"{path} has no walk: write records like {_EXAMPLE}.")
    name, count = Counter(episode.episode_id for episode in episodes).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path} has two walks with the id {name!r}: give each its own.")
    return tuple(episodes)


def _episode(
    record: Mapping[str, Any],
    where: str,
    number: int,
    scene_id: str,
    markers: Mapping[str, Marker],
    anywhere: Callable[[], Position],
    up: Literal["y", "z"],
) -> Episode:
    instruction = record.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        raise DataError(f"{where} has no instruction: write one like {_EXAMPLE}.")

    def point(key: str, value: Any) -> Position:
        return _point(value, f"{where}: its {key}", markers, up)

    start = record.get("start")
    heading = record.get("heading")
    marker = markers.get(start) if isinstance(start, str) else None
    if heading is None:
        yaw = marker.yaw if marker is not None else 0.0
    else:
        yaw = math.radians(_number(heading, f"{where}: its heading", "degrees"))
    radius = _number(record.get("radius", 3.0), f"{where}: its radius", "metres above 0", above=0.0)
    begin = point("start", start) if start is not None else anywhere()
    goals = (point("goal", record["goal"]),) if record.get("goal") is not None else ()
    between = record.get("path") or []
    if not isinstance(between, list):
        raise DataError(f"{where}: its path is {between!r}: give a list of points, in JSON.")
    way = (begin, *(point("path", value) for value in between), *goals) if between else ()
    return Episode(
        episode_id=str(record.get("id") or number),
        scene_id=scene_id,
        start_position=begin,
        start_rotation=rotation_of(yaw),
        goals=goals,
        goal_radius=radius,
        instruction=instruction.strip(),
        reference_path=way,
        gt_locations=densified(way) if goals else (),
    )


def _point(value: Any, where: str, markers: Mapping[str, Marker], up: Literal["y", "z"]) -> Position:
    if isinstance(value, str):
        if value not in markers:
            known = ", ".join(sorted(markers)[:8]) or "no named node"
            raise DataError(f"{where} is {value!r}, which the scene has no node of: it has {known}.")
        return markers[value].position
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (2, 3) or not all(_is_number(number) for number in numbers):
        raise DataError(f"{where} is {value!r}: give two or three numbers in metres, or the name of a node.")
    values = [float(number) for number in numbers]
    if up == "z":
        x, y, z = values if len(values) == 3 else (*values, 0.0)
        return x, z, -y
    x, y, z = values if len(values) == 3 else (values[0], 0.0, values[1])
    return x, y, z


def _number(value: Any, where: str, what: str, above: float = -math.inf) -> float:
    if not _is_number(value) or value <= above:
        raise DataError(f"{where} is {value!r}: give {what}.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _records(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list of walks {path} cannot be read ({error}); check -o instructions=FILE.") from None
    kinds: dict[str, Callable[[str], list[Any]]] = {".csv": _csv, ".jsonl": _json_lines}
    try:
        return kinds.get(path.suffix.lower(), _json)(text)
    except (ValueError, csv.Error) as error:
        raise DataError(f"The list of walks {path} cannot be read ({error}): write records like {_EXAMPLE}.") from None


def _json(text: str) -> list[Any]:
    document = json.loads(text)
    return document if isinstance(document, list) else [document]


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _csv(text: str) -> list[Any]:
    """Columns are keys; a point is two or three numbers with blanks between; what is empty is left out."""
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    return [{key: _cell(key, value) for key, value in row.items() if value not in (None, "")} for row in rows]


def _cell(key: str | None, value: Any) -> Any:
    if key in ("start", "goal", "heading", "radius"):
        try:
            numbers = [float(word) for word in str(value).split()]
        except ValueError:
            return value
        return numbers if key in ("start", "goal") else numbers[0] if len(numbers) == 1 else value
    return value
