"""What a `results.json` says: the headline figures, and the results of a complete run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from navila_eval.benchmark import Results


def headlines(content: Mapping[str, Any]) -> dict[str, float | None]:
    """Headline figures of a run: those with an interval, all of its task where it says nothing of intervals."""
    figures = content["results"].get(content["task"], {})
    return {name: figures.get(name) for name in content.get("confidence_95", figures)}


def results_of(path: Path, content: Mapping[str, Any]) -> Results:
    """The results of the complete run in the folder `path`, of questions or of navigation."""
    counters = content["counters"]
    return Results(
        path=path,
        metrics=headlines(content),
        intervals=content["confidence_95"],
        count=content["samples" if "samples" in content else "episodes"],
        failed=counters["failed"] + counters.get("without_verdict", 0),
        content=content,
    )
