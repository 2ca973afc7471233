"""Results as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from navila_eval.benchmark import Results


def results_table(title: str, results: Results) -> Table:
    """One run: each metric with its 95 % interval."""
    table = Table("metric", "value", "95 % interval", title=f"{title}: {results.count} episodes", title_justify="left")
    for name, value in results.metrics.items():
        table.add_row(name, _number(value), _interval(results.intervals.get(name)))
    counters = results.content.get("counters", {})
    for name in ("timed_out", "failed", "unparsed"):
        if counters.get(name):
            table.add_row(name.replace("_", " "), str(counters[name]), "")
    return table


def comparison_table(
    title: str,
    runs: Mapping[str, Results],
    metrics: Sequence[str] = ("sr", "spl", "os", "ne", "ndtw", "sdtw", "pl", "steps"),
) -> Table:
    """Several agents over the same episodes, one a row; success rates with their intervals."""
    table = Table(
        "agent", "n", *metrics, title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for agent, results in runs.items():
        cells = []
        for name in metrics:
            interval = results.intervals.get(name) if name == "sr" else None
            value = results.metrics.get(name)
            shown = "n/a" if value is None else f"{value:.1f}" if name == "steps" else f"{value:.2f}"
            cells.append(f"{shown} ({interval[0]:.2f}-{interval[1]:.2f})" if interval else shown)
        table.add_row(agent.replace("_", " ").replace("-", " "), str(results.count), *cells)
    return table


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if not interval else f"{_number(interval[0])} to {_number(interval[1])}"
