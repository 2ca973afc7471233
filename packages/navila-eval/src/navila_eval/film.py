"""Films of walks: what the agent sees beside the map with its path, the instruction and what it answers."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from navila.errors import ConfigError
from navila.images import as_jpeg
from navila.simulation import Observation
from PIL import Image, ImageDraw, ImageFont

from navila_eval.pictures import Keeper, file_name, floor_of
from navila_eval.report_map import pixel
from navila_eval.walk import Walk

#: Height of the view and the map in pixels.
HEIGHT = 384
#: Height of a line of text, and how many there are.
LINE, LINES = 20, 5
#: Images, that is primitives, a second.
RATE = 4
#: Images for which the end of the walk is shown.
LAST = 8
#: JPEG quality of views that wait for their film.
QUALITY = 90
_INK, _SOFT, _PAPER = (235, 239, 245), (150, 160, 175), (18, 24, 33)
_TAKEN, _REFERENCE, _GOAL, _START = (47, 123, 240), (46, 165, 106), (255, 210, 63), (255, 255, 255)


@dataclass(eq=False)
class _Reel:
    """What is kept of a walk until its film is made."""

    map: tuple[Image.Image, Mapping[str, Any]] | None
    views: list[bytes] = field(default_factory=list)


class FilmKeeper(Keeper):
    """Writes `<folder>/<episode>.mp4` of the walks that are wanted, before their records are written."""

    needs_images = True

    def __init__(self, folder: Path, wanted: str, episode_ids: Sequence[str]) -> None:
        """Films of `all`, of `failed` ones, or of the first N of `episode_ids`.

        Raises:
            ConfigError: `wanted` is none of these.
        """
        self.folder = folder
        self._failed_only = wanted == "failed"
        self._ids = frozenset(episode_ids[: film_count(wanted)])
        self._reels: dict[str, _Reel] = {}

    def start(self, walk: Walk) -> None:
        """Begin a film with the floor the walk starts on."""
        if walk.episode.episode_id in self._ids:
            self._reels[walk.episode.episode_id] = _Reel(floor_of(walk.simulator))

    def moved(self, walk: Walk, seen: Sequence[Observation]) -> None:
        """Keep what was seen."""
        reel = self._reels.get(walk.episode.episode_id)
        if reel is not None:
            reel.views += [as_jpeg(Image.fromarray(observation.rgb), QUALITY) for observation in seen]

    def finish(self, walk: Walk) -> None:
        """Make the film, unless only failures are wanted and this is none."""
        reel = self._reels.pop(walk.episode.episode_id, None)
        path = self.folder / f"{file_name(walk.episode.episode_id)}.mp4"
        path.unlink(missing_ok=True)
        if reel is None or not reel.views:
            return
        record = walk.record()
        if self._failed_only and record["metrics"]["success"]:
            return
        write_film(path, record, reel.views, reel.map)


def film_count(wanted: str) -> int | None:
    """Of how many episodes to make films: all but for a number.

    Raises:
        ConfigError: it is neither `all` nor `failed` nor a number.
    """
    if wanted in ("all", "failed"):
        return None
    if not wanted.isdigit() or not int(wanted):
        raise ConfigError(f"There are no videos of {wanted!r}: give --video all, failed, or a number of episodes.")
    return int(wanted)


def write_film(
    path: Path,
    record: Mapping[str, Any],
    views: Sequence[bytes],
    floor: tuple[Image.Image, Mapping[str, Any]] | None,
) -> None:
    """Write a film (H.264, MP4) of a recorded walk; it is there when it is whole.

    Args:
        path: of the film.
        record: of the walk.
        views: JPEGs of what was seen at its positions.
        floor: the map and where it lies, as of `floor_of`; none leaves its place out.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    background = _background(record, floor)
    with av.open(str(part), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "23", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        for time in _times(len(views)):
            picture = _frame(record, time, views, background, floor)
            if not stream.codec_context.is_open:
                stream.width, stream.height = picture.size
                stream.time_base = Fraction(1, RATE)
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    part.replace(path)


def _times(count: int) -> list[int]:
    return [*range(count), *[count - 1] * LAST]


def _frame(
    record: Mapping[str, Any],
    time: int,
    views: Sequence[bytes],
    background: Image.Image | None,
    floor: tuple[Image.Image, Mapping[str, Any]] | None,
) -> Image.Image:
    """One image of the film: view, map and text."""
    seen = _scaled(Image.open(io.BytesIO(views[time])).convert("RGB"))
    width = seen.width + (background.width if background else 0)
    # Encoders of YUV 4:2:0 take even sizes only.
    frame = Image.new("RGB", (max(width, 480) // 2 * 2, HEIGHT + LINE * LINES), _PAPER)
    frame.paste(seen, (0, 0))
    if background is not None and floor is not None:
        here = background.copy()
        _draw_path(ImageDraw.Draw(here), record, time, here.width / floor[1]["width"], floor[1])
        frame.paste(here, (seen.width, 0))
    # A walk that broke off amid an action ends with what was seen before it.
    _write(ImageDraw.Draw(frame), record, time, frame.width, last=time == len(views) - 1)
    return frame


def _background(record: Mapping[str, Any], floor: tuple[Image.Image, Mapping[str, Any]] | None) -> Image.Image | None:
    """The map with what does not change: the expert's path, the start and the goals with their radius."""
    if floor is None:
        return None
    image, facts = _scaled(floor[0]), floor[1]
    scale = image.width / facts["width"]
    radius = record["success_distance"] / facts["resolution"] * scale
    goals = [_at(facts, goal, scale) for goal in record["goals"]]
    # Goals close to each other are one place to be.
    reach = Image.new("L", image.size)
    for goal in goals:
        _dot(ImageDraw.Draw(reach), goal, radius, 80)
    image.paste(_GOAL, mask=reach)
    draw = ImageDraw.Draw(image)
    if goals:
        x, y = np.mean(goals, axis=0).tolist()
        _dot(draw, (x, y), 5, _GOAL)
    if len(record["gt_locations"]) > 1:
        draw.line([_at(facts, point, scale) for point in record["gt_locations"]], fill=_REFERENCE, width=2)
    _dot(draw, _at(facts, record["positions"][0], scale), 4, _START)
    return image


def _draw_path(
    draw: ImageDraw.ImageDraw, record: Mapping[str, Any], time: int, scale: float, facts: Mapping[str, Any]
) -> None:
    """The way up to now, and where the agent stands and looks."""
    points = [_at(facts, position, scale) for position in record["positions"][: time + 1]]
    if len(points) > 1:
        draw.line(points, fill=_TAKEN, width=3)
    x, y = points[-1]
    _, qy, _, qw = record["rotations"][time]
    # Yaw 0 looks along -z, which is up on the map.
    forward = np.array([-2 * qy * qw, -(1 - 2 * qy * qy)])
    aside = np.array([-forward[1], forward[0]])
    tip, left, right = 11 * forward, -6 * forward + 6 * aside, -6 * forward - 6 * aside
    draw.polygon([(x + dx, y + dy) for dx, dy in (tip, left, right)], fill=_TAKEN, outline=(255, 255, 255))


def _write(draw: ImageDraw.ImageDraw, record: Mapping[str, Any], time: int, width: int, *, last: bool) -> None:
    """The instruction, what was answered last, and where the walk stands."""
    font = ImageFont.load_default(15)
    columns = max(20, round(width / font.getlength("n")))
    told = textwrap.wrap(record["instruction"], columns)
    if len(told) > LINES - 2:
        told = [*told[: LINES - 3], f"{told[LINES - 3][: columns - 2]} …"]
    said = [decision for decision in record["decisions"] if decision["step"] <= time]
    answer = said[-1]["text"] if said else ""
    distance = record["distances"][time] if time < len(record["distances"]) else None
    state = f"step {time}" if distance is None else f"step {time}   {distance:.2f} m to the goal"
    if last:
        missed = ", no success" if record["goals"] else ""
        reached = record["goals"] and record["metrics"]["success"]
        state += f"   {'success' if reached else record['error'] or record['outcome'] + missed}"
    lines = [(line, _INK) for line in told] + [(answer, _GOAL), (state, _SOFT)]
    for number, (line, colour) in enumerate(lines):
        draw.text((8, HEIGHT + 2 + number * LINE), line[: 2 * columns], fill=colour, font=font)


def _scaled(image: Image.Image) -> Image.Image:
    width = max(1, round(image.width * HEIGHT / image.height))
    return image.resize((width, HEIGHT), Image.Resampling.BILINEAR)


def _at(facts: Mapping[str, Any], position: Sequence[float], scale: float) -> tuple[float, float]:
    column, row = pixel(facts, position)
    return column * scale, row * scale


def _dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, fill: Any) -> None:
    x, y = at
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
