"""Where the figures of a run stand in its `results.json`: paths like `results/pope/pope_accuracy,none`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from navila.plugins import default_host
from navila.specs import MetricSpec


def paths_of(task: str) -> dict[str, str]:
    """Of a task's metrics that say so, where `results.json` has them beside `results/TASK/NAME`."""
    return {metric.name: metric.path for metric in _metrics(task) if metric.path}


def unit_of(task: str, metric: str) -> str:
    """Range or unit of a metric, such as `0-1`, `0-100` or `m`; empty where the task is not installed."""
    return next((one.scale for one in _metrics(task) if one.name == metric), "")


def scale_of(task: str, metric: str) -> float | None:
    """The greatest value a metric can have, whose least is 0; None where it has none, or the task is not installed."""
    found = re.fullmatch(r"0-(\d+(?:\.\d+)?)", unit_of(task, metric))
    return float(found[1]) if found else None


def _metrics(task: str) -> tuple[MetricSpec, ...]:
    specs = [spec for spec in default_host().registry("benchmark").specs() if spec.name == task]
    return specs[0].metrics if specs else ()


def results_tree(task: str, metrics: Mapping[str, float | None], paths: Mapping[str, str]) -> dict[str, Any]:
    """What stands below `results`: each metric under the task's name, and where its path says."""
    tree: dict[str, Any] = {task: dict(metrics)}
    for name, path in paths.items():
        if name in metrics:
            _, *groups, last = path.split("/")
            level = tree
            for group in groups:
                level = level.setdefault(group, {})
            level[last] = metrics[name]
    return tree


def pick(content: Any, path: str) -> Any:
    """What stands at a path; only `/` divides levels, a comma is part of a name.

    Raises:
        KeyError: nothing does.
    """
    for name in path.split("/"):
        if not isinstance(content, Mapping) or name not in content:
            raise KeyError(path)
        content = content[name]
    return content


def numbers(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float | None]]:
    """All figures below a prefix, with their paths."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}/{name}")
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            yield f"{prefix}/{name}", value
