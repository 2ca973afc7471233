"""Two runs of one task, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, DataError

from navila_eval.jsonl import read_jsonl
from navila_eval.run_folder import RECORDS, RESULTS, RUN, RunFolder
from navila_eval.statistics import paired_difference

#: Files of records, with the fields that name one and hold its figures.
_KINDS = (("samples.jsonl", "id", "score"), (RECORDS, "episode_id", "metrics"))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure over the samples that both runs have it for."""

    metric: str
    count: int
    first: float
    second: float
    difference: float
    """Of the second to the first."""
    interval: tuple[float, float]
    """95 %, by the paired bootstrap."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs have in common and where they differ."""

    task: str
    differences: tuple[Difference, ...]
    samples: Mapping[str, Mapping[str, tuple[float, float]]]
    """Of each sample that differs, the figures that do, in both runs."""
    alone: tuple[int, int]
    """Samples that only the first, or only the second, has."""


def compare(first: Path, second: Path) -> Comparison:
    """Compare two complete runs over their common samples.

    Raises:
        ConfigError: a folder holds no complete run, or they are of different tasks or questions.
    """
    tasks = [_task(folder) for folder in (first, second)]
    if tasks[0] != tasks[1]:
        raise ConfigError(f"{first} is of the task {tasks[0]} and {second} of {tasks[1]}: compare runs of one task.")
    one, two = _figures(first), _figures(second)
    common = [name for name in one if name in two]
    if not common:
        raise ConfigError(f"{first} and {second} have no sample in common: compare runs of the same split and seed.")
    names = dict.fromkeys(metric for name in common for metric in one[name])
    differences = []
    for metric in names:
        pairs = [
            (a, b)
            for name in common
            if (a := one[name].get(metric)) is not None and (b := two[name].get(metric)) is not None
        ]
        if not pairs:
            continue
        firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
        difference, interval = paired_difference(seconds, firsts)
        mean = sum(firsts) / len(firsts), sum(seconds) / len(seconds)
        differences.append(
            Difference(
                metric=metric,
                count=len(pairs),
                first=mean[0],
                second=mean[1],
                difference=difference,
                interval=interval,
            )
        )
    changed = {
        name: {
            metric: (a, b)
            for metric, a in one[name].items()
            if a is not None and (b := two[name].get(metric)) is not None and a != b
        }
        for name in common
    }
    return Comparison(
        task=tasks[0],
        differences=tuple(differences),
        samples={name: figures for name, figures in changed.items() if figures},
        alone=(len(one) - len(common), len(two) - len(common)),
    )


def _task(folder: Path) -> str:
    if not (folder / RUN).is_file() or not (folder / RESULTS).is_file():
        raise ConfigError(f"{folder} holds no complete run (no {RUN} and {RESULTS}): name a folder OUTPUT/MODEL/TASK.")
    run = RunFolder(folder).run()
    return f"{run['task']} {run['split']}"


def _figures(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Figures of every sample or episode, by its id."""
    for name, key, figures in _KINDS:
        if (folder / name).is_file():
            records, _ = read_jsonl(folder / name)
            return {record[key]: record.get(figures) or {} for record in records}
    raise DataError(f"{folder} has no records of samples or episodes: name a folder OUTPUT/MODEL/TASK.")
