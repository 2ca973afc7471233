"""Navigation steps in NaVILA-Dataset's format, put back into the walks they were taken from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from navila.actions import parse
from navila.errors import DataError, reason

from navila_data.records import RecordFile, media_path, text_field

#: Where frames lie, in recordings and the folders of the release.
FRAME_FOLDERS = ("train", "raw_frames")


@dataclass(frozen=True, slots=True)
class Step:
    """A record: its current image and its answer."""

    image: str
    primitive: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Episode:
    """The steps of one walk under one instruction, in order."""

    number: int
    start: int
    """How many steps the episodes before it have."""
    instruction: str
    steps: Sequence[Step]


@dataclass(frozen=True, kw_only=True)
class Walks:
    """A folder in NaVILA-Dataset's format."""

    folder: Path

    @cached_property
    def frames(self) -> Path:
        """The folder of images."""
        found = next((self.folder / name for name in FRAME_FOLDERS if (self.folder / name).is_dir()), None)
        if found is None:
            raise DataError(
                f"{self.folder} has no folder {' or '.join(FRAME_FOLDERS)} of frames: give navigation data."
            )
        return found

    def episodes(self) -> tuple[list[Episode], int]:
        """All episodes in the order in which they begin, and how many steps were there twice.

        Raises:
            DataError: the annotations are missing or malformed, or an answer is no action.
        """
        records = RecordFile(self.folder / "annotations.json")
        if not len(records):
            raise DataError(f"{records.path} holds no record: give navigation data.")
        walks: dict[tuple[str, str], dict[int, Step]] = {}
        repeated = 0
        for index in range(len(records)):
            record = records[index]
            where = f"{records.path}, record {index}"
            frames = record.get("frames")
            if not isinstance(frames, list) or not frames:
                raise DataError(f'{where}: "frames" must be a list of at least the current frame; mend the record.')
            image = media_path(self.frames, frames[-1], where).relative_to(self.frames).as_posix()
            action = parse(text_field(record, "a", where))
            if action.status == "unparsed":
                raise DataError(f'{where}: "a" is no action ({reason(ValueError(action.text), 80)}); mend the record.')
            key = image.rpartition("/")[0], text_field(record, "q", where, empty=True)
            steps = walks.setdefault(key, {})
            repeated += len(frames) in steps
            # The release has some stops several times, to weigh them.
            steps.setdefault(len(frames), Step(image, action.primitives[0], len(action.primitives)))
        starts = accumulate((len(steps) for steps in walks.values()), initial=0)
        episodes = [
            Episode(number=number, start=start, instruction=instruction, steps=[steps[at] for at in sorted(steps)])
            for number, (start, ((_, instruction), steps)) in enumerate(zip(starts, walks.items(), strict=False))
        ]
        return episodes, repeated
