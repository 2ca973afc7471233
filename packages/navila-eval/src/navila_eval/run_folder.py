"""The folder of one run: what it is of, its records, and whether it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from navila.errors import ConfigError, DataError

from navila_eval.jsonl import JsonlWriter, drop_cut_line, dumps, read_json, read_records, write_json
from navila_eval.walk import Record

#: Names in a run's folder.
RUN, RECORDS, RESULTS, AGGREGATE, PICTURES = "run.json", "episodes.jsonl", "results.json", "aggregate.json", "pictures"
#: Fields that every record has; by the first one it is known.
FIELDS = ("episode_id",)
#: In place of `RECORDS` and `FIELDS` in a run of questions.
SAMPLES, SAMPLE_FIELDS = "samples.jsonl", ("id", "output", "error", "reference", "facts")
#: Where the time of each episode went: apart from its record, which is the same on every machine.
TIMINGS = "timings.jsonl"
#: A folder of films of episodes.
VIDEOS = "videos"
#: A folder of what the processes that share a run are at.
CLAIMS = "claims"


class RunFolder:
    """`run.json` (what is run), a file of records (one a finished episode or sample), `results.json` (complete)."""

    def __init__(self, path: Path, *, records: str = RECORDS, fields: Sequence[str] = FIELDS) -> None:
        """A folder, the name of its file of records, and the fields of each, the first of which it is known by."""
        self.path = path
        self.records_name = records
        self.fields = fields
        self.key = fields[0]

    def open(self, run: Mapping[str, Any], *, force: bool = False, resume: bool = True, shared: bool = False) -> bool:
        """Claim the folder for a run; whether a cut-off last record had to be dropped.

        Args:
            run: everything that decides the result, as JSON.
            force: throw away whatever is there.
            resume: go on with unfinished records of the same run instead of throwing them away.
            shared: other processes are at work here, whose files are left as they are.

        Raises:
            ConfigError: the folder holds another run.
        """
        if force or (not resume and not (self.path / RESULTS).exists()):
            self.clear()
        run = {"run": dict(run)}
        if (self.path / RUN).exists():
            there = read_json(self.path / RUN)
            differing = _differing(there.get("run", {}), run["run"])
            if not differing and shared:
                return False
            if not differing:
                drop_cut_line(self.path / TIMINGS)
                return drop_cut_line(self.path / self.records_name)
            # A run that broke before its first record, often for the very argument that differs, left nothing to keep.
            if shared or self.records() or (self.path / RESULTS).exists():
                raise ConfigError(
                    f"{self.path} holds another run ({differing}): use another --output-dir, or --force to replace it."
                )
            self.clear()
        if (self.path / self.records_name).exists():
            raise ConfigError(
                f"{self.path} has {self.records_name} but no {RUN}: choose another --output-dir, or --force."
            )
        write_json(self.path / RUN, run)
        return False

    def note_agent(self, facts: Mapping[str, Any]) -> None:
        """Add to `run.json` who walks or answers."""
        write_json(self.path / RUN, {**read_json(self.path / RUN), "agent": dict(facts)})

    def agent(self) -> dict[str, Any]:
        """What `note_agent` was told."""
        return read_json(self.path / RUN).get("agent", {})

    def run(self) -> dict[str, Any]:
        """What is being run.

        Raises:
            DataError: the folder holds no run.
        """
        content = read_json(self.path / RUN)
        if not isinstance(content, dict) or not isinstance(content.get("run"), dict) or "task" not in content["run"]:
            raise DataError(f"{self.path / RUN} tells of no run of `navila eval`: name a folder OUTPUT/MODEL/TASK.")
        return content["run"]

    def note_run(self, run: Mapping[str, Any]) -> None:
        """Change what is being run where that leaves the records as they are."""
        write_json(self.path / RUN, {**read_json(self.path / RUN), "run": dict(run)})

    @staticmethod
    def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether two runs are the same."""
        return not _differing(one, other)

    def clear(self) -> None:
        """Remove what a run wrote here, and nothing else."""
        for name in (RESULTS, AGGREGATE, TIMINGS, self.records_name, RUN):
            (self.path / name).unlink(missing_ok=True)
        for path in (*self.parts(), *self.path.glob(f"{Path(TIMINGS).stem}-*.jsonl")):
            path.unlink(missing_ok=True)
        for name in (PICTURES, VIDEOS):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def records(self) -> dict[str, Record]:
        """Finished episodes or samples by id; a later record of one replaces an earlier one."""
        with closing(RecordReader(self)) as reader:
            return by_id(reader.new(), self.key)

    def parts(self) -> list[Path]:
        """Files of records that were written beside the first one, by processes that share the run."""
        return sorted(self.path.glob(f"{Path(self.records_name).stem}-*.jsonl"))

    def writer(self, part: str = "") -> JsonlWriter:
        """Where new records go, a file of one process alone; results that were there are complete no longer."""
        (self.path / RESULTS).unlink(missing_ok=True)
        path = Path(self.records_name)
        return JsonlWriter(self.path / (f"{path.stem}-{part}{path.suffix}" if part else path))

    def results(self) -> dict[str, Any] | None:
        """The results if the run is complete; an empty object is none."""
        path = self.path / RESULTS
        return (read_json(path) or None) if path.exists() else None

    def results_since(self, before: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The results if another process has completed the run since they were `before`."""
        now = self.results()
        return now if now != before and not self.parts() else None

    def finish(self, results: Mapping[str, Any], aggregate: Mapping[str, Any] | None = None) -> None:
        """Write the results: their presence says that the run is complete."""
        if aggregate is not None:
            write_json(self.path / AGGREGATE, aggregate)
        write_json(self.path / RESULTS, results)


def by_id(records: Iterable[Record], key: str) -> dict[str, Record]:
    """Records by id; a later one replaces an earlier one, unless it alone tells of an error."""
    found: dict[str, Record] = {}
    for record in records:
        if not record.get("error") or record[key] not in found or found[record[key]].get("error"):
            found[record[key]] = record
    return found


class RecordReader:
    """Reads the records of a run as they come, whichever process writes them."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        # Kept open: the number of a file that was replaced is given to no other one meanwhile.
        self._files: dict[Path, tuple[BinaryIO, int]] = {}

    def new(self) -> list[Record]:
        """Records that were added since the last call, or at all; a line that is not finished counts later.

        Raises:
            DataError: a line is no record.
        """
        # The parts first: whoever puts them together removes them afterwards.
        parts = [self._added(path) for path in self._folder.parts()]
        return [*self._added(self._folder.path / self._folder.records_name), *(r for part in parts for r in part)]

    def _added(self, path: Path) -> list[Record]:
        known, start = self._files.get(path, (None, 0))
        try:
            # Opened anew: a buffer might hold the rest of a line that was cut off meanwhile.
            file = path.open("rb")
        except FileNotFoundError:
            return []
        if known is not None and not os.path.samestat(os.fstat(file.fileno()), os.fstat(known.fileno())):
            start = 0
        try:
            records, end = read_records(file, start, path)
        except DataError:
            file.close()
            raise
        if known is not None:
            known.close()
        self._files[path] = (file, end)
        for record in records:
            lacking = [name for name in self._folder.fields if name not in record]
            if lacking:
                raise DataError(f"{path} has a line without {lacking[0]!r}: delete that line and run again.")
        return records

    def close(self) -> None:
        """Close the files."""
        for file, _ in self._files.values():
            file.close()
        self._files.clear()


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys under which two mappings hold something else, as JSON has it."""
    return [key for key in dict.fromkeys((*one, *other)) if dumps([one.get(key)]) != dumps([other.get(key)])]


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """`seed: 0 there, 1 here` for the first few fields that differ."""
    keys = differing_keys(there, here)
    # A checkpoint is known by its content, wherever it lies now and however its path is written.
    same = [name for name in ("model", "model_base") if there.get(f"{name}_sha256") and f"{name}_sha256" not in keys]
    keys = [key for key in keys if key not in same]
    # To a person another field says more than a hash.
    keys = [key for key in keys if not key.endswith("_sha256")] or keys
    return "; ".join(f"{key}: {_short(there.get(key))} there, {_short(here.get(key))} here" for key in keys[:3])


def _short(value: Any) -> str:
    text = dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
