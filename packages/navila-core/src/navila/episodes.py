"""Episode files of VLN-CE, R2R and RxR alike: `<split>.json[.gz]` with the expert paths in `<split>_gt.json[.gz]`."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from navila.errors import DataError
from navila.files import write_atomically
from navila.simulation import Episode, Position, Rotation, rotation_of

_KNOWN_KEYS = frozenset(
    {
        "episode_id",
        "trajectory_id",
        "scene_id",
        "start_position",
        "start_rotation",
        "goals",
        "instruction",
        "reference_path",
        "gt_locations",
        "info",
    }
)
#: What older files put before the scene's own path.
_SCENES_PREFIX = "data/scene_datasets/"
#: Success distance where a file gives none, metres.
_DEFAULT_RADIUS = 3.0


def read_episodes(path: str | Path, ground_truth: str | Path | None = None) -> tuple[Episode, ...]:
    """Episodes of a VLN-CE file, with the expert paths of `ground_truth`, by default the `_gt` file next to it.

    Files of VLN-CE-Isaac, whose z points up and which hold the expert paths themselves, are turned to habitat's axes.
    Keys the format does not know go into `Episode.info`; those of the instruction into `info["instruction"]`, the
    expert's actions into `info["gt_actions"]`.

    Raises:
        DataError: a file is missing, corrupt or not of this format; names file, episode and key.
    """
    path = Path(path)
    document = _load(path)
    records = document.get("episodes") if isinstance(document, Mapping) else None
    if not isinstance(records, list):
        raise DataError(f"{path} has no list 'episodes'; give an episode file of VLN-CE.")
    paths: Any = {}
    gt_path = Path(ground_truth) if ground_truth is not None else _neighbour(path)
    if gt_path is not None:
        paths = _load(gt_path)
        if not isinstance(paths, Mapping):
            raise DataError(f"{gt_path} is not an object keyed by episode id; give the _gt file that goes with {path}.")
    episodes = []
    seen: set[str] = set()
    for index, record in enumerate(records):
        episode = _episode(record, _Where(path, f"number {index}"), paths, gt_path)
        if episode.episode_id in seen:
            raise DataError(f"{path} holds episode {episode.episode_id!r} twice; make the ids unique.")
        seen.add(episode.episode_id)
        episodes.append(episode)
    return tuple(episodes)


def write_episodes(path: str | Path, episodes: Iterable[Episode]) -> None:
    """Write a VLN-CE file, gzipped when `path` ends in `.gz`, with a `_gt` file when there are expert paths."""
    path = Path(path)
    episodes = tuple(episodes)
    # habitat's loader of R2R refuses a file without a vocabulary.
    _dump(path, {"episodes": [_record(e) for e in episodes], "instruction_vocab": {"word_list": []}})
    paths = {e.episode_id: _ground_truth(e) for e in episodes if e.gt_locations}
    if paths:
        _dump(ground_truth_path(path), paths)


def language_of(episode: Episode) -> str:
    """Language of the instruction as RxR writes it, e.g. `en-IN`; empty where the file does not say."""
    instruction = episode.info.get("instruction")
    return str(instruction.get("language", "")) if isinstance(instruction, Mapping) else ""


def ground_truth_path(path: str | Path) -> Path:
    """Where the expert paths of an episode file stand: `val.json.gz` -> `val_gt.json.gz`."""
    path = Path(path)
    stem = path.name
    suffix = ""
    for ending in (".gz", ".json"):
        if stem.endswith(ending):
            stem, suffix = stem.removesuffix(ending), ending + suffix
    return path.with_name(f"{stem}_gt{suffix}")


class _Where:
    """Names a record in an error."""

    def __init__(self, path: Path, episode: str) -> None:
        self.path, self.episode = path, episode

    def error(self, key: str, problem: str) -> DataError:
        return DataError(f"Episode {self.episode} of {self.path}: {key!r} {problem}; correct the record or remove it.")


def _episode(record: Any, where: _Where, paths: Mapping[str, Any], gt_path: Path | None) -> Episode:
    if not isinstance(record, Mapping):
        raise where.error("episodes", f"holds {type(record).__name__} instead of an object")
    episode_id = _identifier(record, "episode_id", where)
    where = _Where(where.path, repr(episode_id))
    info = dict(_mapping(record, "info", where))
    info.update((key, value) for key, value in record.items() if key not in _KNOWN_KEYS)
    text, extras = _instruction(record.get("instruction", ""), where)
    if extras:
        info["instruction"] = extras
    goals, radius = _goals(record.get("goals"), where)
    locations = _points(record.get("gt_locations") or [], "gt_locations", where)
    truth = paths.get(episode_id)
    if truth is not None:
        there = _Where(gt_path or where.path, where.episode)
        if not isinstance(truth, Mapping):
            raise there.error(episode_id, "is not an object")
        locations = _points(truth.get("locations", []), "locations", there)
        if "actions" in truth:
            info["gt_actions"] = truth["actions"]
    distance = info.pop("geodesic_distance", None)
    if distance is not None and not _is_number(distance):
        raise where.error("info.geodesic_distance", "is not a number")
    episode = Episode(
        episode_id=episode_id,
        trajectory_id=_identifier(record, "trajectory_id", where) if "trajectory_id" in record else "",
        scene_id=_text(record, "scene_id", where).removeprefix(_SCENES_PREFIX),
        start_position=_point(record.get("start_position"), "start_position", where),
        start_rotation=_rotation(record.get("start_rotation"), where),
        goals=goals,
        goal_radius=radius,
        instruction=text,
        reference_path=_points(record.get("reference_path") or [], "reference_path", where),
        gt_locations=locations,
        geodesic_distance=None if distance is None else float(distance),
        info=info,
    )
    return _from_isaac(episode) if "gt_locations" in record else episode


def _from_isaac(episode: Episode) -> Episode:
    """An episode of VLN-CE-Isaac, known by its expert path within: z points up, and a robot that is not turned looks
    along +x; its quaternion is (w, x, y, z)."""

    def turned(points: tuple[Position, ...]) -> tuple[Position, ...]:
        return tuple((x, z, -y) for x, y, z in points)

    w, x, y, z = episode.start_rotation
    # Habitat's yaw 0 looks along -z, which is a quarter to the left of +x.
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)) - math.pi / 2
    (start,) = turned((episode.start_position,))
    return replace(
        episode,
        start_position=start,
        start_rotation=rotation_of(yaw),
        goals=turned(episode.goals),
        reference_path=turned(episode.reference_path),
        gt_locations=turned(episode.gt_locations),
    )


def _record(episode: Episode) -> dict[str, Any]:
    info = dict(episode.info)
    extras = info.pop("instruction", {})
    info.pop("gt_actions", None)
    if episode.geodesic_distance is not None:
        info["geodesic_distance"] = episode.geodesic_distance
    record: dict[str, Any] = {"episode_id": episode.episode_id}
    if episode.trajectory_id:
        record["trajectory_id"] = episode.trajectory_id
    return record | {
        "scene_id": episode.scene_id,
        "start_position": list(episode.start_position),
        "start_rotation": list(episode.start_rotation),
        "info": info,
        "goals": [{"position": list(goal), "radius": episode.goal_radius} for goal in episode.goals],
        "instruction": {"instruction_text": episode.instruction, **extras},
        "reference_path": [list(point) for point in episode.reference_path],
    }


def _ground_truth(episode: Episode) -> dict[str, Any]:
    truth: dict[str, Any] = {"locations": [list(point) for point in episode.gt_locations]}
    actions = episode.info.get("gt_actions")
    if actions is not None:
        truth["forward_steps"] = sum(action == 1 for action in actions)
        truth["actions"] = list(actions)
    return truth


def _instruction(value: Any, where: _Where) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping):
        raise where.error("instruction", "is neither text nor an object")
    text = value.get("instruction_text", "")
    if not isinstance(text, str):
        raise where.error("instruction.instruction_text", "is not text")
    return text, {key: extra for key, extra in value.items() if key != "instruction_text"}


def _goals(value: Any, where: _Where) -> tuple[tuple[Position, ...], float]:
    """Goal positions and their common radius; test splits have none."""
    if value is None:
        return (), _DEFAULT_RADIUS
    if not isinstance(value, list) or not all(isinstance(goal, Mapping) for goal in value):
        raise where.error("goals", "is not a list of objects")
    radii = {goal.get("radius") for goal in value if goal.get("radius") is not None}
    if not all(_is_number(radius) and radius > 0 for radius in radii):
        raise where.error("goals.radius", "is not a positive number")
    if len(radii) > 1:
        raise where.error("goals.radius", "differs between the goals")
    positions = tuple(_point(goal.get("position"), "goals.position", where) for goal in value)
    return positions, float(radii.pop()) if radii else _DEFAULT_RADIUS


def _identifier(record: Mapping[str, Any], key: str, where: _Where) -> str:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise where.error(key, "is missing" if value is None else "is neither text nor a whole number")
    return str(value)


def _text(record: Mapping[str, Any], key: str, where: _Where) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise where.error(key, "is missing" if value is None else "is not text")
    return value


def _mapping(record: Mapping[str, Any], key: str, where: _Where) -> Mapping[str, Any]:
    value = record.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise where.error(key, "is not an object")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _point(value: Any, key: str, where: _Where) -> Position:
    if value is None:
        raise where.error(key, "is missing")
    if not isinstance(value, list) or len(value) != 3 or not all(_is_number(number) for number in value):
        raise where.error(key, "is not a list of three numbers")
    return float(value[0]), float(value[1]), float(value[2])


def _points(value: Any, key: str, where: _Where) -> tuple[Position, ...]:
    if not isinstance(value, list):
        raise where.error(key, "is not a list of points")
    # EnvDrop's files have eight million points: those that are plain go without further questions.
    plain = [_plain_point(point) for point in value]
    if None not in plain:
        return tuple(plain)  # pyright: ignore[reportReturnType]
    return tuple(_point(point, f"{key}[{index}]", where) for index, point in enumerate(value))


def _plain_point(value: Any) -> Position | None:
    """A point that is three finite floats; None for any other."""
    if type(value) is not list or len(value) != 3:
        return None
    x, y, z = value
    return (x, y, z) if type(x) is type(y) is type(z) is float and math.isfinite(x + y + z) else None


def _rotation(value: Any, where: _Where) -> Rotation:
    if value is None:
        raise where.error("start_rotation", "is missing")
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(number) for number in value):
        raise where.error("start_rotation", "is not a list of four numbers (x, y, z, w)")
    if abs(math.hypot(*value) - 1.0) > 0.01:
        raise where.error("start_rotation", "is not a unit quaternion (x, y, z, w)")
    return float(value[0]), float(value[1]), float(value[2]), float(value[3])


def _neighbour(path: Path) -> Path | None:
    usual = ground_truth_path(path)
    plain = usual.with_name(usual.name.removesuffix(".gz"))
    return next((p for p in (usual, plain, plain.with_name(plain.name + ".gz")) if p.is_file()), None)


def _load(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"The episode file {path} cannot be read ({error.strerror}); check the path.") from error
    try:
        # By content, not by name: downloads are sometimes unpacked without renaming.
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return json.loads(text)
    except (ValueError, EOFError, zlib.error, OSError, RecursionError) as error:
        raise DataError(f"The episode file {path} is corrupt ({error}); fetch or make it again.") from error


def _dump(path: Path, document: Any) -> None:
    data = json.dumps(document, ensure_ascii=False).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    write_atomically(path, data)
