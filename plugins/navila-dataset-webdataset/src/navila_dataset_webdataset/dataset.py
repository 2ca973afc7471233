"""Samples in tar shards, found by place."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from tempfile import mkdtemp

from navila.errors import DataError
from navila_data.dataset import Dataset, LoadOptions, require_folder
from navila_data.sample import Sample
from navila_data.shard_indexing import open_shards
from navila_data.shards import Shards
from navila_data.tar_index import Keys
from numpy.typing import NDArray

from navila_dataset_webdataset.records import Reading, read_sample

#: How files belong together, by registered name; None is webdataset's rule, or VILA's where its tool wrote the list.
KEYS: dict[str, Keys | None] = {"vila-webdataset": "last-dot"}
#: Registered names under which a caption is an answer.
CHATS = {"webdataset-chat"}


class WebDataset(Dataset):
    """One sample for each key of a shard: an image or a video with a caption, a dialogue, or an interleaved document.

    What it is follows from its files (`navila_dataset_webdataset.records`).
    """

    def __init__(self, name: str, shards: Shards, reading: Reading) -> None:
        self.name = name
        self.shards = shards
        self.reading = reading

    @classmethod
    def open(cls, name: str, root: Path, options: LoadOptions) -> WebDataset:
        """Open the shards below `root`, indexing them where that was not done.

        Raises:
            DataError: there are none, or options name files that shards do not have.
        """
        if options.annotations or options.media:
            raise DataError(f"{name}: shards hold their annotations and media; leave those keys out of datasets.yaml.")
        shards = open_shards(require_folder(root, name), KEYS.get(name))
        reading = Reading(source=name, num_frames=options.num_frames, fps=options.fps, chat=name in CHATS)
        return cls(name, shards, reading)

    @classmethod
    def tiny(cls) -> WebDataset:
        """A caption, a dialogue and a text in two shards, in a temporary folder."""
        from PIL import Image

        picture = io.BytesIO()
        Image.new("RGB", (32, 32), (200, 30, 30)).save(picture, "PNG")
        said = [{"from": "human", "value": "<image>\nWhat colour is it?"}, {"from": "gpt", "value": "Red."}]
        root = Path(mkdtemp(prefix="navila-webdataset-"))
        shards = (
            {"0.png": picture.getvalue(), "0.txt": b"A red square."},
            {"1.png": picture.getvalue(), "1.json": json.dumps({"conversations": said}).encode()},
        )
        for number, files in enumerate(shards):
            with tarfile.open(root / f"{number:05d}.tar", "w") as tar:
                for name, content in files.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return cls.open("webdataset", root, LoadOptions())

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> Sample:
        return read_sample(self.shards[index], self.reading)

    def group(self, index: int) -> str:
        """Its shard and key: no two samples share media."""
        try:
            found = self.shards[index]
        except DataError:
            # The rest of a broken shard, which is told when it is read.
            return ""
        return f"{found.shard.name}/{found.key}"

    def runs(self) -> NDArray:
        """The sample after each shard's last."""
        return self.shards.ends

    def fingerprint(self) -> str:
        """The shards, and what decides how they are read."""
        return f"{self.shards.fingerprint()} {self.reading}"
