"""Folders of frames of videos, as NaVILA's `human` data has them: `ID/0001.jpg` and on, one frame a second."""

from __future__ import annotations

import json
import re
import shutil
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, DataError
from navila.files import write_atomically
from navila.frames import rounded_uniform_indices
from navila.video import SUFFIXES, FrameIndex, iterate_frames
from PIL import Image

#: Written last: a folder without it was not extracted to its end.
MARKER = "frames.json"
#: What a folder that is written again may hold: nothing else is ever deleted.
_OWN = re.compile(rf"\d{{4,}}\.(jpg|png)|{re.escape(MARKER)}|\.{re.escape(MARKER)}\.\w+")
#: Quality of JPEGs; colours at half the resolution, as most videos have them.
_JPEG = {"quality": 92, "subsampling": "4:2:0"}


@dataclass(frozen=True, kw_only=True)
class FrameChoice:
    """Which frames of a video are written, and how; one of `fps`, `num_frames` and `every` is given."""

    fps: float | None = None
    """Frames a second: those that ffmpeg's filter `fps` takes."""
    num_frames: int | None = None
    """So many, spread evenly; a shorter video gives all it has."""
    every: int | None = None
    """Every so many-th frame, from the first on."""
    size: int | None = None
    """Pixels of the shorter side, where that is larger; by default frames are left as they are."""
    image_format: str = "jpg"

    def __post_init__(self) -> None:
        given = [value for value in (self.fps, self.num_frames, self.every) if value is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ConfigError("Give one of --fps, --num-frames and --every, above 0.")

    def indices(self, index: FrameIndex) -> list[int]:
        """Positions of the frames, some of them more than once where `fps` is above the video's."""
        if self.every is not None:
            return list(range(0, len(index), self.every))
        if self.num_frames is not None:
            return rounded_uniform_indices(len(index), min(self.num_frames, len(index)))
        assert self.fps is not None
        return filtered_by_fps(index, self.fps)


def filtered_by_fps(index: FrameIndex, fps: float) -> list[int]:
    """Positions that ffmpeg's filter `fps` takes: output frame n is the last one shown before (n + 1/2)/fps s.

    There are as many as the duration in frames rounded, so that half a second at the end is another frame.
    """
    duration = index.seconds[-1] + 1 / index.rate
    count = max(int(duration * fps + 0.5), 1)
    return [max(bisect_left(index.seconds, (n + 0.5) / fps) - 1, 0) for n in range(count)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a video."""

    video: Path
    frames: int = 0
    """Frames in its folder; 0 when it is broken."""
    found: bool = False
    """Whether they were there already."""
    problem: str = ""
    """Why there are none, in one sentence."""


def find_videos(source: Path, output: Path) -> dict[Path, Path]:
    """Videos of a folder and those below it, or one video: the folder of frames of each.

    Raises:
        ConfigError: there are none, or two would share a folder.
    """
    if source.is_file():
        return {source: output / source.stem}
    if not source.is_dir():
        raise ConfigError(f"{source} does not exist: give a video or a folder of videos.")
    found = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    folders: dict[Path, Path] = {}
    for video in found:
        folder = output / video.relative_to(source).with_suffix("")
        if folder in folders:
            raise ConfigError(f"{folders[folder]} and {video} would share the folder {folder}: rename one of them.")
        folders[folder] = video
    if not folders:
        raise ConfigError(f"{source} holds no videos ({', '.join(sorted(SUFFIXES))}): give another folder.")
    return {video: folder for folder, video in folders.items()}


def extract_all(
    folders: dict[Path, Path], choice: FrameChoice, *, workers: int = 1, overwrite: bool = False
) -> Iterator[Outcome]:
    """Extract the frames of every video into its folder, in any order; broken videos are told and left out.

    Raises:
        DataError: a worker process was killed.
    """
    work = partial(extract, choice=choice, overwrite=overwrite)
    if workers == 1:
        for video, folder in folders.items():
            yield work(video, folder)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(work, video, folder) for video, folder in folders.items()]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise DataError("A worker was killed, perhaps for want of memory: use fewer --workers.") from None
        finally:
            for future in futures:
                future.cancel()


def extract(video: Path, folder: Path, choice: FrameChoice, *, overwrite: bool = False) -> Outcome:
    """Extract the frames of one video, unless they are there already; half of them are written again."""
    try:
        facts = _facts(video, choice)
        done = _done(folder, facts)
        if done is not None:
            return Outcome(video=video, frames=done, found=True)
        _clear(folder, overwrite)
        try:
            count = _write(video, folder, choice)
        except DataError:
            # Nobody is to take what could be read of a broken video for the whole.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        write_atomically(folder / MARKER, json.dumps({**facts, "frames": count}, indent=2) + "\n")
        return Outcome(video=video, frames=count)
    except DataError as error:
        return Outcome(video=video, problem=str(error))
    except OSError as error:
        return Outcome(video=video, problem=f"{folder} cannot be written ({error.strerror or error}).")


def _facts(video: Path, choice: FrameChoice) -> dict[str, Any]:
    """What a folder of frames is a function of."""
    state = video.stat()
    return {"video": video.name, "bytes": state.st_size, "choice": asdict(choice)}


def _done(folder: Path, facts: dict[str, Any]) -> int | None:
    """Frames that a folder holds if it was written to its end from the same video in the same way."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        count = marker.pop("frames")
    except (OSError, ValueError, AttributeError, KeyError):
        return None
    return count if marker == facts and isinstance(count, int) else None


def _clear(folder: Path, overwrite: bool) -> None:
    """Remove the frames of an extraction that did not end, or with `overwrite` of another one.

    Raises:
        DataError: there are other files, or frames that were extracted to the end in another way.
    """
    if not folder.exists():
        return
    if (folder / MARKER).exists() and not overwrite:
        raise DataError(f"{folder} holds frames of another video or choice: give --overwrite, or another --output.")
    strange = next((file for file in folder.iterdir() if file.is_dir() or not _OWN.fullmatch(file.name)), None)
    if strange is not None:
        raise DataError(f"{folder} holds {strange.name}, which is no frame: move it, or give another --output.")
    shutil.rmtree(folder)


def _write(video: Path, folder: Path, choice: FrameChoice) -> int:
    """Write the chosen frames, one in memory at a time; return how many."""
    numbers: dict[int, list[int]] = {}

    def choose(index: FrameIndex) -> Sequence[int]:
        for number, i in enumerate(choice.indices(index), start=1):
            numbers.setdefault(i, []).append(number)
        return list(numbers)

    folder.mkdir(parents=True)
    for i, image in iterate_frames(video, choose):
        if choice.size is not None and min(image.size) > choice.size:
            scale = choice.size / min(image.size)
            size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
            image = image.resize(size, Image.Resampling.LANCZOS)
        for number in numbers[i]:
            options = _JPEG if choice.image_format == "jpg" else {}
            image.save(folder / f"{number:04d}.{choice.image_format}", **options)
    return sum(map(len, numbers.values()))
