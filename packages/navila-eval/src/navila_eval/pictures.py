"""Small pictures kept during a run, so that a report can be drawn from the output folder alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from navila.simulation import Observation, ProceduralSimulator
from PIL import Image

from navila_eval.jsonl import write_json
from navila_eval.walk import Walk

#: Longest side of a kept first-person image in pixels.
FRAME_SIDE = 128
#: Longest side of a kept map in pixels.
MAP_SIDE = 448


class PictureKeeper:
    """Writes the map of each chosen episode, and the image of each of its decisions, as JPEG.

    `<folder>/<key of the episode>/map.jpg, map.json, frame_<primitives before>.jpg`.
    """

    def __init__(self, folder: Path, episode_ids: Collection[str], *, frames: bool) -> None:
        self.folder = folder
        self._episode_ids = frozenset(episode_ids)
        self._frames = frames

    def start(self, walk: Walk) -> None:
        if walk.episode.episode_id not in self._episode_ids:
            return
        folder = self.folder / episode_key(walk.episode.episode_id)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("frame_*.jpg"):
            old.unlink()
        try:
            top_down = walk.simulator.top_down_map()
        except Exception:  # A report without a map is still a report; the walk itself is not touched by it.
            return
        image = Image.fromarray(top_down.rgb)
        image.thumbnail((MAP_SIDE, MAP_SIDE))
        image.convert("RGB").save(folder / "map.jpg", quality=60)
        landmarks = []
        if isinstance(walk.simulator, ProceduralSimulator):
            landmarks = [
                {"name": mark.name, "colour": mark.colour, "position": mark.position}
                for mark in walk.simulator.landmarks()
            ]
        height, width = top_down.rgb.shape[:2]
        write_json(
            folder / "map.json",
            {
                "origin": top_down.origin,
                "resolution": top_down.resolution,
                "width": width,
                "height": height,
                "landmarks": landmarks,
            },
        )

    def decision(self, walk: Walk, observation: Observation) -> None:
        if not self._frames or walk.episode.episode_id not in self._episode_ids:
            return
        image = Image.fromarray(observation.rgb)
        image.thumbnail((FRAME_SIDE, FRAME_SIDE))
        name = f"frame_{len(walk.primitives):05d}.jpg"
        image.save(self.folder / episode_key(walk.episode.episode_id) / name, quality=68)


def episode_key(episode_id: str) -> str:
    """A folder name for an episode, whatever characters its id has."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in episode_id)[:40]
    return f"{plain}-{hashlib.sha256(episode_id.encode()).hexdigest()[:8]}"


def kept_map(folder: Path, episode_id: str) -> tuple[bytes, dict[str, object]] | None:
    """The map's JPEG and its facts, or None when they were not kept."""
    own = folder / episode_key(episode_id)
    try:
        return (own / "map.jpg").read_bytes(), json.loads((own / "map.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def kept_frame(folder: Path, episode_id: str, step: int) -> bytes | None:
    """The JPEG seen when `step` primitives had been executed and a decision was due, or None when it was not kept."""
    path = folder / episode_key(episode_id) / f"frame_{step:05d}.jpg"
    return path.read_bytes() if path.exists() else None
