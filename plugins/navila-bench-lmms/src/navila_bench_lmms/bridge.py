"""A task of lmms-eval as a benchmark of navila: lmms-eval makes the prompts and the figures, navila asks and keeps.

Both happen in `lmms_eval.evaluator.simple_evaluate`: once with a model that takes down what it is asked, and once with
one that gives the answers back, so that nothing of lmms-eval's own rules is repeated here.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, overload

from navila.errors import ConfigError, DataError, NavilaError, reason
from navila.plugins import default_host
from navila_eval.questions import Question, QuestionBenchmark, Record, Scores

from navila_bench_lmms.requests import parts_of, settings_of

if TYPE_CHECKING:
    from navila.model.media import Part
    from navila_eval.benchmark import Request, Results

#: Documents whose pictures are held in memory, so that one that is asked is decoded once.
_HELD = 64
#: Draws of lmms-eval's own standard errors.
_BOOTSTRAP = 1000


class LmmsTask(QuestionBenchmark):
    """A task, group or tag of lmms-eval; the split is its name there."""

    settings: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *, limit: int | None = None) -> None:
        """Ask at most so many documents of each of a group's tasks."""
        self.limit = limit
        self._written: dict[str, bytes] = {}

    @classmethod
    def tiny(cls) -> LmmsTask:
        return cls()

    def run(self, request: Request) -> Results:
        from navila_eval.question_run import run_questions

        # `--limit` is lmms-eval's: of each task of a group, not of all together.
        limited = LmmsTask(limit=request.limit if self.limit is None else self.limit)
        return run_questions(limited, replace(request, limit=None))

    def questions(self, split: str, data_root: Path) -> list[Question]:
        taken: list[Asked] = []
        with contextlib.suppress(_Enough):
            _evaluate(split, lambda asked: _take(taken, asked), self.limit)
        return [
            Question(
                id=asked.id,
                prompt=_Prompt(asked),
                facts={"of": split, "task": asked.task},
                settings=settings_of(asked.settings),
            )
            for asked in taken
        ]

    def score(self, records: Sequence[Record]) -> Scores:
        of = records[0]["facts"]["of"]
        outputs = {record["id"]: record["output"] for record in records}
        documents = {(record["facts"]["task"], _document(record)) for record in records}
        limit = max(Counter(task for task, _ in documents).values())
        with tempfile.TemporaryDirectory() as folder:
            found = _evaluate(of, lambda asked: [outputs[one.id] for one in asked], limit, folder=folder)
            written = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            # Kept for `submission`: a second replay would ask lmms-eval's judges once more.
            self._written = {str(path.relative_to(folder)): path.read_bytes() for path in written}
        figures = {
            f"{task}/{name}": float(value)
            for task, row in found["results"].items()
            for name, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        metrics: dict[str, float | None] = {}
        intervals: dict[str, tuple[float, float] | None] = {}
        places: dict[str, str] = {}
        for name, path in (_declared(of) or _all_of(figures, of)).items():
            key = _key(path, figures)
            metrics[name] = None if key is None else figures[key]
            if key is not None:
                places[name] = key
                error = figures.get(key.replace(",", "_stderr,", 1))
                intervals[name] = None if error is None else (figures[key] - 1.96 * error, figures[key] + 1.96 * error)
        said = {
            f"{task}/{sample['doc_id']}": sample for task, samples in found["samples"].items() for sample in samples
        }
        return Scores(
            metrics=metrics,
            samples=[_figures(said.get(_document(r), {}), r["facts"]["task"], places) for r in records],
            intervals=intervals,
            tables={"As lmms-eval has it": found["results"]},
            paths={name: f"results/{key}" for name, key in places.items()},
        )

    def submission(self, records: Sequence[Record]) -> dict[str, bytes] | None:
        """What lmms-eval wrote when it scored: files for servers, replies of its judges."""
        return self._written or None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request of lmms-eval."""

    id: str
    """`TASK/DOCUMENT`, and which one where a document is asked several times."""
    task: str
    context: str
    settings: Mapping[str, Any]
    visuals: Callable[[], Any]


class _Enough(Exception):
    """All requests are known: lmms-eval need not go on."""


def _take(taken: list[Asked], asked: Sequence[Asked]) -> list[str]:
    taken += asked
    raise _Enough


class _Prompt(Sequence["Part"]):
    """The parts of a request, read from its document whenever they are looked at; the last ones are held."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    @functools.lru_cache(maxsize=_HELD)  # noqa: B019  bounded, and prompts live as long as the run
    def _parts(self) -> list[Part]:
        return parts_of(self._asked.visuals(), self._asked.context)

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> list[Part]: ...
    def __getitem__(self, index: int | slice) -> Part | list[Part]:
        return self._parts()[index]

    def __len__(self) -> int:
        return len(self._parts())

    def __reduce__(self) -> tuple[type[list[Part]], tuple[list[Part]]]:
        """Another process gets the parts themselves."""
        return list, (self._parts(),)


def _evaluate(
    name: str, answer: Callable[[Sequence[Asked]], list[str]], limit: int | None, folder: str | None = None
) -> dict[str, Any]:
    """lmms-eval's results for whoever answers.

    Raises:
        NavilaError: it broke, for want of the data or a package for instance.
    """
    with _alone():
        try:
            evaluator = importlib.import_module("lmms_eval.evaluator")
            model = _model(answer)
            with _handed_over(evaluator, model):
                return evaluator.simple_evaluate(
                    model=model,
                    tasks=[name],
                    batch_size=1,
                    limit=limit,
                    bootstrap_iters=_BOOTSTRAP,
                    log_samples=True,
                    cli_args=argparse.Namespace(output_path=folder, process_with_media=False),
                )
        except (NavilaError, _Enough):
            raise
        except Exception as error:
            first = error
            while first.__cause__ is not None:
                first = first.__cause__
            kind = type(first).__name__
            said = reason(first).removeprefix(f"{kind}: ")
            raise NavilaError(
                f"lmms-eval {_version()} cannot run its task {name} ({kind}: {said}): if it lacks data or a package, "
                "fetch it as lmms-eval's documentation of the task says."
            ) from error


@contextlib.contextmanager
def _handed_over(evaluator: Any, model: Any) -> Iterator[None]:
    """Versions that take names of models alone (0.2) find this one under whatever name."""
    found = getattr(evaluator, "get_model", None)
    evaluator.get_model = lambda *_, **__: SimpleNamespace(create_from_arg_string=lambda *_, **__: model)
    try:
        yield
    finally:
        evaluator.get_model = found


def _model(answer: Callable[[Sequence[Asked]], list[str]]) -> Any:
    """A model of lmms-eval's that answers by a function."""
    base: Any = importlib.import_module("lmms_eval.api.model").lmms

    class Answering(base):
        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            seen: Counter[str] = Counter()
            asked = []
            for request in requests:
                context, settings, doc_to_visual, doc_id, task, split = request.args
                key = f"{task}/{doc_id}"
                seen[key] += 1
                visuals = functools.partial(_visuals, self.task_dict[task][split], doc_id, doc_to_visual)
                again = f"/{seen[key]}" if seen[key] > 1 else ""
                asked.append(Asked(id=key + again, task=task, context=context, settings=settings, visuals=visuals))
            return answer(asked)

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            raise ConfigError("The task asks how likely answers are, which navila does not tell: take another one.")

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise ConfigError("The task asks in several rounds, but navila answers once: take another one.")

    return Answering()


def _visuals(documents: Any, doc_id: int, doc_to_visual: Callable[[Any], Any]) -> Any:
    try:
        return doc_to_visual(documents[doc_id])
    except (Exception, SystemExit) as error:  # many tasks exit where a video is missing
        raise DataError(
            f"lmms-eval cannot show its document {doc_id} ({reason(error)}): fetch its data as lmms-eval's "
            "documentation of the task says."
        ) from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """lmms-eval sees one process, whatever started this one, and prints to stderr."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.environ.update(hidden)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("lmms_eval")
    except metadata.PackageNotFoundError:
        return "(unknown version)"


def _declared(of: str) -> dict[str, str]:
    """The declared metrics of a task and where lmms-eval has them, `TASK/METRIC,FILTER`."""
    spec = default_host().registry("benchmark").spec(f"lmms-{of.lower()}")
    return {metric.name: metric.path.removeprefix("results/") for metric in spec.metrics}


def _all_of(figures: Mapping[str, float], of: str) -> dict[str, str]:
    """All figures: those of a group's tasks as `TASK:METRIC`, without the filter that is none."""
    places = [place for place in figures if "_stderr" not in place]
    return {p.removesuffix(",none").removeprefix(f"{of}/").replace("/", ":", 1): p for p in places}


def _key(path: str, figures: Mapping[str, float]) -> str | None:
    """Where a figure stands: at its path, under MME's later spelling, or under another filter."""
    for known in (path, path.replace("percetion", "perception")):
        stem = known.partition(",")[0]
        found = [key for key in figures if key == known] or [key for key in figures if key.partition(",")[0] == stem]
        if found:
            return found[0]
    return None


def _document(record: Record) -> str:
    """`TASK/DOCUMENT`, whichever time it was asked."""
    return "/".join(record["id"].split("/")[:2])


def _figures(sample: Mapping[str, Any], task: str, places: Mapping[str, str]) -> dict[str, float]:
    """What lmms-eval counted for one sample, where that is a number."""
    metrics = {name: place.partition(",")[0].rpartition("/") for name, place in places.items()}
    return {
        name: float(sample[metric])
        for name, (of, _, metric) in metrics.items()
        if of == task and isinstance(sample.get(metric), int | float)
    }
