"""Descriptions of videos and folders of frames, written by a model that sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, DataError
from navila.frames import rounded_uniform_indices
from navila.images import read_image
from navila.video import IMAGE_SUFFIXES, is_video, read_video

from navila_data.answering import Answerer, Question, question_key
from navila_data.augmentation import Item, Unreadable, augment
from navila_data.caption_qa import read_caption
from navila_data.dataset import LoadOptions
from navila_data.linked_media import files_of
from navila_data.mixture import Mixture


@dataclass(frozen=True, kw_only=True)
class VideoCaptionSettings:
    """What is asked, and about how much of a video."""

    prompt: str = "Describe in detail what this video shows, from its beginning to its end."
    num_frames: int = 8
    """Frames shown of a video, spread evenly."""
    most_failed: float = 0.05
    """Share of the videos without an answer above which the dataset is not called complete."""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ConfigError("The prompt is empty: say what is to be told of a video.")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video file, or a folder of frames, and which mixture part it is of."""

    path: Path
    part: int = 0


def videos_of(data: str, data_path: Path | None) -> list[Source | Unreadable]:
    """The videos of a mixture, each once, or those below a folder without annotations.

    Raises:
        DataError: there is none.
        ConfigError: the mixture is malformed.
    """
    folder = Path(data)
    if folder.is_dir() and not any((folder / name).exists() for name in ("annotations.json", "annotations.jsonl")):
        found = [Source(path=path.absolute()) for path in _below(folder)]
        if not found:
            raise DataError(f"{folder} holds no video and no folder of frames: check the path.")
        return list(found)
    mixture = Mixture.open(data, data_path, LoadOptions(num_frames=1))
    videos: dict[Path, Source | Unreadable] = {}
    for number, part in enumerate(mixture.parts):
        for index in part.indices:
            where = f"{part.dataset.name} record {index}"
            try:
                kind, files = files_of(part.dataset[index])
                if kind != "video":
                    raise DataError(f"{where} shows no video: give videos, or a folder of folders of frames.")
                videos.setdefault(files[0], Source(path=files[0], part=number))
            except DataError as error:
                videos[Path(where)] = Unreadable(where=where, why=str(error))
    return list(videos.values())


def caption_videos(
    videos: list[Source | Unreadable],
    data: str,
    output: Path,
    answerer: Answerer,
    settings: VideoCaptionSettings,
    *,
    sampling: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Describe every video and write a dataset of that, or finish one that was interrupted.

    Videos become records of the format `video`; folders of frames become `llava` records of the frames that were shown.
    See `augment` for the other arguments, what is returned and what it raises.
    """
    asked = {"prompt": settings.prompt, "num_frames": settings.num_frames, "model": answerer.name, **sampling}

    def items() -> Iterator[Item | Unreadable]:
        for video in videos:
            yield video if isinstance(video, Unreadable) else _item(video, asked, settings)

    return augment(
        items,
        len(videos),
        {**asked, "data": data},
        output,
        answerer,
        most_failed=settings.most_failed,
        progress=progress,
    )


def _item(video: Source, asked: dict[str, Any], settings: VideoCaptionSettings) -> Item:
    if video.path.is_dir():
        kind, files = "image", _frames(video.path, settings.num_frames)
        images = partial(_read_images, files)
    else:
        kind, files = "video", (video.path,)
        images = partial(read_video, video.path, settings.num_frames)
    key = question_key({**asked, "files": [str(file) for file in files]})
    question = Question(key=key, where=str(video.path), prompt=settings.prompt, read=read_caption, images=images)
    return Item(
        source=video.part, kind=kind, files=files, question=question, turns=lambda told: [(settings.prompt, told)]
    )


def _below(folder: Path) -> Iterator[Path]:
    """Video files and folders that hold images, at any depth, sorted."""
    entries = sorted(folder.iterdir())
    if any(_is_image(entry) for entry in entries):
        yield folder
    for entry in entries:
        if entry.is_dir():
            yield from _below(entry)
        elif is_video(entry):
            yield entry


def _frames(folder: Path, num_frames: int) -> tuple[Path, ...]:
    """The images of a folder that are shown, in the order of their names, each once."""
    files = sorted((file for file in folder.iterdir() if _is_image(file)), key=_by_number)
    return tuple(files[i] for i in dict.fromkeys(rounded_uniform_indices(len(files), num_frames)))


def _by_number(file: Path) -> tuple[int, str]:
    """`frame_10` comes after `frame_9`: shorter numbers first."""
    digits = "".join(c for c in file.stem if c.isdigit())
    return int(digits or 0), file.name


def _is_image(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES


def _read_images(files: tuple[Path, ...]) -> list[Any]:
    return [read_image(file) for file in files]
