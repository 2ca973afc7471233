"""Figures of parts of a run: by scene, by the length of the way, and how often what went wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from navila_eval.failures import FAILURES, failure_of
from navila_eval.navigation_metrics import headline_values
from navila_eval.walk import Record, finite_or, measures

#: Metres of the shortest path at which groups of episodes end; the last has no end.
LENGTHS = (2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 20.0)
#: Figures of a group of episodes, and those that a comparison of walks shows.
FIGURES = ("sr", "spl", "os", "ne", "ndtw", "steps")


def breakdowns(records: Sequence[Record]) -> dict[str, dict[str, dict[str, Any]]]:
    """Number and figures of the episodes of each scene, length of the shortest path, and language where known."""
    languages = [record for record in records if "language" in record]
    return {
        **({"language": _groups(languages, lambda record: record["language"])} if languages else {}),
        "scene": _groups(records, lambda record: record["scene_id"]),
        "length": _groups(sorted(records, key=_length), lambda record: _length_label(_length(record))),
    }


def failure_counts(records: Sequence[Record]) -> dict[str, int]:
    """How many walks failed in which way; ways that none failed in are there, too."""
    found = Counter(failure.kind for record in records if (failure := failure_of(record)) is not None)
    return {kind: found[kind] for kind in FAILURES}


def _groups(records: Sequence[Record], key: Callable[[Record], str]) -> dict[str, dict[str, Any]]:
    members: dict[str, list[Mapping[str, float]]] = {}
    for record in records:
        members.setdefault(key(record), []).append(measures(record))
    return {name: _figures(rows) for name, rows in members.items()}


def _figures(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    values = headline_values(rows)
    means = {name: sum(values[name]) / len(values[name]) if values[name] else None for name in FIGURES}
    return {"episodes": len(rows), **means}


def _length(record: Record) -> float:
    """Metres of the shortest path; infinite where there is none or it is not known."""
    return finite_or(record["distances"][0], math.inf) if record["distances"] else math.inf


def _length_label(length: float) -> str:
    if math.isinf(length):
        return "unknown"
    low = max((edge for edge in LENGTHS if edge <= length), default=0.0)
    high = next((edge for edge in LENGTHS if edge > length), None)
    return f"{low:g} m and more" if high is None else f"{low:g} to {high:g} m"
