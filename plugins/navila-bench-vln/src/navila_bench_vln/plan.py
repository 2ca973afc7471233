"""A plan of a scan with its coordinates, and somewhere to stand in it, for who writes a list of walks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from navila.errors import DataError, SceneError
from navila.simulation import Episode, Position, Simulator, TopDownMap
from PIL import Image, ImageDraw, ImageFont

#: Metres from the origin within which a place to stand is looked for, between tries, and up and down.
_REACH, _STEP, _HEIGHTS = 15, 1.0, (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, -2.0, 3.0, -3.0)
#: Longest side of a plan, pixels, and lines of its grid at most.
_SIDE, _LINES = 1200, 16
_INK, _PAPER, _GRID = (20, 20, 20), (255, 255, 255), (60, 110, 190)


def standing_place(simulator: Simulator, scene_id: str) -> Position:
    """The walkable point nearest to the scene's origin, as far as tries a metre apart tell.

    Raises:
        DataError: there is none within 15 m.
        SceneError: the scene cannot be loaded.
    """
    shown, simulator.render_images = simulator.render_images, False
    try:
        failure: SceneError | None = None
        for start in _places():
            try:
                episode = Episode(
                    episode_id="plan", scene_id=scene_id, start_position=start, start_rotation=(0, 0, 0, 1), goals=()
                )
                return simulator.reset(episode).position
            except SceneError as error:
                # Of a scene that cannot be loaded nothing else is ever said.
                if failure is not None and str(error) == str(failure):
                    raise
                failure = error
        raise DataError(f"{scene_id} has no floor within {_REACH} m of its origin: give every walk a start.")
    finally:
        simulator.render_images = shown


def _places() -> Iterator[Position]:
    count = round(_REACH / _STEP)
    grid = [(x * _STEP, z * _STEP) for x in range(-count, count + 1) for z in range(-count, count + 1)]
    for height in _HEIGHTS:
        for x, z in sorted(grid, key=lambda point: math.hypot(*point)):
            yield x, height, z


def draw_plan(floor: TopDownMap, path: Path, *, title: str, up: str) -> None:
    """Write a picture of a storey with a grid in the scan's own metres."""
    image = Image.fromarray(floor.rgb).convert("RGB")
    scale = _SIDE / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    # What cannot be walked is paler.
    walkable = Image.fromarray(floor.walkable).convert("L").resize(image.size)
    image = Image.composite(image, Image.blend(image, Image.new("RGB", image.size, _PAPER), 0.5), walkable)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    metres = [size / scale * floor.resolution for size in image.size]
    spacing = next((step for step in (0.5, 1, 2, 5, 10, 20) if max(metres) / step <= _LINES), 50)
    for axis in (0, 1):
        first = math.ceil(floor.origin[axis] / spacing) * spacing
        for number in range(int(metres[axis] / spacing) + 1):
            value = first + number * spacing
            at = (value - floor.origin[axis]) / floor.resolution * scale
            draw.line((at, 0, at, image.height) if axis == 0 else (0, at, image.width, at), fill=_GRID)
            # In a z-up scan the map's rows run against its y axis.
            label = f"{-value + 0.0 if axis == 1 and up == 'z' else value:g}"
            draw.text(
                (at + 3, 2) if axis == 0 else (3, at + 2),
                label,
                fill=_INK,
                font=font,
                stroke_width=2,
                stroke_fill=_PAPER,
            )
    axes = "x to the right, " + ("y upwards" if up == "z" else "z downwards")
    draw.text(
        (8, image.height - 26), f"{title}: metres, {axes}", fill=_INK, font=font, stroke_width=2, stroke_fill=_PAPER
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
