"""Mixtures of datasets: `r2r+rxr*2+vln:runs/houses`."""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from navila.errors import ConfigError, DataError
from navila.plugins import default_host

from navila_data.dataset import Dataset, LoadOptions
from navila_data.sample import Sample

#: The file that names a recorded folder's format and marks it complete.
MANIFEST = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class MixtureItem:
    """One summand: a registered dataset, or a folder of a registered format, seen `repeat` times an epoch."""

    name: str
    """Empty when the folder's manifest is to say."""
    folder: Path | None = None
    repeat: int = 1


def parse_mixture(text: str) -> tuple[MixtureItem, ...]:
    """Parse `NAME`, `NAME:FOLDER` or `FOLDER` (recognised by a `/`), each with an optional `*N`, joined by `+`.

    Raises:
        ConfigError: an item is empty or its repeat is not a positive whole number.
    """
    items = []
    for part in text.split("+"):
        body, star, count = part.strip().rpartition("*")
        if not star:
            body, count = part.strip(), "1"
        if not body.strip():
            raise ConfigError(f'Mixture "{text}" has an empty item: write NAME+NAME*2+FORMAT:FOLDER.')
        if not count.strip().isdigit() or int(count) < 1:
            raise ConfigError(f'Mixture item "{part.strip()}": the number after * must be 1 or more.')
        name, colon, folder = body.strip().partition(":")
        if not colon and "/" in name:
            name, folder = "", name
        elif colon and not folder:
            raise ConfigError(f'Mixture item "{part.strip()}" names no folder after ":".')
        items.append(MixtureItem(name=name.strip(), folder=Path(folder) if folder else None, repeat=int(count)))
    return tuple(items)


def open_item(item: MixtureItem, root: Path | None, options: LoadOptions) -> Dataset:
    """Open one item through the plugin registry.

    Raises:
        ConfigError: a registered dataset needs `--data_path` and none was given.
        DataError: a folder or file is missing or malformed.
        UnknownComponentError: no plugin offers the name.
    """
    folder = item.folder
    if folder is not None and not folder.is_absolute() and root is not None and not folder.exists():
        folder = root / folder
    name = item.name
    registry = default_host().registry("dataset")
    if name:
        # An unknown name is told before anything about its folder.
        registry.spec(name)
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"The data folder {item.folder} does not exist: check the mixture and --data_path.")
        name = name or _manifest_format(folder)
    elif root is None:
        raise ConfigError(f'Dataset "{name}" is looked for below --data_path: set it, or write {name}:FOLDER.')
    return registry.load(name).open(name, folder or root, options)


def _manifest_format(folder: Path) -> str:
    try:
        return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["format"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{folder} does not say its format (it has no {MANIFEST} of a finished recording): write FORMAT:{folder}."
        ) from None


class Mixture:
    """Datasets put end to end, repeats included."""

    def __init__(self, datasets: list[tuple[Dataset, int]]) -> None:
        self.parts = [dataset for dataset, repeat in datasets for _ in range(repeat)]
        self._ends = list(accumulate(len(part) for part in self.parts))
        if not self._ends or self._ends[-1] == 0:
            raise DataError("The data mixture holds no sample: check its folders.")

    @classmethod
    def open(cls, text: str, root: Path | None = None, options: LoadOptions | None = None) -> Mixture:
        """Open every item of a mixture string; see `parse_mixture` and `open_item` for what it raises."""
        options = options or LoadOptions()
        return cls([(open_item(item, root, options), item.repeat) for item in parse_mixture(text)])

    def locate(self, index: int) -> tuple[Dataset, int]:
        """The dataset an index of the mixture falls into, and the index there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part], index - (self._ends[part - 1] if part else 0)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        dataset, local = self.locate(index)
        return dataset[local]

    def groups(self) -> list[tuple[int, str]]:
        """For every index: its part (repeats are parts of their own) and its group there."""
        return [(number, part.group(i)) for number, part in enumerate(self.parts) for i in range(len(part))]

    def counts(self) -> dict[str, int]:
        """Samples an epoch, by dataset name."""
        counts: dict[str, int] = {}
        for part in self.parts:
            counts[part.name] = counts.get(part.name, 0) + len(part)
        return counts


def permutation(size: int, *, seed: int, epoch: int) -> list[int]:
    """A random order of `range(size)`; the same for equal arguments, whatever the number of processes."""
    return np.random.default_rng([seed, epoch]).permutation(size).tolist()
