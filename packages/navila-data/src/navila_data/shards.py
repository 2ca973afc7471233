"""A folder of tar shards as a sequence of samples: each is found by its place, through an index made once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from navila.errors import DataError
from navila.files import write_atomically
from numpy.typing import NDArray

from navila_data.media import TarMember
from navila_data.record_index import cache_folder
from navila_data.records import media_path
from navila_data.tar_index import MEMBER, SAMPLE, Keys, ShardIndex

VERSION = 1
#: Folder of the index, beside the shards.
FOLDER = ".navila-shards"
WIDS = "wids-meta.json"
#: Tars that have to be read from their beginning to find anything in them.
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """The shards of a folder, as they are now."""

    folder: Path
    names: tuple[str, ...]
    """Relative to the folder: in the order of `wids-meta.json` where there is one, else sorted."""
    keys: Keys
    promised: Mapping[str, int]
    """Samples that a shard should hold, by those who wrote it, where they say so."""
    notes: tuple[str, ...] = ()
    """What a user should know."""

    def path(self, name: str) -> Path:
        return self.folder / name

    def state(self, name: str) -> tuple[str, int, int]:
        """Name, bytes, and time of change in ns.

        Raises:
            DataError: the shard is missing.
        """
        try:
            state = self.path(name).stat()
        except OSError as error:
            raise DataError(f"{self.path(name)} cannot be read ({error.strerror}): fetch it, or mend {WIDS}.") from None
        return name, state.st_size, state.st_mtime_ns


def find_shards(folder: Path, keys: Keys | None = None) -> ShardFiles:
    """List the shards below a folder: those that its `wids-meta.json` names, else all `*.tar`.

    Keys end at the first dot of a file name, as in webdataset; by default, at the last dot where VILA's tool wrote
    `wids-meta.json`.

    Raises:
        DataError: there is none, or only what cannot be used, or `wids-meta.json` is malformed.
    """
    if not folder.is_dir():
        raise DataError(f"The folder of shards {folder} does not exist: check the path.")
    files = sorted(_walk(folder))
    there = [name for name in files if name.endswith(".tar")]
    for name in files:
        if name.endswith(COMPRESSED) and f"{name[: name.rindex('.t')]}.tar" not in there:
            raise DataError(
                f"{folder / name} is compressed, so its files cannot be found by place: unpack it to .tar (its images "
                "hardly shrink anyway)."
            )
    if not there and any(name.endswith(".pkl") for name in files):
        raise DataError(
            f"{folder} holds pickled shards, which can run any code when they are read: write them as tar shards where "
            "you trust them (docs/reference/shards.md shows how)."
        )
    meta = _read_wids(folder / WIDS)
    kind = meta.get("__kind__") if meta else None
    usual: Keys = "last-dot" if kind == "VILA-WebDataset" else "first-dot"
    notes: list[str] = []
    if meta is None:
        names, promised = there, _img2dataset_counts(folder, there)
    else:
        promised = dict(_wids_counts(meta, folder))
        names = list(promised)
        if left_out := sorted(set(there) - set(names)):
            notes.append(f"{folder / WIDS} does not name {len(left_out)} shards beside it, first {left_out[0]}.")
    if not names:
        raise DataError(f"{folder} holds no .tar shards: check the path.")
    return ShardFiles(folder=folder, names=tuple(names), keys=keys or usual, promised=promised, notes=tuple(notes))


def _walk(folder: Path) -> list[str]:
    # Links are followed: data often lie behind them. pathlib's globs follow none below Python 3.13.
    return [
        str(Path(where, name).relative_to(folder))
        for where, folders, names in os.walk(folder, followlinks=True)
        if not Path(where).name.startswith(".") or Path(where) == folder
        for name in names
        if not name.startswith(".")
    ]


def _read_wids(path: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): mend it, or remove it to take every .tar.") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("shardlist"), list):
        raise DataError(f'{path} has no list of shards at "shardlist": mend it, or remove it to take every .tar.')
    return meta


def _wids_counts(meta: Mapping[str, Any], folder: Path) -> list[tuple[str, int]]:
    """Names and numbers of samples of the shards in `wids-meta.json`."""
    counts = []
    for number, shard in enumerate(meta["shardlist"]):
        where = f"{folder / WIDS}, shard {number}"
        url, count = (shard.get("url"), shard.get("nsamples", -1)) if isinstance(shard, dict) else (None, None)
        if isinstance(url, str) and (":" in url.split("/")[0]):
            raise DataError(f"{where}: {url!r} is not on this machine; fetch the shards below {folder}.")
        if isinstance(count, bool) or not isinstance(count, int):
            raise DataError(f'{where}: needs a "url" and a number at "nsamples"; mend it.')
        name = str(media_path(folder, url, where).relative_to(folder))
        if name.endswith(COMPRESSED):
            raise DataError(f"{where}: {url!r} is compressed; unpack it to .tar and name that.")
        counts.append((name, count))
    if repeated := len(counts) - len({name for name, _ in counts}):
        raise DataError(f"{folder / WIDS} names {repeated} shards twice; mend it.")
    return counts


def _img2dataset_counts(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Samples by shard, from the `NAME_stats.json` that img2dataset leaves beside them."""
    counts = {}
    for name in names:
        with suppress(OSError, ValueError, KeyError, TypeError):
            stats = (folder / f"{name.removesuffix('.tar')}_stats.json").read_text(encoding="utf-8")
            counts[name] = int(json.loads(stats)["successes"])
    return counts


@dataclass(frozen=True, kw_only=True)
class ShardSample:
    """The files of a sample."""

    shard: Path
    key: str
    files: Mapping[str, TarMember]
    """By extension, in small letters."""


class Shards(Sequence[ShardSample]):
    """Every sample of a folder of shards, in order; the index is mapped, not read. A broken shard's rest is one sample
    that raises."""

    def __init__(self, folder: Path, index: Path) -> None:
        """Map an index that is current; see `navila_data.shard_indexing.open_shards`."""
        self.folder = folder
        self.index_file = index
        facts, self._samples, self._members, self._keys = load_index(index)
        self.names: list[str] = [row[0] for row in facts["shards"]]
        self.broken: dict[int, str] = {number: row[5] for number, row in enumerate(facts["shards"]) if row[5]}
        """Why, by number of the shard."""
        self.ignored = sum(row[6] for row in facts["shards"])
        """Files that are in no sample."""
        self._extensions: list[str] = facts["extensions"]
        self.ends: NDArray[np.int64] = np.cumsum([row[3] for row in facts["shards"]], dtype=np.int64)
        """The sample after each shard's last."""

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> ShardSample:  # type: ignore[override]  # Nobody takes slices.
        """The files of a sample.

        Raises:
            DataError: it stands for the rest of a broken shard.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self.ends, index, side="right"))
        begin, key_begin = self._samples[index - 1].tolist() if index else (0, 0)
        end, key_end = self._samples[index].tolist()
        if begin == end:
            raise DataError(self.broken[number])
        shard = self.folder / self.names[number]
        key = self._keys[key_begin:key_end].tobytes().decode()
        files = {}
        for offset, size, extension in self._members[begin:end].tolist():
            spelled = self._extensions[extension]
            files[spelled.lower()] = TarMember(shard, f"{key}.{spelled}", offset, size)
        return ShardSample(shard=shard, key=key, files=files)

    def fingerprint(self) -> str:
        """The folder, and what the index was made from: names, sizes and times of change of the shards."""
        return f"{self.folder.resolve()} {self.index_file.name}"

    def __reduce__(self) -> tuple[type[Shards], tuple[Path, Path]]:
        return Shards, (self.folder, self.index_file)


def index_name(files: ShardFiles, states: Sequence[tuple[str, int, int]]) -> str:
    """The file name of an index, which says all that it was made from."""
    identity = json.dumps([VERSION, files.keys, states])
    return f"{files.keys}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.index"


def index_places(folder: Path) -> list[Path]:
    """Where indexes of a folder are looked for: beside the shards, and where that cannot be written, in the cache."""
    mark = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return [folder / FOLDER, cache_folder() / "shards" / mark]


def save_index(path: Path, rows: Sequence[tuple[tuple[str, int, int], ShardIndex]]) -> None:
    """Write the indexes of shards, put end to end: a line of JSON, then the three arrays as they are in memory.

    Raises:
        OSError: it cannot be written.
    """
    extensions: dict[str, int] = {}
    shards, samples, members = [], [np.zeros(0, SAMPLE)], [np.zeros(0, MEMBER)]
    ends = np.zeros((), SAMPLE)
    for state, part in rows:
        numbers = np.array([extensions.setdefault(e, len(extensions)) for e in part.extensions], np.int32)
        shards.append([*state, len(part.samples), len(part.members), part.broken, part.ignored, len(part.keys)])
        moved, renumbered = part.samples.copy(), part.members.copy()
        moved["members"] += ends["members"]
        moved["key"] += ends["key"]
        if len(renumbered):
            renumbered["extension"] = numbers[renumbered["extension"]]
        samples.append(moved)
        members.append(renumbered)
        ends["members"] += len(part.members)
        ends["key"] += len(part.keys)
    facts = {"version": VERSION, "extensions": list(extensions), "shards": shards}
    arrays = (np.concatenate(samples).tobytes(), np.concatenate(members).tobytes())
    write_atomically(path, b"".join([json.dumps(facts).encode(), b"\n", *arrays, *(part.keys for _, part in rows)]))


def load_index(path: Path) -> tuple[dict[str, Any], NDArray[np.void], NDArray[np.void], NDArray[np.uint8]]:
    """Facts, samples, members and keys of an index, the arrays mapped.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            facts = json.loads(file.readline())
            begin = file.tell()
        content = np.memmap(path, np.uint8, "r")
        if facts["version"] != VERSION:
            raise ValueError
        counts = (sum(row[3] for row in facts["shards"]), sum(row[4] for row in facts["shards"]))
        middle = begin + counts[0] * SAMPLE.itemsize
        keys = middle + counts[1] * MEMBER.itemsize
        if len(content) != keys + sum(row[7] for row in facts["shards"]):
            raise ValueError
        return facts, content[begin:middle].view(SAMPLE), content[middle:keys].view(MEMBER), content[keys:]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise DataError(f"The index {path} is missing or damaged: remove it; it is made again.") from None


def parts_of(path: Path) -> dict[tuple[str, int, int], ShardIndex]:
    """The shards of an index one by one, by name, size and time of change; none where there is no good one."""
    try:
        facts, samples, members, keys = load_index(path)
    except DataError:
        return {}
    parts = {}
    sample = member = key = 0
    for name, size, changed, n_samples, n_members, broken, ignored, n_keys in facts["shards"]:
        own = np.array(samples[sample : sample + n_samples])
        own["members"] -= member
        own["key"] -= key
        parts[name, size, changed] = ShardIndex(
            samples=own,
            members=np.array(members[member : member + n_members]),
            keys=keys[key : key + n_keys].tobytes(),
            extensions=tuple(facts["extensions"]),
            ignored=ignored,
            broken=broken,
        )
        sample, member, key = sample + n_samples, member + n_members, key + n_keys
    return parts
