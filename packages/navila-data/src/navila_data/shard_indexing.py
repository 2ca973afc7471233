"""Making the index of a folder of shards: in parallel, again only for shards that changed, and going on where it was
stopped."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from navila.errors import DataError

from navila_data.shards import ShardFiles, Shards, find_shards, index_name, index_places, parts_of, save_index
from navila_data.tar_index import Keys, ShardIndex, index_shard

#: What is found is saved after so many s, of a large index less often: saving takes a tenth of the time at most.
SAVED_EVERY = 20.0

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)


def open_shards(folder: Path, keys: Keys | None = None) -> Shards:
    """Open a folder of shards, indexing it first where that was not done or shards changed.

    Raises:
        DataError: there are no shards that can be used, or the index cannot be written.
    """
    files = find_shards(folder, keys)
    name = index_name(files, [files.state(shard) for shard in files.names])
    for place in index_places(folder):
        if (place / name).exists():
            shards = Shards(folder, place / name)
            # Who mended the disk or a permission changed no shard.
            return index_folder(files) if shards.broken else shards
    _log.warning(
        "Indexing %d shards of %s; `navila data index-shards` does so beforehand, in parallel.",
        len(files.names),
        folder,
    )
    return index_folder(files)


def index_folder(files: ShardFiles, *, workers: int = 1, progress: Progress = lambda done, total: None) -> Shards:
    """Index shards, with `workers` processes; the result does not depend on them. Old indexes are replaced.

    Raises:
        DataError: the index cannot be written, or a process was killed.
    """
    states = [files.state(name) for name in files.names]
    name, unfinished = index_name(files, states), f"{files.keys}.unfinished"
    place = _writable(index_places(files.folder))
    known: dict[tuple[str, int, int], ShardIndex] = {}
    for where in index_places(files.folder):
        for old in [*sorted(where.glob(f"{files.keys}-*.index")), where / unfinished]:
            known |= parts_of(old)
    # A broken shard is looked at again: it may have been the disk.
    broken = {state: part.broken for state, part in known.items() if part.broken}
    known = {state: known[state] for state in states if state in known and state not in broken}
    missing = [state for state in states if state not in known]
    progress(len(known), len(states))
    next_save = time.monotonic() + SAVED_EVERY
    try:
        found = _found([files.path(state[0]) for state in missing], files.keys, workers)
        for state, part in zip(missing, found, strict=True):
            known[state] = part
            progress(len(known), len(states))
            if (began := time.monotonic()) > next_save:
                _save(place / unfinished, list(known.items()))
                next_save = time.monotonic() + max(SAVED_EVERY, 10 * (time.monotonic() - began))
        if any(known[state].broken != broken.get(state) for state in missing) or not (place / name).exists():
            _save(place / name, [(state, known[state]) for state in states])
    except KeyboardInterrupt:
        _save(place / unfinished, list(known.items()))
        raise
    except BrokenProcessPool:
        _save(place / unfinished, list(known.items()))
        raise DataError(f"A process that indexed {files.folder} was killed: use fewer --workers.") from None
    for old in [*place.glob(f"{files.keys}-*.index"), place / unfinished]:
        if old.name != name:
            old.unlink(missing_ok=True)
    return Shards(files.folder, place / name)


def differences(files: ShardFiles, shards: Shards) -> list[str]:
    """Shards that hold fewer or more samples than those who wrote them say, a sentence each."""
    begins = [0, *shards.ends.tolist()]
    said = []
    for number, name in enumerate(shards.names):
        promised = files.promised.get(name, -1)
        held = begins[number + 1] - begins[number]
        if promised >= 0 and promised != held and number not in shards.broken:
            said.append(f"{files.path(name)} holds {held} samples, and {promised} were promised.")
    return said


def _writable(places: Sequence[Path]) -> Path:
    """The first folder that files can be written to."""
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            probe = place / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError:
            continue
        return place
    raise DataError(f"Neither {places[0]} nor {places[-1]} can be written to: set NAVILA_CACHE to a folder that can.")


def _save(path: Path, rows: Sequence[tuple[tuple[str, int, int], ShardIndex]]) -> None:
    try:
        save_index(path, rows)
    except OSError as error:
        raise DataError(f"The index {path} cannot be written ({error.strerror}): free space there.") from None


def _found(paths: Sequence[Path], keys: Keys, workers: int) -> Iterator[ShardIndex]:
    if workers == 1 or len(paths) < 2:
        yield from (index_shard(path, keys) for path in paths)
        return
    # Not forked: whoever trains has threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(partial(index_shard, keys=keys), paths, chunksize=max(len(paths) // workers // 16, 1))
