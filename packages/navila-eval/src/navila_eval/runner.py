"""Runs tasks one after the other: one model, one folder a task, and `metrics.json` over all."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from navila.errors import NavilaError
from navila.options import construct, parse_options
from navila.plugins import default_host

from navila_eval.benchmark import Benchmark, Request, Results
from navila_eval.jsonl import read_json, write_json
from navila_eval.manifest import checkpoint_digest

if TYPE_CHECKING:
    from navila.model import NavilaForCausalLM


def run_tasks(
    tasks: Sequence[tuple[str, str]],
    *,
    model: str | None,
    agent: str,
    output_dir: Path,
    loading: Mapping[str, Any] = MappingProxyType({}),
    conv_mode: str | None = None,
    num_frames: int | None = None,
    decoding: Literal["free", "grammar"] = "free",
    task_options: Sequence[str] = (),
    **options: Any,
) -> list[tuple[str, Results | Exception]]:
    """Run (task, split) pairs; one that breaks does not stop the others. `loading` are options of `navila.load`.

    Raises:
        NavilaError: the only task broke, with what it said.
    """

    @functools.cache
    def load() -> NavilaForCausalLM:
        import navila

        assert model is not None
        return navila.load(model, template=conv_mode, **loading)

    uses_model = agent in ("model", "wrong-instruction")
    name = model_name(model) if uses_model and model else agent
    keywords = parse_options(task_options)
    identity: dict[str, Any] = {"agent": agent, "options": keywords}
    if uses_model and model:
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
    for task, split in tasks:
        label = run_label(task, split, registry.spec(task).default_split, agent if uses_model else "model")
        try:
            benchmark = make_benchmark(task, keywords)
            result = benchmark.run(
                Request(
                    task=registry.spec(task).name,
                    split=split,
                    output_dir=output_dir / name / label,
                    model_name=name,
                    load_model=load,
                    identity=identity,
                    agent=agent,
                    decoding=decoding,
                    num_frames=num_frames,
                    **options,
                )
            )
        except Exception as error:
            # One task alone: its own words and exit code; a bug keeps its traceback.
            if len(tasks) == 1 or not isinstance(error, NavilaError):
                raise
            outcomes.append((label, error))
            continue
        outcomes.append((label, result))
        _add_metrics(output_dir / name / "metrics.json", label, result)
    return outcomes


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


def run_label(task: str, split: str, default_split: str, agent: str = "model") -> str:
    """Folder of a run: the task, and what of split and agent is not the default."""
    parts = [task.replace("/", "-")]
    if split != default_split:
        parts.append(split)
    if agent != "model":
        parts.append(agent)
    return "-".join(parts)


def _add_metrics(path: Path, label: str, results: Results) -> None:
    """Merge one run's headline figures into `metrics.json`, as `<task>/<metric>`."""
    metrics = read_json(path) if path.exists() else {}
    kept = {key: value for key, value in metrics.items() if key.rpartition("/")[0] != label}
    write_json(path, {**kept, **{f"{label}/{name}": value for name, value in results.metrics.items()}})
