"""Two runs of one task, or of many, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, DataError

from navila_eval.jsonl import read_json, read_jsonl
from navila_eval.navigation_metrics import HEADLINE
from navila_eval.results import headlines
from navila_eval.run_folder import RECORDS, RESULTS, RUN, SAMPLES, RunFolder, differing_keys
from navila_eval.statistics import paired_difference

#: Files of records, with the fields that name one, that hold its figures, and that say what it was scored against.
_KINDS = ((SAMPLES, "id", "score", ("reference",)), (RECORDS, "episode_id", "metrics", ("scene_id", "goals")))
#: Measure of an episode -> what tables call it.
_IN_TABLES = {measure: name for name, measure in HEADLINE.items()}
#: What in a run says which model it is of, and not how that was asked.
_WHOSE = (
    "model",
    "model_sha256",
    "model_base",
    "model_base_sha256",
    "agent",
    "api_base",
    "samples",
    "questions_sha256",
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure over the samples that both runs have it for."""

    metric: str
    count: int
    first: float
    second: float
    difference: float
    """Of the second to the first."""
    interval: tuple[float, float] | None
    """95 %, by the paired bootstrap; None for a figure that is no mean over samples."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs have in common and where they differ."""

    task: str
    differences: tuple[Difference, ...]
    samples: Mapping[str, Mapping[str, tuple[float, float]]]
    """Of each sample that differs, the figures that do, in both runs."""
    alone: tuple[int, int]
    """Samples that only the first, or only the second, has."""
    settings: tuple[str, ...] = ()
    """What the two were run with differently, the model aside: names in `run.json`."""


def compare(first: Path, second: Path) -> Comparison:
    """Compare two complete runs over their common samples.

    Raises:
        ConfigError: a folder holds no complete run, or they are of different tasks or questions.
    """
    runs = [_run(folder) for folder in (first, second)]
    tasks = [f"{run['task']} {run['split']}" for run in runs]
    if tasks[0] != tasks[1]:
        raise ConfigError(f"{first} is of the task {tasks[0]} and {second} of {tasks[1]}: compare runs of one task.")
    (first_records, figures, truth), (second_records, _, _) = _records(first), _records(second)
    common = [name for name in first_records if name in second_records]
    if not common:
        raise ConfigError(f"{first} and {second} have no sample in common: compare runs of the same split and seed.")
    for name in common:
        if any(first_records[name].get(field) != second_records[name].get(field) for field in truth):
            raise ConfigError(
                f"The truth of sample {name} is another in {first} than in {second}: compare runs over the same data."
            )
    one, two = (
        {name: _figures(record, figures) for name, record in records.items()}
        for records in (first_records, second_records)
    )
    names = dict.fromkeys(metric for name in common for metric in one[name])
    found = [
        _difference(metric, [(one[name].get(metric), two[name].get(metric)) for name in common]) for metric in names
    ]
    differences = [difference for difference in found if difference is not None]
    alone = (len(one) - len(common), len(two) - len(common))
    if alone == (0, 0):
        means = {difference.metric for difference in differences}
        differences += _of_the_whole(first, second, len(common), means)
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
        alone=alone,
        settings=tuple(name for name in differing_keys(*runs) if name not in _WHOSE),
    )


def compare_all(first: Path, second: Path) -> tuple[dict[str, Comparison], tuple[list[str], list[str]]]:
    """Compare the runs below two folders that lie at the same place in each: by place, and those that are alone.

    Raises:
        ConfigError: there is none in both, or two cannot be compared.
    """
    one, two = (
        {path.parent.relative_to(folder).as_posix() for path in folder.rglob(RESULTS) if (path.parent / RUN).is_file()}
        for folder in (first, second)
    )
    if not one & two:
        raise ConfigError(
            f"{first} and {second} have no complete run of one name in common: name folders OUTPUT/MODEL or "
            "OUTPUT/MODEL/TASK."
        )
    found = {place: compare(first / place, second / place) for place in sorted(one & two)}
    return found, (sorted(one - two), sorted(two - one))


def _figures(record: Mapping[str, Any], field: str) -> dict[str, float | None]:
    """A record's figures by the names that tables have for them."""
    found: dict[str, float | None] = record.get(field) or {}
    return {_IN_TABLES.get(name, name): value for name, value in found.items()} if field == "metrics" else found


def _difference(metric: str, pairs: list[tuple[float | None, float | None]]) -> Difference | None:
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both:
        return None
    firsts, seconds = [a for a, _ in both], [b for _, b in both]
    difference, interval = paired_difference(seconds, firsts)
    return Difference(
        metric=metric,
        count=len(both),
        first=sum(firsts) / len(both),
        second=sum(seconds) / len(both),
        difference=difference,
        interval=interval,
    )


def _of_the_whole(first: Path, second: Path, count: int, means: set[str]) -> list[Difference]:
    """Headline figures that are no means of what samples have, such as BLEU and F1."""
    one, two = (headlines(read_json(folder / RESULTS)) for folder in (first, second))
    return [
        Difference(metric=name, count=count, first=a, second=b, difference=b - a, interval=None)
        for name, a in one.items()
        if name not in means and a is not None and (b := two.get(name)) is not None
    ]


def _run(folder: Path) -> Mapping[str, Any]:
    if not (folder / RUN).is_file() or not (folder / RESULTS).is_file():
        raise ConfigError(f"{folder} holds no complete run (no {RUN} and {RESULTS}): name a folder OUTPUT/MODEL/TASK.")
    return RunFolder(folder).run()


def _records(folder: Path) -> tuple[dict[str, Mapping[str, Any]], str, tuple[str, ...]]:
    """Records of samples or episodes by id, the field of their figures, and those of their truth."""
    for name, key, figures, truth in _KINDS:
        if (folder / name).is_file():
            return {record[key]: record for record in read_jsonl(folder / name)[0]}, figures, truth
    raise DataError(f"{folder} has no records of samples or episodes: name a folder OUTPUT/MODEL/TASK.")
