"""Any mixture of images and navigation steps as LLaVA's conversations, which other trainers read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from navila.errors import DataError

from navila_data.conversations import ROLES
from navila_data.dataset import LoadOptions
from navila_data.job_folder import JobFolder, write_annotations
from navila_data.linked_media import LINKS, LinkedMedia
from navila_data.mixture import Mixture
from navila_data.sample import Sample

#: The image that stands for a frame before an episode's start.
BLACK = f"{LINKS}/black.png"
_SPEAKERS = {role: speaker for speaker, role in ROLES.items()}


def to_llava(
    data: str,
    output: Path,
    *,
    num_frames: int = 8,
    data_path: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a mixture of images and navigation steps as LLaVA's conversations about the images where they lie.

    Returns:
        The manifest that marks the folder complete.

    Raises:
        ConfigError: `output` holds something else.
        DataError: a record is malformed, or shows frames of a video or a file in a shard.
    """
    mixture = Mixture.open(data, data_path, LoadOptions(num_frames=num_frames))
    job = JobFolder(output, "conversion", {"to": "llava", "data": data, "num_frames": num_frames})
    finished = job.finished()
    if finished is not None:
        return finished
    job.claim(begun=False, leftovers=(LINKS,))
    media = LinkedMedia(output)
    total = len(mixture)
    for source, part in enumerate(mixture.parts):
        for index in part.indices:
            media.see(source, _images(part.dataset[index]))

    def records() -> Iterator[str]:
        number = 0
        for source, part in enumerate(mixture.parts):
            for index in part.indices:
                yield json.dumps(_record(number, part.dataset[index], source, media), ensure_ascii=False)
                number += 1
                progress(number, total)

    count = write_annotations(output, records())
    media.link()
    _write_black(output / BLACK)
    return job.complete({"format": "llava", "records": count, "versions": {"navila-data": version("navila-data")}})


def _images(sample: Sample) -> list[Path]:
    """The image files a sample shows, without black frames.

    Raises:
        DataError: it shows something that is no image file.
    """
    strange = next((medium for medium in sample.media if not isinstance(medium, Path | None)), None)
    if strange is not None:
        raise DataError(
            f"{sample.source} record {sample.record} shows {strange}, which is no image file: use `navila data "
            "extract-frames` on videos, and unpack shards."
        )
    return [medium.absolute() for medium in sample.media if isinstance(medium, Path)]


def _record(number: int, sample: Sample, source: int, media: LinkedMedia) -> dict[str, Any]:
    names = [media.name(source, m.absolute()) if isinstance(m, Path) else BLACK for m in sample.media]
    shown: dict[str, Any] = {"image": names[0] if len(names) == 1 else names} if names else {}
    turns = [{"from": _SPEAKERS[turn.role], "value": turn.text} for turn in sample.turns]
    return {"id": f"{number}", **shown, "conversations": turns}


def _write_black(path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32)).save(path)
