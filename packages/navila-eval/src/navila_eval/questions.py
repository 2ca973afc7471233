"""Benchmarks of questions: samples on disk, an answer of the model to each, and scores computed from records alone.

Light, so that a plugin of one file can be listed as fast as others.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from navila.errors import ConfigError, DataError

from navila_eval.benchmark import Benchmark, Request, Results
from navila_eval.jsonl import dumps

if TYPE_CHECKING:
    from navila.model.media import Part

    from navila_eval.judging import AskJudge, Judge

#: A line of `samples.jsonl`: see `Question.record` and what `navila_eval.question_run` adds.
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One sample: what the model is shown and asked."""

    id: str
    """Unique in its split."""
    prompt: Sequence[Part]
    """Texts, paths of images and videos, `navila.Video`s and PIL images, in the order the model is shown them."""
    reference: Any = None
    """What the scorer needs to know of the truth, as JSON; None where it is not published."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the scorer needs, as JSON: a category, options."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of generation in place of the benchmark's."""

    def record(self, settings: Mapping[str, Any]) -> Record:
        """What is known before there is an answer."""
        text = "".join(part if isinstance(part, str) else "<media>\n" for part in self.prompt)
        media = [_describe(part) for part in self.prompt if not isinstance(part, str)]
        asked = {"prompt": text, "media": [Path(m).name for m in media], "settings": {**settings, **self.settings}}
        return {
            "id": self.id,
            "prompt_sha256": hashlib.sha256(dumps(asked).encode()).hexdigest(),
            "prompt": text,
            "media": media,
            "reference": self.reference,
            "facts": dict(self.facts),
        }


def _describe(part: Any) -> str:
    # A Video has a path; its class is not imported here, for a plugin of one file is to be listed without PIL.
    path = part if isinstance(part, Path) else getattr(part, "path", None)
    return "image in the data" if path is None else str(path)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the records of a split come to."""

    metrics: Mapping[str, float | None]
    """By the names of `BenchmarkSpec.metrics`; None where one could not be computed."""
    samples: Sequence[Mapping[str, float]]
    """Figures of each record, in order; one of a metric's name is what the metric averages."""
    intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    """95 % intervals of metrics that are no means (`navila_eval.statistics.bootstrap_statistic`)."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What else is worth telling."""
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Figures of parts of the samples, as JSON: by title, rows by name, and in a row figures by column."""
    heat_maps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By title the keywords of `navila.pages.heat_map`."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Other places of metrics in `results.json`, where `MetricSpec.path` does not name them."""


class QuestionBenchmark(Benchmark):
    """A benchmark of questions; a concrete one says what there is to ask, and how an answer scores."""

    shares: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({"max_new_tokens": 64})
    """Settings of generation (`navila.model.settings.GenerationSettings`); greedy unless they say otherwise."""

    @abstractmethod
    def questions(self, split: str, data_root: Path) -> Sequence[Question]:
        """All samples of a split, in a fixed order.

        Raises:
            DataError: files are missing (`find`) or malformed.
        """

    @property
    def takes_judge(self) -> bool:
        """Whether a judge may be asked about answers, so that a run is of the one that is given."""
        own = type(self)
        return (own.judge_prompt, own.judge_prompts) != (
            QuestionBenchmark.judge_prompt,
            QuestionBenchmark.judge_prompts,
        )

    def parse(self, record: Record) -> Any:
        """The answer in `record["output"]`, as JSON; None where there is none in it."""
        return record["output"].strip() or None

    def judge_prompt(self, record: Record) -> AskJudge | None:
        """What a judge is asked about an answer; None where none is needed."""
        return None

    def judge_prompts(self, records: Sequence[Record]) -> Sequence[AskJudge | None]:
        """What a judge is asked about each record; overridden where it is shown several answers together."""
        return [None if record["error"] else self.judge_prompt(record) for record in records]

    def verdict(self, reply: str) -> Any:
        """What a judge's reply says, as JSON; where it is asked several things, `record["verdict"]` has each by name.

        Raises:
            ValueError: it has the wrong form; the message says what is wrong with it, and the judge is asked again.
        """
        return reply.strip()

    def verdict_by_rules(self, record: Record) -> Any:
        """The verdict where there is no judge.

        Raises:
            ConfigError: it takes one.
        """
        raise ConfigError(
            "The task needs a judge: run the same command again with --judge MODEL, and with --judge-api-base URL for "
            "an endpoint; the answers are kept."
        )

    def score_sample(self, record: Record) -> Mapping[str, float]:
        """Figures of one record, each named like the metric that is its mean; pure.

        `record["answer"]` is what `parse` found, None where the model failed; `record["verdict"]` what a judge said.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither score_sample nor score")

    def score(self, records: Sequence[Record]) -> Scores:
        """Figures of all records, the means of `score_sample` unless overridden; pure."""
        samples = [self.score_sample(record) for record in records]
        names = dict.fromkeys(name for sample in samples for name in sample)
        columns = {name: [sample[name] for sample in samples if name in sample] for name in names}
        return Scores(metrics={name: sum(column) / len(column) for name, column in columns.items()}, samples=samples)

    def submission(self, records: Sequence[Record]) -> Mapping[str, str | bytes] | None:
        """Files that a server takes, their content by name: written beside `results.json`; None without any.

        `records` are all of the split, scored, in its order; those with an `error` have no answer.
        """
        return None

    def run(self, request: Request) -> Results:
        from navila_eval.question_run import run_questions

        return run_questions(self, request)

    def rescore(self, folder: Path, judge: Judge | None = None) -> Results:
        from navila_eval.question_run import rescore_questions

        return rescore_questions(self, folder, judge)


def find(data_root: Path, path: str, get: str) -> Path:
    """A file or folder of a benchmark below the data root; `get` says where it comes from.

    Raises:
        DataError: it is not there.
    """
    if not (data_root / path).exists():
        raise DataError(
            f"{path} is not below {data_root}: {get}, put it there, or name another folder with --data-root."
        )
    return data_root / path


def check_option(task: str, option: str, value: object, known: Sequence[str]) -> None:
    """Make sure that an option of a task has one of the values it knows.

    Raises:
        ConfigError: it has another.
    """
    if value not in known:
        raise ConfigError(f"The task {task} has no {option} {value!r}: use {', '.join(known)}.")


def check_questions(questions: Sequence[Question], task: str) -> None:
    """Make sure that there are samples and that each can be told from the others.

    Raises:
        DataError: there are none, or two have one id.
    """
    if not questions:
        raise DataError(f"The task {task} has no samples: its files are empty.")
    repeated = [name for name, count in Counter(question.id for question in questions).items() if count > 1]
    if repeated:
        raise DataError(f"The task {task} has the sample {repeated[0]!r} twice: remove one from its file.")


def questions_digest(records: Sequence[Record]) -> str:
    """SHA-256 over what is asked and what is known of the truth, in order."""
    digest = hashlib.sha256()
    for record in records:
        facts = {name: record[name] for name in ("id", "prompt_sha256", "reference", "facts")}
        digest.update(dumps(facts).encode() + b"\n")
    return digest.hexdigest()
