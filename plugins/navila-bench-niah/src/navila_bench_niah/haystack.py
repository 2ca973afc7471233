"""Frames and needles: drawn on the spot, or read from a video, a folder and a file."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navila.errors import DataError, reason
from navila.files import folder_atomically
from navila.video import IMAGE_SUFFIXES, FrameIndex, is_video, iterate_frames
from navila_eval.rows import read_rows, reading
from navila_eval.wording import SHORT_ANSWER
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from navila.model.media import Part

#: Side of what is drawn, in pixels.
SIDE = 448
#: Drawn pictures change with it, and so does the name of their folder.
DRAWING = 1

#: What is said where a needle is malformed.
_MEND = "give each needle an image, a question and an answer"


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A picture to find, and what is asked of it."""

    image: Part
    question: str
    answer: str


def made_frames(folder: Path, count: int) -> list[Path]:
    """So many drawn landscapes, all different, in a folder that is made once."""
    pictures = ((f"{number:04}.png", _landscape(number)) for number in range(count))
    return _files(folder / f"landscapes-{DRAWING}-{count}", pictures)


def made_needles(folder: Path) -> list[Needle]:
    """Five drawn pictures that no landscape is like."""
    drawn: list[tuple[Callable[[], Image.Image], str, str]] = [
        (_sign, "Find the frame with a white sign. Which word is on the sign?", "harbour"),
        (_circle, "Find the frame with one large circle. Which colour is the circle?", "red"),
        (_die, "Find the frame with a die. How many dots does it show?", "5"),
        (_arrow, "Find the frame with a large arrow. Does it point left or right?", "left"),
        (_number, "Find the frame with a large number. Which number is it?", "7392"),
    ]
    pictures = ((f"{number}.png", draw()) for number, (draw, _, _) in enumerate(drawn))
    files = _files(folder / f"needles-{DRAWING}", pictures)
    return [
        Needle(image=file, question=question + SHORT_ANSWER, answer=answer)
        for file, (_, question, answer) in zip(files, drawn, strict=True)
    ]


def frames_of(haystack: Path, count: int, folder: Path) -> list[Path]:
    """The first frames of a folder, or of a video at one a second, which are put into a folder below `folder` once.

    Raises:
        DataError: it is neither, or has too few.
    """
    if haystack.is_dir():
        files = sorted(file for file in haystack.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)[:count]
    elif haystack.is_file() and is_video(haystack):
        facts = haystack.stat()
        known = f"{haystack.resolve()} {facts.st_size} {facts.st_mtime_ns} {count}"
        name = f"{haystack.stem}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"

        def every_second(index: FrameIndex) -> range:
            return range(0, len(index), max(1, round(index.rate)))[:count]

        frames = ((f"{number:07}.jpg", image) for number, image in iterate_frames(haystack, every_second))
        files = _files(folder / name, frames)
    else:
        raise DataError(f"The haystack {haystack} is no video and no folder of frames: give another one.")
    if len(files) < count:
        raise DataError(
            f"The haystack {haystack} has {len(files)} frames, of a video one a second, but max_frames is {count}: "
            f"give a longer one, or -o max_frames={max(len(files), 1)}."
        )
    return files


def needles_of(path: Path) -> list[Needle]:
    """Needles of a Parquet file (`image`, `question`, `answer`), or of a list with pictures beside it (`read_rows`).

    Raises:
        DataError: the file is missing, malformed or empty.
    """
    if not path.is_file():
        raise DataError(f"The file of needles {path} is not there: check the path.")
    rows = read_rows(path, _MEND)
    if not rows:
        raise DataError(f"{path} has no needles: {_MEND}.")
    return [_needle(row, where, path.parent) for where, row in rows]


def _needle(row: Mapping[str, Any], where: str, folder: Path) -> Needle:
    with reading(where, _MEND):
        image, question, answer = row["image"], row["question"], str(row["answer"])
        if not (isinstance(image, str | Path) and isinstance(question, str) and answer):
            raise ValueError("image, question and answer are texts")
        return Needle(image=folder / image, question=question, answer=answer)


def _files(folder: Path, pictures: Iterable[tuple[str, Image.Image]]) -> list[Path]:
    """Pictures as files, made where the folder is not there; it is there only when it is complete.

    Raises:
        DataError: they cannot be written.
    """
    if not folder.is_dir():
        try:
            with folder_atomically(folder) as fresh:
                for name, picture in pictures:
                    picture.convert("RGB").save(fresh / name, quality=95)
        except OSError as error:
            raise DataError(
                f"Frames cannot be written to {folder.parent} ({reason(error)}): name another folder with --data-root."
            ) from None
    return sorted(folder.iterdir())


def _landscape(number: int) -> Image.Image:
    """Hills under a sky, in muted colours, drawn from the number alone."""
    draw_from = random.Random(number)
    picture = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(picture)
    top, bottom = ([draw_from.randint(*span) for _ in range(3)] for span in ((90, 160), (160, 225)))
    for y in range(SIDE):
        draw.line([(0, y), (SIDE, y)], tuple(round(a + (b - a) * y / SIDE) for a, b in zip(top, bottom, strict=True)))
    for layer in range(draw_from.randint(2, 5)):
        height, waves = (
            SIDE * (0.35 + 0.13 * layer),
            [(draw_from.uniform(1, 6), draw_from.uniform(0, 6)) for _ in "123"],
        )
        shade = tuple(round(draw_from.uniform(60, 150) * (1 - 0.12 * layer)) for _ in range(3))
        ridge = [
            (x, height + sum(28 / k * math.sin(k * x / 90 + phase) for k, phase in waves))
            for x in range(0, SIDE + 8, 8)
        ]
        draw.polygon([(0, SIDE), *ridge, (SIDE, SIDE)], shade)
        for _ in range(draw_from.randint(0, 6)):
            x, y = draw_from.choice(ridge)
            size = draw_from.uniform(8, 40)
            draw.polygon([(x - size / 2, y), (x, y - size * 2), (x + size / 2, y)], tuple(c // 2 for c in shade))
    return picture


def _blank(colour: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (SIDE, SIDE), colour)
    return picture, ImageDraw.Draw(picture)


def _sign() -> Image.Image:
    picture, draw = _blank("#3b5f8a")
    draw.rectangle([40, 150, 408, 290], "white", "black", 6)
    draw.text((SIDE / 2, 220), "harbour", "black", ImageFont.load_default(72), anchor="mm")
    return picture


def _circle() -> Image.Image:
    picture, draw = _blank("#f2efe6")
    draw.ellipse([84, 84, 364, 364], "#d8201f")
    return picture


def _die() -> Image.Image:
    picture, draw = _blank("#2f6f4f")
    draw.rounded_rectangle([104, 104, 344, 344], 30, "white")
    for x, y in ((164, 164), (284, 164), (224, 224), (164, 284), (284, 284)):
        draw.ellipse([x - 24, y - 24, x + 24, y + 24], "black")
    return picture


def _arrow() -> Image.Image:
    picture, draw = _blank("#f4d35e")
    draw.polygon([(50, 224), (200, 100), (200, 180), (398, 180), (398, 268), (200, 268), (200, 348)], "black")
    return picture


def _number() -> Image.Image:
    picture, draw = _blank("#1c1c24")
    draw.text((SIDE / 2, SIDE / 2), "7392", "#ffd23f", ImageFont.load_default(150), anchor="mm")
    return picture
