"""What `navila eval --list` shows: the installed tasks by the plugin they come from, or one in full. Light."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from navila.cli.components import facts
from navila.cli.tables import table
from navila.registry import Entry, missing_requirements
from navila.specs import BenchmarkSpec

#: Tag of tasks that would drown the others.
MORE = "more"
#: Characters of a cell at most, so that a table stays within 120 columns.
_TASK, _SPLITS, _TAGS, _METRICS = 22, 26, 26, 30


def entry_facts(entry: Entry[BenchmarkSpec], data_root: Path) -> dict[str, Any]:
    """A task and its origin as plain data, with whether its data are there."""
    return {**facts(entry), "present": all(data_there(entry.spec, data_root).values())}


def data_there(spec: BenchmarkSpec, data_root: Path) -> Mapping[str, bool]:
    """Of each path a task needs, whether it is below the data root."""
    return {path: (data_root / path).exists() for path in spec.data}


def overview(entries: Iterable[Entry[BenchmarkSpec]], data_root: Path, *, everything: bool = False) -> str:
    """All tasks: a table a plugin; those with the tag `more` are counted, and shown if `everything` is."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    left_out: dict[str, int] = {}
    for origin, of_one in groupby(sorted(entries, key=_place), key=lambda entry: str(entry.origin)):
        group = list(of_one)
        shown = [entry for entry in group if everything or MORE not in entry.spec.tags]
        groups[origin] = [_row(entry.spec, data_root) for entry in shown]
        left_out[origin] = len(group) - len(shown)
    # One table over all, so that columns are as wide in each part.
    lines = table(("TASK", "SPLITS", "TAGS", "DATA", "METRICS"), [row for rows in groups.values() for row in rows])
    head, *body = lines.splitlines()
    parts = [head]
    for origin, rows in groups.items():
        parts += ["", origin, *body[: len(rows)]]
        parts += [f"and {left_out[origin]} more: navila eval --list -i {MORE}"] if left_out[origin] else []
        body = body[len(rows) :]
    return "\n".join(parts)


def _place(entry: Entry[BenchmarkSpec]) -> tuple[str, str]:
    return str(entry.origin), entry.spec.name


def _row(spec: BenchmarkSpec, data_root: Path) -> tuple[str, ...]:
    data = "" if not spec.data else "present" if all(data_there(spec, data_root).values()) else "missing"
    data = "install" if missing_requirements(spec) else data
    metrics = [metric.name for metric in spec.metrics]
    return (
        _fit([spec.name], _TASK),
        _fit(_splits(spec), _SPLITS),
        _fit(spec.tags, _TAGS),
        data,
        _fit(metrics, _METRICS),
    )


def _splits(spec: BenchmarkSpec) -> list[str]:
    """The default one first."""
    return [spec.default_split, *(name for name in spec.splits if name != spec.default_split)]


def _fit(words: Sequence[str], width: int) -> str:
    """As many words as fit, and how many more there are; the first one in any case."""
    text = " ".join(words)
    kept = list(words)
    while len(text) > width and len(kept) > 1:
        kept.pop()
        text = f"{' '.join(kept)} +{len(words) - len(kept)}"
    return text


def details(entry: Entry[BenchmarkSpec], data_root: Path) -> str:
    """One task in full: where its data belong, and what its figures mean."""
    spec = entry.spec
    rows = [("splits", ", ".join(_splits(spec))), ("tags", ", ".join(spec.tags))]
    rows += [("other names", ", ".join(spec.aliases))] if spec.aliases else []
    rows += [("simulator", spec.simulator)] if spec.simulator else []
    rows += [
        ("data", f"{data_root / path}  {'present' if there else 'missing'}")
        for path, there in data_there(spec, data_root).items()
    ]
    rows += [("to install", name) for name in missing_requirements(spec)]
    rows += [("page", spec.url)] if spec.url else []
    rows += [("from", str(entry.origin))]
    shown = [(name if not i or rows[i - 1][0] != name else "", value) for i, (name, value) in enumerate(rows)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{spec.name}: {spec.summary}", *(f"  {name.ljust(width)}  {value}" for name, value in shown)]
    figures = [(f"  {metric.name}", metric.scale, metric.summary) for metric in spec.metrics]
    return "\n".join([*lines, "", table(("  METRIC", "SCALE", "MEANING"), figures)])
