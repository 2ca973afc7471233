"""Runs tasks one after the other: one model, one folder a task, and `metrics.json` over all."""

from __future__ import annotations

import functools
import itertools
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from navila.actions import Decoding
from navila.errors import ConfigError, DataError, NavilaError
from navila.options import construct, parse_options
from navila.plugins import default_host

from navila_eval.benchmark import MODEL_AGENTS, Benchmark, Request, Results
from navila_eval.claims import Claims
from navila_eval.jsonl import read_json, write_json
from navila_eval.manifest import checkpoint_digest, options_of
from navila_eval.metric_paths import numbers
from navila_eval.perturbations import Perturbation
from navila_eval.results import headlines
from navila_eval.run_folder import CLAIMS, RECORDS, RESULTS, RUN, SAMPLES, RunFolder

if TYPE_CHECKING:
    from navila.endpoint import Endpoint
    from navila.model import NavilaForCausalLM

    from navila_eval.judging import Judge


def run_tasks(
    tasks: Sequence[tuple[str, str]],
    *,
    model: str | None,
    agent: str,
    output_dir: Path,
    loading: Mapping[str, Any] = MappingProxyType({}),
    conv_mode: str | None = None,
    num_frames: int | None = None,
    decoding: Decoding = "free",
    task_options: Sequence[str] = (),
    endpoint: Endpoint | None = None,
    perturbations: Sequence[str] = (),
    leads: bool = True,
    **options: Any,
) -> list[tuple[str, Results | Exception]]:
    """Run (task, split) pairs; one that breaks does not stop the others. `loading` are options of `navila.load`.

    An `endpoint` answers in place of a model here. With `perturbations`, every pair is run with each of them. Of
    several processes that were started with one command, the one that `leads` alone runs tasks that are not shared.

    Raises:
        NavilaError: the only task broke, with what it said.
    """

    loader = ModelLoader(model=model, conv_mode=conv_mode, loading=dict(loading))
    load = functools.cache(loader.__call__)
    uses_model = agent in MODEL_AGENTS
    name = model_name(model) if uses_model and model else agent
    keywords = parse_options(task_options)
    identity: dict[str, Any] = {"agent": agent, "options": keywords}
    if endpoint is not None:
        name = model_name(endpoint.model)
        identity |= {"model": endpoint.model, "api_base": endpoint.url, "num_frames": num_frames}
    elif uses_model and model:
        identity |= {
            "model": model,
            "model_sha256": checkpoint_digest(model),
            **_base_of(model, loading.get("model_base")),
            "conv_mode": conv_mode,
            "num_frames": num_frames,
            "decoding": decoding,
            "dtype": loading.get("dtype"),
        }
        # What changes answers is part of a run; what only moves weights is not.
        identity |= {"quantization": loading["quantization"]} if "quantization" in loading else {}
    registry = default_host().registry("benchmark")
    outcomes: list[tuple[str, Results | Exception]] = []
    planned = _planned(tasks, agent, perturbations)
    for task, split, perturbation, label in planned:
        # A disturbance of nothing is the run without.
        disturbed = perturbation.facts() if perturbation is not None else {}
        own = {**identity, "perturb": disturbed} if disturbed else identity
        try:
            if perturbation is not None and registry.spec(task).simulator is None:
                raise ConfigError(f"--perturb is for navigation: leave it out for the task {task}.")
            benchmark = make_benchmark(task, keywords)
            if not (leads or benchmark.shares):
                continue
            result = benchmark.run(
                Request(
                    task=registry.spec(task).name,
                    split=split,
                    output_dir=output_dir / name / label,
                    model_name=name,
                    load_model=load,
                    model_loader=loader,
                    endpoint=endpoint,
                    identity=own,
                    agent=agent,
                    perturbation=perturbation,
                    decoding=decoding,
                    num_frames=num_frames,
                    **options,
                )
            )
        except Exception as error:
            # One task alone: its own words and exit code; a bug keeps its traceback.
            if len(planned) == 1:
                raise
            if not isinstance(error, (NavilaError, OSError)):
                traceback.print_exc()
            outcomes.append((label, error))
            continue
        outcomes.append((label, result))
        _add_metrics(output_dir / name, label, result)
    return outcomes


def check_options(tasks: Sequence[tuple[str, str]], task_options: Sequence[str]) -> None:
    """Tell a wrong option before the first of several tasks has had its hours.

    Raises:
        ConfigError: a task has no such option, or an option no such value.
    """
    keywords = parse_options(task_options)
    for task in dict.fromkeys(task for task, _ in tasks) if keywords else ():
        try:
            make_benchmark(task, keywords)
        except ConfigError:
            raise
        except Exception:
            # It fails when it is its turn, and the others do not.
            continue


def start_over(
    tasks: Sequence[tuple[str, str]],
    *,
    model: str | None,
    agent: str,
    output_dir: Path,
    finished: bool,
    perturbations: Sequence[str] = (),
) -> None:
    """Remove what the runs of a model, or of an agent without one, have left, finished ones too where `finished`.

    Raises:
        ConfigError: other processes are at work on one.
    """
    name = model_name(model) if agent in MODEL_AGENTS and model else agent
    for *_, label in _planned(tasks, agent, perturbations):
        path = output_dir / name / label
        Claims(path / CLAIMS).check_alone()
        for records in (SAMPLES, RECORDS):
            folder = RunFolder(path, records=records)
            if finished or folder.results() is None:
                folder.clear()


def _planned(
    tasks: Sequence[tuple[str, str]], agent: str, perturbations: Sequence[str]
) -> list[tuple[str, str, Perturbation | None, str]]:
    """Task, split, perturbation and label of every run; what needs no model has a folder of its own, beside models."""
    registry = default_host().registry("benchmark")
    named = agent if agent in MODEL_AGENTS else "model"
    perturbed = [Perturbation.parse(text) for text in perturbations] or [None]
    return [
        (task, split, perturbation, run_label(task, split, registry.spec(task).default_split, named, perturbation))
        for (task, split), perturbation in itertools.product(tasks, perturbed)
    ]


@dataclass(frozen=True, kw_only=True)
class ModelLoader:
    """How a model is loaded; may be sent to another process."""

    model: str | None
    conv_mode: str | None
    loading: Mapping[str, Any]

    def __call__(self) -> NavilaForCausalLM:
        import navila

        assert self.model is not None
        return navila.load(self.model, template=self.conv_mode, **self.loading)


def make_benchmark(task: str, keywords: Mapping[str, Any]) -> Benchmark:
    """The benchmark of a task, with its options.

    Raises:
        UnknownComponentError: there is no such task.
        ConfigError: it has no such option.
    """
    component: type[Benchmark] = default_host().registry("benchmark").load(task)
    return construct(component, keywords, f"task {task}")


def model_name(model: str) -> str:
    """Last part of a checkpoint's path or hub id, in lower case."""
    return Path(model).resolve().name.lower() if Path(model).exists() else model.rstrip("/").rpartition("/")[2].lower()


def _base_of(model: str, model_base: str | None) -> dict[str, Any]:
    """The model under an adapter (or projector), which is as much part of a run; nothing for a whole model."""
    from navila.model.location import checkpoint_folder, split_adapter

    if Path(model).is_dir():
        folder, adapter = split_adapter(checkpoint_folder(model), model_base)
        model_base = str(folder) if adapter is not None else model_base
    return {"model_base": model_base, "model_base_sha256": checkpoint_digest(model_base)} if model_base else {}


def run_label(
    task: str, split: str, default_split: str, agent: str = "model", perturbation: Perturbation | None = None
) -> str:
    """Folder of a run: the task, what of split and agent is not the default, and what is perturbed."""
    parts = [task.replace("/", "-")]
    if split != default_split:
        parts.append(split)
    if agent != "model":
        parts.append(agent)
    if perturbation is not None and perturbation.label:
        parts.append(perturbation.label)
    return "-".join(parts)


def _add_metrics(folder: Path, label: str, results: Results) -> None:
    """Write a model's `metrics.json`: the headline figures of its runs, as `TASK/METRIC`."""
    path = folder / "metrics.json"
    own = {f"{label}/{name}": value for name, value in results.metrics.items()}
    while True:
        kept = read_json(path) if path.exists() else {}
        found = _headlines(folder)
        replaced = {label, *(key.rpartition("/")[0] for key in found)}
        kept = {key: value for key, value in kept.items() if key.rpartition("/")[0] not in replaced}
        write_json(path, dict(sorted({**kept, **found, **own}.items())))
        # Another process may have finished a run meanwhile, and written the file before this one did.
        if _headlines(folder) == found:
            return


def _headlines(folder: Path) -> dict[str, float | None]:
    """Headline figures of the complete runs in a folder that say which those are."""
    found: dict[str, float | None] = {}
    for path in sorted(folder.glob(f"*/{RESULTS}")):
        try:
            content = read_json(path)
            if "confidence_95" in content:
                found |= {f"{path.parent.name}/{name}": value for name, value in headlines(content).items()}
        except (DataError, KeyError, TypeError):
            # Of another kind, or written just now.
            continue
    return found


def figures_of(folder: Path) -> dict[str, dict[str, float | None]]:
    """All figures of the complete runs in a folder and below: by `MODEL/TASK`, and by path in `results.json`.

    Raises:
        NavilaError: there is no complete run.
    """
    return {
        f"{path.parent.name}/{path.name}": dict(numbers(read_json(path / RESULTS).get("results", {}), "results"))
        for path in (run.resolve() for run in _complete_runs(folder))
    }


def rescore_runs(
    folder: Path,
    judge: Judge | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    success_distance: float | None = None,
) -> list[tuple[str, Results | Exception]]:
    """Score all runs in a folder and below once more, without models; `options` replace those of the tasks.

    With a `success_distance` in metres, runs of navigation are scored by it, beside what they came to.

    Raises:
        NavilaError: there is no run, or the only one cannot be scored.
    """
    runs = _runs_below(folder)
    outcomes: list[tuple[str, Results | Exception]] = []
    for path in runs:
        try:
            if success_distance is not None:
                from navila_eval.navigation_results import rescore_at

                outcomes.append((f"{path.name} within {success_distance:g} m", rescore_at(path, success_distance)))
                continue
            run = RunFolder(path).run()
            keywords = {**(run.get("options") or {}), **options}
            benchmark = make_benchmark(run["task"], keywords)
            _check_asked(path, run, benchmark, keywords)
            results = _rescored(benchmark, path, {**run, "options": keywords} if options else run, judge)
        except NavilaError as error:
            if len(runs) == 1:
                raise
            outcomes.append((path.name, error))
            continue
        outcomes.append((path.name, results))
        _add_metrics(path.parent, path.name, results)
    return outcomes


def _check_asked(path: Path, run: Mapping[str, Any], benchmark: Benchmark, keywords: Mapping[str, Any]) -> None:
    """Make sure that answers are not said to be given to other questions than they were.

    Raises:
        ConfigError: an option that decides what is asked is another one.
    """
    given = run.get("options") or {}
    there, here = options_of(make_benchmark(run["task"], given), given), options_of(benchmark, keywords)
    for name in here if benchmark.asks_by is None else benchmark.asks_by:
        if there.get(name) != here.get(name):
            raise ConfigError(
                f"What {path} holds was made with {name}={there.get(name)}, which scoring it again does not change: "
                f"run the task with -o {name}={here.get(name)} and another --output-dir."
            )


def _rescored(benchmark: Benchmark, path: Path, run: Mapping[str, Any], judge: Judge | None) -> Results:
    """Score a run with other options; what it is of stays as it was where that fails."""
    before = read_json(path / RUN)
    write_json(path / RUN, {**before, "run": run})
    try:
        return benchmark.rescore(path, judge)
    except BaseException:
        write_json(path / RUN, before)
        raise


def report_runs(folder: Path) -> Path:
    """Write one page about all complete runs in a folder and below into it.

    Raises:
        ConfigError: there is no complete run.
    """
    from navila_eval.report import write_overall_report

    path = folder / "report.html"
    write_overall_report(path, _complete_runs(folder))
    return path


def _complete_runs(folder: Path) -> list[Path]:
    runs = [path for path in _runs_below(folder) if RunFolder(path).results()]
    if not runs:
        raise ConfigError(f"No run in {folder} or below is complete: finish one with `navila eval` first.")
    return runs


def _runs_below(folder: Path) -> list[Path]:
    found = sorted(path.parent for path in folder.rglob(RUN))
    if not found:
        raise ConfigError(f"There is no run in {folder} or below: name a folder OUTPUT/MODEL/TASK, or one above.")
    return found
