"""Records about media that stay where they are: the output folder holds one link to each source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from navila.errors import DataError

from navila_data.media import TarMember, VideoFrame
from navila_data.sample import Sample

#: Folder of links, below the output.
LINKS = "media"


def files_of(sample: Sample) -> tuple[str, tuple[Path, ...]]:
    """The files a sample shows: ("image", paths), ("video", (path,)) or ("", ()).

    Raises:
        DataError: they lie in shards, are of both kinds or several videos, or one is a black frame.
    """
    where = f"{sample.source} record {sample.record}"
    files: dict[Path, None] = {}
    kinds: set[str] = set()
    images: list[Path] = []
    for medium in sample.media:
        file = medium.video if isinstance(medium, VideoFrame) else medium
        if isinstance(file, TarMember):
            raise DataError(f"{where} lies in a tar shard: unpack the shards first.")
        if not isinstance(file, Path):
            raise DataError(f"{where} shows {'a black frame' if file is None else file}, which is no file of its own.")
        kinds.add("video" if isinstance(medium, VideoFrame) else "image")
        files[file.absolute()] = None
        images.append(file.absolute())
    if len(kinds) > 1 or ("video" in kinds and len(files) > 1):
        raise DataError(f"{where} shows several videos, or videos and images: leave it out.")
    if not kinds:
        return "", ()
    kind = kinds.pop()
    return (kind, tuple(images)) if kind == "image" else (kind, tuple(files))


class LinkedMedia:
    """Links below an output folder, one a source, and the names files have through them."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._roots: dict[int, Path] = {}

    def see(self, source: int, files: Sequence[Path]) -> None:
        """Take note of files, all of which must be known before the first is named."""
        for file in files:
            known = self._roots.get(source)
            if known is None:
                self._roots[source] = file.parent
            elif not file.is_relative_to(known):
                self._roots[source] = Path(os.path.commonpath([known, file.parent]))

    def link(self) -> None:
        """Make the links, anew if they are there."""
        for source, root in self._roots.items():
            link = self.output / LINKS / str(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(root, target_is_directory=True)

    def name(self, source: int, file: Path) -> str:
        """What a record of the output calls a file."""
        return f"{LINKS}/{source}/{file.relative_to(self._roots[source]).as_posix()}"
