"""Which datasets there are, and which of them lie on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from navila.plugins import default_host
from navila.specs import DatasetSpec

from navila_data.datasets_file import NamedDataset, named_datasets


@dataclass(frozen=True, kw_only=True)
class ListedDataset:
    """A name that a mixture can hold."""

    name: str
    kind: str
    """What it teaches, or `mixture`."""
    origin: str
    """The plugin that registers it, or the file that names it."""
    format: str
    """The registered name that reads it, or what a mixture stands for."""
    folder: str
    """Where it is looked for; empty where any folder will do, or none was given."""
    expected: tuple[str, ...]
    """Files below the folder, with a word on each."""
    present: bool | None
    """Whether its files are there; None where that cannot be said."""
    samples: int | None
    """Records, where they have been indexed before."""


def list_datasets(root: Path | None) -> list[ListedDataset]:
    """Every registered dataset, looked for below `root`, then every name of `datasets.yaml`.

    Raises:
        ConfigError: a `datasets.yaml` is malformed.
    """
    registry = default_host().registry("dataset")
    registered = {entry.spec.name: entry.spec for entry in registry.entries}
    listed = [_registered(entry.spec, str(entry.origin), root) for entry in registry.entries]
    return listed + [_named(named, registered) for named in named_datasets().values()]


def _registered(spec: DatasetSpec, origin: str, root: Path | None) -> ListedDataset:
    places = [list(_alternatives(expected)) for expected in spec.expected_files]
    # What lies directly in its folder has none of its own: it is a format, for any folder.
    anywhere = all("/" not in names[0].rstrip("/") for names in places)
    present = samples = None
    if root is not None and not anywhere:
        present = all(any((root / name).exists() for name in names) for names in places)
        samples = _samples([root / name for names in places for name in names])
    return ListedDataset(
        name=spec.name,
        kind=spec.kind,
        origin=origin,
        format=spec.name,
        folder="" if anywhere or root is None else str(root),
        expected=spec.expected_files,
        present=present,
        samples=samples,
    )


def _alternatives(expected: str) -> Iterator[str]:
    """The paths of a line such as `Name/images/ or videos/: pictures`; the second one lies beside the first."""
    first, *others = expected.partition(": ")[0].partition(",")[0].split(" or ")
    yield first
    yield from (f"{first.rstrip('/').rpartition('/')[0]}/{other}".lstrip("/") for other in others)


def _named(named: NamedDataset, registered: dict[str, DatasetSpec]) -> ListedDataset:
    spec = registered.get(named.format)
    samples = None
    if named.folder is not None:
        usual = [named.folder / name for name in ("annotations.json", "annotations.jsonl")]
        if spec is not None:
            usual += [named.folder / name for line in spec.expected_files for name in _alternatives(line)]
        samples = _samples(usual if named.annotations is None else [named.annotations])
    places = [place for place in (named.folder, named.annotations, named.media) if place is not None]
    return ListedDataset(
        name=named.name,
        kind="mixture" if named.mixture else "" if spec is None else spec.kind,
        origin=str(named.file),
        format=named.mixture or named.format,
        folder="" if named.folder is None else str(named.folder),
        expected=() if spec is None else spec.expected_files,
        present=all(place.exists() for place in places) if places else None,
        samples=samples,
    )


def _samples(files: list[Path]) -> int | None:
    from navila_data.record_index import known_count

    counts = (known_count(file) for file in files if file.suffix in (".json", ".jsonl") and file.is_file())
    return next((count for count in counts if count is not None), None)
