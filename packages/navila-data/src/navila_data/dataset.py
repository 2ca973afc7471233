"""The interface of a dataset plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from navila.errors import DataError
from navila.plugins import default_host

from navila_data.sample import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Choices of `navila train` that decide what a dataset yields."""

    num_frames: int = 8
    """Frames a navigation or video sample shows."""
    fps: float = 0.0
    """Frames a second of a video, at most `num_frames` in all; 0 spreads `num_frames` over the whole of it."""
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

    def label(self, index: int) -> str:
        """What the answer of a record is, for balance: `stop`, `forward`, `left` or `right` of a navigation step.

        Empty where nothing is to be balanced; a malformed record raises nothing here.
        """
        return ""

    def runs(self) -> Sequence[int] | NDArray[np.int64]:
        """Where the samples end that lie together in one large file, file by file; they are cheap to read in order.

        Empty where one sample costs what another does.
        """
        return ()

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


def release_folder(name: str, root: Path, folder: str, files: Sequence[str]) -> Path:
    """The folder of a published dataset: `root/folder`, or `root` itself where that holds `files`.

    Raises:
        DataError: there is none, or it is not unpacked; the sentence says what is expected.
    """
    require_folder(root, name)
    base = root if folder and not (root / folder).is_dir() else root / folder
    missing = [file for file in files if not (base / file).exists()]
    if not missing:
        return base
    expected = "; ".join(default_host().registry("dataset").spec(name).expected_files)
    if len(missing) == len(files) and base == root:
        raise DataError(f"{name}: {root} has no folder {folder}; below --data_path are expected {expected}.")
    raise DataError(
        f"{name}: {base} lacks {missing[0]}: fetch or unpack it; below --data_path are expected {expected}."
    )
