"""What a run of questions comes to: `results.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from navila_eval.manifest import environment
from navila_eval.metric_paths import paths_of, results_tree
from navila_eval.questions import Record, Scores
from navila_eval.statistics import bootstrap_ci

#: Failed samples that `results.json` names.
NAMED = 100


def summarise(
    records: Sequence[Record],
    scores: Scores,
    run: Mapping[str, Any],
    agent: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """`results.json` of scored records; a pure function but for the manifest, which has all `options` of the task."""
    failed = [record for record in records if record["error"]]
    columns = {
        name: [sample[name] for sample in scores.samples if name in sample]
        for name in scores.metrics
        if any(name in sample for sample in scores.samples)
    }
    return {
        "format": 1,
        "task": run["task"],
        "split": run["split"],
        "results": results_tree(run["task"], scores.metrics, {**paths_of(run["task"]), **scores.paths}),
        "confidence_95": {
            name: scores.intervals[name] if name in scores.intervals else _interval(columns.get(name, ()), value)
            for name, value in scores.metrics.items()
        },
        "samples": len(records),
        "counters": {
            "failed": len(failed),
            "unparsed": sum(record["answer"] is None for record in records) - len(failed),
            **({"without_verdict": n} if (n := sum(bool(record.get("judge_error")) for record in records)) else {}),
            **scores.counts,
        },
        **({"tables": dict(scores.tables)} if scores.tables else {}),
        **({"heat_maps": dict(scores.heat_maps)} if scores.heat_maps else {}),
        "failed_samples": [{"id": record["id"], "error": _why(record)} for record in records if _why(record)][:NAMED],
        "run": dict(run),
        "agent": dict(agent),
        "manifest": {**environment(), "options": dict(options)},
    }


def _interval(column: Sequence[float], value: float | None) -> tuple[float, float] | None:
    """The interval of a metric that is the mean of what samples have; None for another, whose benchmark gives none."""
    if not column or value is None or not math.isclose(sum(column) / len(column), value, rel_tol=1e-6, abs_tol=1e-9):
        return None
    return bootstrap_ci(column)


def _why(record: Record) -> str:
    """Why a sample counts as failed; empty if it does not."""
    return record["error"] or (f"no verdict: {record['judge_error']}" if record.get("judge_error") else "")
