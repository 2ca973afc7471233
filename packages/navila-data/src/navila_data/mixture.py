"""Mixtures of datasets: `r2r+rxr*2+human:0.3+vln:runs/houses`."""

from __future__ import annotations

import bisect
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, zip_longest
from pathlib import Path

import numpy as np
from navila.errors import ConfigError, DataError
from navila.plugins import default_host
from numpy.typing import NDArray

from navila_data.balance import Progress, labels_of, parse_weights, weights_of
from navila_data.dataset import Dataset, LoadOptions
from navila_data.datasets_file import NamedDataset, named_datasets
from navila_data.sample import Sample

#: The file that names a recorded folder's format and marks it complete.
MANIFEST = "dataset.json"
_AMOUNT = re.compile(r"(?P<rest>.+?)\s*[*:]\s*(?P<number>\d+(\.\d+)?|\.\d+)")
_RANGE = re.compile(r"(?P<rest>.+?)\s*\[(?P<start>\d*):(?P<stop>\d*)\]")


@dataclass(frozen=True, kw_only=True)
class MixtureItem:
    """One summand: a named dataset, or a folder of a registered format."""

    name: str
    """Empty when the folder's manifest is to say."""
    folder: Path | None = None
    start: int | None = None
    stop: int | None = None
    """Only the samples from `start` up to `stop` are used."""
    amount: float = 1.0
    """How often an epoch sees a sample; of a part of one, a drawn share of the samples is seen once more."""


def parse_mixture(text: str) -> tuple[MixtureItem, ...]:
    """Parse items joined by `+`: `NAME`, `FORMAT:FOLDER` or `FOLDER` (recognised by a `/`), each with an optional range
    `[START:STOP]` and an optional amount, `*2` or `:0.3`.

    Raises:
        ConfigError: an item is empty or malformed.
    """
    return tuple(_parse_item(part.strip(), text) for part in text.split("+"))


def _parse_item(part: str, text: str) -> MixtureItem:
    source, amount, start, stop = part, 1.0, None, None
    if match := _AMOUNT.fullmatch(source):
        source, amount = match["rest"], float(match["number"])
        if amount == 0:
            raise ConfigError(f'Mixture item "{part}": the amount must be more than 0; leave the item out instead.')
    if match := _RANGE.fullmatch(source):
        source, start, stop = match["rest"], *(int(match[end]) if match[end] else None for end in ("start", "stop"))
        if stop is not None and (start or 0) >= stop:
            raise ConfigError(f'Mixture item "{part}": the range {start or 0}:{stop} is empty.')
    if not source:
        raise ConfigError(f'Mixture "{text}" has an empty item: write NAME+NAME*2+FORMAT:FOLDER.')
    if strange := set(source) & set("*[]"):
        raise ConfigError(
            f'Mixture item "{part}": {sorted(strange)[0]!r} must be followed by what it takes, as in NAME*2, NAME:0.3 '
            "or NAME[0:1000]."
        )
    name, colon, folder = source.partition(":")
    if not colon and "/" in name:
        name, folder = "", name
    elif colon and not folder:
        raise ConfigError(f'Mixture item "{part}" names no folder after ":".')
    return MixtureItem(
        name=name.strip(), folder=Path(folder) if folder else None, start=start, stop=stop, amount=amount
    )


def open_item(
    item: MixtureItem,
    root: Path | None,
    options: LoadOptions,
    named: Mapping[str, NamedDataset] | None = None,
) -> Dataset:
    """Open the dataset of one item: one of `named`, or through the plugin registry.

    Raises:
        ConfigError: a registered dataset needs `--data_path` and none was given.
        DataError: a folder or file is missing or malformed.
        UnknownComponentError: nobody offers the name.
    """
    registry = default_host().registry("dataset")
    own = (named or {}).get(item.name) if item.folder is None else None
    if own is not None and own.folder is not None:
        if not own.folder.is_dir():
            raise DataError(f"{own.file}: the folder {own.folder} of {own.name!r} does not exist; mend the file.")
        places = replace(options, annotations=own.annotations, media=own.media)
        dataset: Dataset = registry.load(own.format).open(own.format, own.folder, places)
        dataset.name = own.name
        return dataset
    folder = item.folder
    if folder is not None and not folder.is_absolute() and root is not None and not folder.exists():
        folder = root / folder
    name = item.name
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


def expand(
    text: str, named: Mapping[str, NamedDataset], *, amount: float = 1.0, within: tuple[str, ...] = ()
) -> tuple[MixtureItem, ...]:
    """The items of a mixture, names of mixtures replaced by what they stand for.

    Raises:
        ConfigError: an item is malformed, or a mixture contains itself.
    """
    items: list[MixtureItem] = []
    for item in parse_mixture(text):
        own = named.get(item.name) if item.folder is None else None
        if own is None or not own.mixture:
            items.append(replace(item, amount=item.amount * amount))
            continue
        if item.name in within:
            raise ConfigError(f"{own.file}: the mixture {item.name!r} contains itself; mend the file.")
        if item.start is not None or item.stop is not None:
            raise ConfigError(f"{item.name!r} is a mixture, of which no range can be taken: take ranges of its parts.")
        items += expand(own.mixture, named, amount=item.amount * amount, within=(*within, item.name))
    return tuple(items)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The samples of one dataset that an epoch sees once."""

    dataset: Dataset
    indices: Sequence[int]
    labels: Mapping[str, int] = field(default_factory=dict)
    """How many of them have which label, where they were balanced by it."""

    @staticmethod
    def of(
        dataset: Dataset, item: MixtureItem, rebalance: str = "", progress: Progress = lambda done, total: None
    ) -> list[Part]:
        """What an item asks for: whole passes over its range, then a drawn share of it; `rebalance` for each label.

        Raises:
            DataError: the range lies beyond the dataset's end.
            ConfigError: `rebalance` is malformed.
        """
        size = len(dataset)
        whole = range(size)[item.start : item.stop]
        if size and not whole:
            raise DataError(f"{dataset.name} has {size} samples: the range from {item.start} on is empty.")
        if not rebalance:
            return [Part(dataset=dataset, indices=indices) for indices in _passes(whole, item.amount)]
        wanted = parse_weights(rebalance)
        labels = labels_of(dataset, progress)
        if not (labels != "").any():
            return Part.of(dataset, item)
        here = labels[whole.start : whole.stop].tolist()
        weights = weights_of(wanted, here)
        by_label: dict[str, list[int]] = {}
        for index, label in zip(whole, here, strict=True):
            by_label.setdefault(label, []).append(index)
        passes = [_passes(members, item.amount * weights.get(label, 1.0)) for label, members in by_label.items()]
        merged = [sorted(chain(*seen)) for seen in zip_longest(*passes, fillvalue=())]
        return [Part(dataset=dataset, indices=seen, labels=Counter(labels[seen].tolist())) for seen in merged]


def _passes(indices: Sequence[int], amount: float) -> list[Sequence[int]]:
    """All indices as often as `amount` says, then the share of them that its fraction says."""
    passes, share = divmod(amount, 1)
    seen = [indices] * int(passes)
    if count := round(share * len(indices)):
        # The same samples in every epoch and every run: a mixture is data, and data does not depend on the seed.
        drawn = np.sort(np.random.default_rng(0).permutation(len(indices))[:count])
        seen.append([indices[place] for place in drawn.tolist()])
    return seen


class Mixture:
    """Datasets put end to end, repeats included."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self._ends = list(accumulate(len(part.indices) for part in self.parts))
        if not self._ends or self._ends[-1] == 0:
            raise DataError("The data mixture holds no sample: check its folders.")

    @classmethod
    def open(
        cls,
        text: str,
        root: Path | None = None,
        options: LoadOptions | None = None,
        *,
        rebalance: str = "",
        progress: Progress = lambda done, total: None,
    ) -> Mixture:
        """Open every item of a mixture string; see `expand`, `open_item` and `Part.of` for what it raises."""
        options = options or LoadOptions()
        named = named_datasets()
        parts: list[Part] = []
        for item in expand(text, named):
            parts += Part.of(open_item(item, root, options, named), item, rebalance, progress)
        return cls(parts)

    def locate(self, index: int) -> tuple[Dataset, int]:
        """The dataset an index of the mixture falls into, and the index there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        part = self.parts[number]
        return part.dataset, part.indices[index - (self._ends[number - 1] if number else 0)]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        dataset, local = self.locate(index)
        return dataset[local]

    def groups(self) -> list[tuple[int, str]]:
        """For every index: its part (repeats are parts of their own) and its group there."""
        return [(number, _group(part.dataset, i)) for number, part in enumerate(self.parts) for i in part.indices]

    def runs(self) -> list[NDArray[np.int64]]:
        """For every part: the run (`Dataset.runs`) of each of its samples; where there are none, each is its own."""
        return [
            np.searchsorted(part.dataset.runs(), part.indices, side="right")
            if len(part.dataset.runs())
            else np.arange(len(part.indices))
            for part in self.parts
        ]

    def counts(self) -> dict[str, int]:
        """Samples an epoch, by dataset name."""
        counts: dict[str, int] = {}
        for part in self.parts:
            counts[part.dataset.name] = counts.get(part.dataset.name, 0) + len(part.indices)
        return counts

    def labels(self) -> dict[str, dict[str, int]]:
        """Of the datasets that were balanced, the samples an epoch by label."""
        counts: dict[str, Counter[str]] = {}
        for part in self.parts:
            if part.labels:
                counts.setdefault(part.dataset.name, Counter()).update(part.labels)
        return {
            name: {label or "other": count for label, count in sorted(labels.items())}
            for name, labels in counts.items()
        }


def _group(dataset: Dataset, index: int) -> str:
    # A malformed record is told when it is used, and stands alone until then.
    try:
        return dataset.group(index)
    except DataError:
        return f"record {index}"


def permutation(size: int, *, seed: int, epoch: int) -> list[int]:
    """A random order of `range(size)`; the same for equal arguments, whatever the number of processes."""
    return np.random.default_rng([seed, epoch]).permutation(size).tolist()
