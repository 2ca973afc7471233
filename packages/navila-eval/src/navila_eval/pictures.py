"""Small pictures kept during a run, so that a report can be drawn from the output folder alone."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from navila.files import write_atomically
from navila.images import as_jpeg
from navila.simulation import Observation, ProceduralSimulator, Simulator, TopDownMap
from numpy.typing import NDArray
from PIL import Image

from navila_eval.jsonl import write_json
from navila_eval.simulator_process import SimulatorProcess
from navila_eval.walk import Walk

#: Longest side of a kept first-person image in pixels.
FRAME_SIDE = 128
#: Longest side of a kept map in pixels.
MAP_SIDE = 448


@dataclass(frozen=True, kw_only=True)
class KeptMap:
    """A floor from above."""

    key: str
    jpeg: bytes
    facts: Mapping[str, Any]
    """`origin`, `resolution`, `width` and `height` as in `navila.simulation.TopDownMap`, and `landmarks`."""


class Keeper:
    """Keeps pictures of walks; of one walk it is told in order, of several at once."""

    needs_images = False
    """Whether images are rendered for it that the agent does not look at."""

    def start(self, walk: Walk) -> None:
        """A walk begins: its simulator stands at the start."""

    def decision(self, walk: Walk, observation: Observation) -> None:
        """A decision is due on what is seen now."""

    def moved(self, walk: Walk, seen: Sequence[Observation]) -> None:
        """This was seen, at the start or after each primitive of an action."""

    def finish(self, walk: Walk) -> None:
        """A walk is over and measured."""


class PictureKeeper(Keeper):
    """Writes the floor of each chosen episode, and the image at each of its decisions, as JPEG.

    `<folder>/maps/<floor>.jpg, <floor>.json` and `<folder>/frames/<episode>/<primitives before>.jpg`.
    """

    def __init__(self, folder: Path, episode_ids: Collection[str], *, frames: bool) -> None:
        self.folder = folder
        self._episode_ids = frozenset(episode_ids)
        self._frames = frames
        self._maps = threading.Lock()

    def start(self, walk: Walk) -> None:
        """Keep the map of the floor the walk starts on, and forget images of an earlier attempt."""
        if walk.episode.episode_id not in self._episode_ids:
            return
        for old in _frame_folder(self.folder, walk.episode.episode_id).glob("*.jpg"):
            old.unlink()
        path = self.folder / "maps" / floor_key(walk.episode.scene_id, walk.positions)
        with self._maps:
            if not path.with_suffix(".json").exists():
                _write_map(path, walk)

    def decision(self, walk: Walk, observation: Observation) -> None:
        """Keep what was seen when a decision was due."""
        if not self._frames or walk.episode.episode_id not in self._episode_ids:
            return
        folder = _frame_folder(self.folder, walk.episode.episode_id)
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(observation.rgb)
        image.thumbnail((FRAME_SIDE, FRAME_SIDE))
        image.save(folder / f"{len(walk.primitives):05d}.jpg", quality=68)


def _write_map(path: Path, walk: Walk) -> None:
    floor = floor_of(walk.simulator)
    if floor is None:
        return
    image, facts = floor
    image.thumbnail((MAP_SIDE, MAP_SIDE))
    # Another process may be at the same floor.
    write_atomically(path.with_suffix(".jpg"), as_jpeg(image, 60))
    write_json(path.with_suffix(".json"), {**facts, "landmarks": _landmarks(walk.simulator)})


def floor_of(simulator: Simulator) -> tuple[Image.Image, dict[str, Any]] | None:
    """The map of the floor an agent is on, and where it lies as `KeptMap.facts` has it, without landmarks.

    None where the simulator gives none: pictures can do without a map, and the walk itself is not touched by it.
    """
    try:
        floor = simulator.top_down_map()
        image = Image.fromarray(_outlined(floor)).convert("RGB")
        x, z = map(float, floor.origin)
        resolution = float(floor.resolution)
    except Exception:
        return None
    if not (math.isfinite(x + z + resolution) and resolution > 0):
        return None
    return image, {"origin": (x, z), "resolution": resolution, "width": image.width, "height": image.height}


def _outlined(floor: TopDownMap) -> NDArray[np.uint8]:
    """A floor with dark lines round what can be walked: from above, the hollow walls of many a scan are not seen."""
    walkable = floor.walkable
    edge = np.zeros_like(walkable)
    edge[:-1] |= walkable[:-1] != walkable[1:]
    edge[:, :-1] |= walkable[:, :-1] != walkable[:, 1:]
    return np.where(edge[..., None], floor.rgb // 3, floor.rgb)


def _landmarks(simulator: Simulator) -> list[dict[str, Any]]:
    if not isinstance(simulator, ProceduralSimulator | SimulatorProcess):
        return []
    try:
        marks = simulator.landmarks()
        return [{"name": str(mark.name), "position": tuple(map(float, mark.position))} for mark in marks]
    except Exception:
        return []


def floor_key(scene_id: str, positions: Sequence[Sequence[float]]) -> str:
    """A name for the floor a walk starts on: scenes may have several."""
    return file_name(f"{scene_id}@{positions[0][1]:.1f}")


def _frame_folder(folder: Path, episode_id: str) -> Path:
    return folder / "frames" / file_name(episode_id)


def file_name(name: str) -> str:
    """A file name for a scene or episode, whatever characters its id has."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[-40:]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def kept_map(folder: Path, scene_id: str, positions: Sequence[Sequence[float]]) -> KeptMap | None:
    """The map of the floor a walk started on, or None when it was not kept."""
    if not positions:
        return None
    key = floor_key(scene_id, positions)
    path = folder / "maps" / key
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return KeptMap(key=key, jpeg=path.with_suffix(".jpg").read_bytes(), facts=facts)
    except (OSError, ValueError):
        return None


def kept_frames(folder: Path, episode_id: str) -> dict[int, Path]:
    """The images kept of an episode, by the primitives executed before."""
    return {int(path.stem): path for path in sorted(_frame_folder(folder, episode_id).glob("*.jpg"))}
