"""What complete records of navigation come to: `results.json`, `aggregate.json`, and the records in order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from navila.errors import ConfigError
from navila.files import write_atomically

from navila_eval.benchmark import Results
from navila_eval.breakdowns import breakdowns, failure_counts
from navila_eval.jsonl import dumps, read_jsonl, strict, write_json
from navila_eval.manifest import environment
from navila_eval.navigation_metrics import aggregate, headline_values
from navila_eval.results import results_of
from navila_eval.run_folder import RECORDS, TIMINGS, RunFolder
from navila_eval.statistics import bootstrap_ci
from navila_eval.walk import Record, measures, score


def finish_run(
    folder: RunFolder,
    records: Sequence[Record],
    run: Mapping[str, Any],
    submission: Callable[[Sequence[Record]], Mapping[str, str]],
) -> Results:
    """Put the records in the order of the episodes, and write what they come to, `results.json` last.

    The records are then the same bytes for any number of environments, processes and interruptions.
    """
    write_atomically(folder.path / RECORDS, "".join(dumps(record) + "\n" for record in records))
    for path in folder.parts():
        path.unlink()
    _gather_timings(folder.path)
    content, table = summarise(records, run, folder.agent())
    content["manifest"]["timings"] = _timings(folder.path)
    files = submission(records)
    for name, text in files.items():
        write_atomically(folder.path / name, text)
    content = strict({**content, **({"submission": list(files)} if files else {})})
    folder.finish(content, table)
    return results_of(folder.path, content)


def timings_file(folder: Path, part: str = "") -> Path:
    """Where timings go; those of a process that shares the run in a file of its own, until it is complete."""
    name = Path(TIMINGS)
    return folder / (f"{name.stem}-{part}{name.suffix}" if part else TIMINGS)


def _gather_timings(folder: Path) -> None:
    parts = sorted(folder.glob(f"{Path(TIMINGS).stem}-*.jsonl"))
    if parts:
        lines = [line for path in (folder / TIMINGS, *parts) for line in read_jsonl(path)[0]]
        write_atomically(folder / TIMINGS, "".join(dumps(line) + "\n" for line in lines))
    for path in parts:
        path.unlink()


def _timings(folder: Path) -> dict[str, float]:
    """Where the time of all walks went: seconds over all, and the mean batch of a decision's walks."""
    lines, _ = read_jsonl(folder / TIMINGS)
    latest = list({line["episode_id"]: line for line in lines}.values())
    totals = {name: round(sum(line[name] for line in latest), 2) for name in ("seconds", "simulator", "deciding")}
    return {**totals, "batch": round(sum(line["batch"] for line in latest) / len(latest), 2)} if latest else {}


def summarise(
    records: Sequence[Record], run: Mapping[str, Any], agent: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`results.json` and `aggregate.json` of recorded walks; a pure function but for the manifest."""
    rows = [measures(record) for record in records]
    values = headline_values(rows)
    decisions = [decision for record in records for decision in record["decisions"]]
    failed = [record for record in records if record["outcome"] == "failed"]
    content = {
        "format": 1,
        "task": run["task"],
        "split": run["split"],
        "results": {run["task"]: {name: _mean(column) for name, column in values.items()}},
        "confidence_95": {name: bootstrap_ci(column) for name, column in values.items()},
        "episodes": len(records),
        "counters": {
            "stopped": sum(record["outcome"] == "stopped" for record in records),
            "timed_out": sum(record["outcome"] == "time-out" for record in records),
            "failed": len(failed),
            "without_goal": sum(not record["goals"] for record in records),
            "without_finite_distance": len(records) - len(values["ne"]),
            "decisions": len(decisions),
            "unparsed": sum(decision["status"] == "unparsed" for decision in decisions),
            "answer_status": dict(sorted(Counter(decision["status"] for decision in decisions).items())),
        },
        "failures": failure_counts(records),
        "breakdowns": breakdowns(records),
        "failed_episodes": [{"episode_id": r["episode_id"], "error": r["error"]} for r in failed],
        "run": dict(run),
        "agent": dict(agent),
        "manifest": environment(),
    }
    return content, {"navila": aggregate(rows), "navid": aggregate(rows, invalid="zero")}


def rescored(records: Sequence[Record]) -> list[Record]:
    """The records with measures computed afresh from recorded poses, without model or simulator."""
    return [{**record, "metrics": strict(score(record))} for record in records]


def rescore_at(path: Path, success_distance: float) -> Results:
    """What a complete run would have come to with another success distance in metres.

    It is also that of oracle success and of nDTW's scale. Nothing of the run changes: the results go to
    `rescored-<distance>m.json` in its folder, the means of `aggregate.json` among them.

    Raises:
        ConfigError: the run is not complete, or none of navigation; or the distance is no finite number.
    """
    if not math.isfinite(success_distance):
        raise ConfigError(f"--success-distance is {success_distance}: give metres, such as 1.")
    folder = RunFolder(path)
    run = folder.run()
    if "episodes" not in run:
        raise ConfigError(f"{path} holds no run of navigation: --success-distance has no meaning for it.")
    records = [{**r, "success_distance": success_distance} for r in complete_records(folder, run)]
    content, table = summarise(rescored(records), {**run, "success_distance": success_distance}, folder.agent())
    content = strict({**content, "aggregate": table})
    written = f"rescored-{success_distance:g}m.json"
    write_json(path / written, content)
    return replace(results_of(path, content), written=written)


def complete_records(folder: RunFolder, run: Mapping[str, Any]) -> list[Record]:
    """The records of a run whose episodes all have one.

    Raises:
        ConfigError: some have none.
    """
    records = list(folder.records().values())
    if len(records) < run["episodes"]:
        raise ConfigError(
            f"{folder.path} has records of {len(records)} of {run['episodes']} episodes: finish it with `navila eval`."
        )
    return records


def _mean(column: Sequence[float]) -> float | None:
    return sum(column) / len(column) if column else None
