"""Official files of video benchmarks: the ones there are, and videos of whatever container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from navila.errors import DataError
from navila_eval.scoring.choices import letters

#: Containers a video may have, in the order Video-ChatGPT's scripts try them.
ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def find_rows(folder: Path, patterns: tuple[str, ...], get: str) -> list[Path]:
    """The files that the first fitting pattern names, sorted.

    Raises:
        DataError: there are none; `get` says where they come from.
    """
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    raise DataError(f"{folder} has no {' or '.join(patterns)}: {get}, and put it there.")


def letter_of(index: Any, count: int) -> str:
    """The letter of an answer given by its position.

    Raises:
        ValueError: there is no such option.
    """
    position = int(index)
    if not 0 <= position < count:
        raise ValueError(f"the answer is {position}, of {count} options")
    return letters(count)[position]


def find_video(folder: Path, *names: str) -> Path:
    """The video file, or folder of frames, of one of these names; where there is none, the path it should have.

    Raises:
        ValueError: a name is empty.
    """
    if not all(names):
        raise ValueError("it names no video")
    for name in names:
        for candidate in (*(folder / f"{name}{ending}" for ending in ENDINGS), folder / name):
            if candidate.exists():
                return candidate
    return folder / f"{names[0]}{ENDINGS[0]}"


def without_marks(question: str) -> str:
    """A question without the marks of media that NaVILA's scripts remove from it."""
    for mark in ("<image>", "<video>"):
        question = question.replace(f"{mark}\n", "").replace(f"\n{mark}", "").replace(mark, "")
    return question
