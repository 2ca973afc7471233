"""Results as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from navila_eval.benchmark import Results, in_words
from navila_eval.comparison import Comparison
from navila_eval.metric_paths import unit_of


def results_table(title: str, results: Results) -> Table:
    """One run: each metric with its 95 % interval."""
    unit = "samples" if "samples" in results.content else "episodes"
    columns = ("metric", "value", "95 % interval", "range")
    table = Table(*columns, title=f"{title}: {results.count} {unit}", title_justify="left")
    for name, value in results.metrics.items():
        range_ = unit_of(results.content["task"], name)
        table.add_row(name, _number(value), _interval(results.intervals.get(name)), range_)
    counters = results.content.get("counters", {})
    for name in ("without_goal", "timed_out", "failed", "unparsed", "without_verdict"):
        if counters.get(name):
            table.add_row(name.replace("_", " "), str(counters[name]), "", "")
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
        table.add_row(in_words(agent), str(results.count), *cells)
    return table


def difference_table(title: str, found: Comparison) -> Table:
    """Two runs: each metric's difference with its interval; a star says that 0 is not within it."""
    first, second = found.alone
    notes = [f"{first} samples only in the first, {second} only in the second"] if first or second else []
    notes += [f"run with different {', '.join(found.settings)}"] if found.settings else []
    table = Table(
        *("metric", "n", "first", "second", "difference", "95 % interval"),
        title=escape("; ".join([title, *notes])),
        title_justify="left",
    )
    for one in found.differences:
        sure = " *" if one.interval and not one.interval[0] <= 0 <= one.interval[1] else ""
        cells = (str(one.count), _number(one.first), _number(one.second), f"{one.difference:+.3f}{sure}")
        table.add_row(one.metric, *cells, _interval(one.interval))
    return table


def samples_table(found: Comparison, count: int) -> Table:
    """The samples of two runs that differ most."""
    widest = sorted(found.samples.items(), key=lambda item: -max(abs(b - a) for a, b in item[1].values()))[:count]
    table = Table("sample", "figures", title=f"Samples that differ: {len(found.samples)}", title_justify="left")
    for name, figures in widest:
        table.add_row(
            escape(name), ", ".join(f"{metric} {_number(a)} -> {_number(b)}" for metric, (a, b) in figures.items())
        )
    return table


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if not interval else f"{_number(interval[0])} to {_number(interval[1])}"
