"""The folder of one run: what it is of, its records, and whether it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, DataError

from navila_eval.jsonl import JsonlWriter, drop_cut_line, dumps, read_json, read_jsonl, write_json
from navila_eval.walk import Record

#: Names in a run's folder.
RUN, RECORDS, RESULTS, AGGREGATE, PICTURES = "run.json", "episodes.jsonl", "results.json", "aggregate.json", "pictures"
#: Where the time of each episode went: apart from its record, which is the same on every machine.
TIMINGS = "timings.jsonl"
#: A folder of films of episodes.
VIDEOS = "videos"


class RunFolder:
    """`run.json` (what is run), a file of records (one a finished episode or sample), `results.json` (complete)."""

    def __init__(self, path: Path, *, records: str = RECORDS, key: str = "episode_id") -> None:
        """A folder, the name of its file of records, and the field by which these are known."""
        self.path = path
        self.records_name = records
        self.key = key

    def open(self, run: Mapping[str, Any], *, force: bool = False, resume: bool = True) -> bool:
        """Claim the folder for a run; whether a cut-off last record had to be dropped.

        Args:
            run: everything that decides the result, as JSON.
            force: throw away whatever is there.
            resume: go on with unfinished records of the same run instead of throwing them away.

        Raises:
            ConfigError: the folder holds another run.
        """
        if force or (not resume and not (self.path / RESULTS).exists()):
            self.clear()
        run = {"run": dict(run)}
        if (self.path / RUN).exists():
            there = read_json(self.path / RUN)
            differing = _differing(there.get("run", {}), run["run"])
            if not differing:
                drop_cut_line(self.path / TIMINGS)
                return drop_cut_line(self.path / self.records_name)
            # A run that broke before its first record, often for the very argument that differs, left nothing to keep.
            if self.records() or (self.path / RESULTS).exists():
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

    def clear(self) -> None:
        """Remove what a run wrote here, and nothing else."""
        for name in (RESULTS, AGGREGATE, TIMINGS, self.records_name, RUN):
            (self.path / name).unlink(missing_ok=True)
        for name in (PICTURES, VIDEOS):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def records(self) -> dict[str, Record]:
        """Finished episodes or samples by id; a later record of one replaces an earlier one."""
        records, _ = read_jsonl(self.path / self.records_name)
        return {record[self.key]: record for record in records}

    def writer(self) -> JsonlWriter:
        """Where new records go; results that were there are complete no longer."""
        (self.path / RESULTS).unlink(missing_ok=True)
        return JsonlWriter(self.path / self.records_name)

    def results(self) -> dict[str, Any] | None:
        """The results if the run is complete."""
        return read_json(self.path / RESULTS) if (self.path / RESULTS).exists() else None

    def finish(self, results: Mapping[str, Any], aggregate: Mapping[str, Any] | None = None) -> None:
        """Write the results: their presence says that the run is complete."""
        if aggregate is not None:
            write_json(self.path / AGGREGATE, aggregate)
        write_json(self.path / RESULTS, results)


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """`seed: 0 there, 1 here` for the first few fields that differ."""
    plain_here: dict[str, Any] = dict(here)
    keys = [
        k for k in (*there, *(k for k in here if k not in there)) if _json(there.get(k)) != _json(plain_here.get(k))
    ]
    return "; ".join(f"{key}: {_short(there.get(key))} there, {_short(here.get(key))} here" for key in keys[:3])


def _json(value: Any) -> str:
    return dumps({"": value})


def _short(value: Any) -> str:
    text = dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
