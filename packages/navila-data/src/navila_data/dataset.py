"""The interface of a dataset plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from navila.errors import DataError

from navila_data.sample import Sample


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Choices of `navila train` that decide what a dataset yields."""

    num_frames: int = 8
    """Frames a navigation or video sample shows."""
    normalise_instructions: bool = False
    """Clean instructions up as NaVILA's training did (line breaks, capitals, spaces before full stops)."""
    annotations: Path | None = None
    """The annotation file, where it is not the format's usual one."""
    media: Path | None = None
    """The folder that media paths are relative to, where it is not the format's usual one."""


class Dataset(ABC):
    """A map-style dataset of `Sample`s; records are read and checked when asked for, media never."""

    name: str
    """The name the mixture used, for logs."""

    @classmethod
    @abstractmethod
    def open(cls, name: str, root: Path, options: LoadOptions) -> Dataset:
        """Open the dataset registered as `name` below `root`.

        Args:
            name: the registered name; one class may serve several.
            root: `--data_path`, or the folder in a mixture item `name:FOLDER`.
            options: what the training run asks of every dataset.

        Raises:
            DataError: the annotation file is missing or malformed.
        """

    @classmethod
    @abstractmethod
    def tiny(cls) -> Dataset:
        """A few samples in a temporary folder, for tests."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample of one record.

        Raises:
            DataError: the record is malformed.
        """

    def group(self, index: int) -> str:
        """What `Sample.group` says for `index`, without building the sample where that is cheap."""
        return self[index].group

    def fingerprint(self) -> str:
        """What decides its samples (files with size and time, options), so that what was counted on them can be kept.

        Empty when it cannot be told: then nothing is kept.
        """
        return ""


def require_folder(root: Path, what: str) -> Path:
    """Return `root` if it is a folder.

    Raises:
        DataError: it is not.
    """
    if not root.is_dir():
        raise DataError(f"{what}: the folder {root} does not exist; check the path and --data_path.")
    return root
