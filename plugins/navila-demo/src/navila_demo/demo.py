"""The demonstration: four agents walk the same episodes of two levels; a table, `results.json` and `report.html`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import navila
from navila.errors import PluginError
from navila.plugins import default_host
from navila_eval.agents import Agent, ExpertAgent, ModelAgent, RandomAgent, wrong_instruction
from navila_eval.benchmark import Results
from navila_eval.jsonl import write_json
from navila_eval.manifest import checkpoint_digest
from navila_eval.navigation import NavigationBenchmark, NavigationTask, evaluate_agent
from navila_eval.navigation_report import ReportSection, write_report
from navila_eval.tables import comparison_table
from rich.console import Console

#: Difficulties shown, by the names of the task's splits.
LEVELS = {
    "level0": "the landmark is in view at the start",
    "level1": "the landmark is somewhere in the room",
}
#: Houses walked at once, so that the model decides for all of them in one batch.
ENVIRONMENTS = 25
#: Primitives after which a walk ends; the expert needs about twenty.
MAX_STEPS = 60
#: What `results.json` holds of each agent.
METRICS = ("sr", "spl", "os", "ne", "ndtw")


def shipped_checkpoint() -> Path:
    """The checkpoint that comes with this package."""
    return Path(str(files("navila_demo") / "checkpoint"))


def run_demo(output: Path, checkpoint: Path | None, *, episodes: int, seed: int, force: bool = False) -> dict[str, Any]:
    """Walk, score and report; returns what `results.json` holds. `force` starts over what is in `output`.

    Raises:
        NavilaError: the checkpoint is broken, or `output` holds another demonstration.
    """
    started = time.monotonic()
    console = Console()
    checkpoint = checkpoint or shipped_checkpoint()
    benchmark = default_host().registry("benchmark").load("houses")()  # pyright: ignore[reportCallIssue]
    if not isinstance(benchmark, NavigationBenchmark):
        raise PluginError("Another plugin's benchmark goes by the name 'houses': see `navila benchmark list`.")
    console.print(
        "A vision-language model reads an instruction, looks through a camera and says what to do next; what it says "
        "becomes motion in procedural houses it has never seen."
    )
    model = navila.load(checkpoint, device="cpu", dtype="float32")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"model {_shown(checkpoint)}: {parameters / 1e6:.2f} M parameters, {model.config.num_video_frames} frames a "
        f"decision; {episodes} episodes a level, houses of seed {seed}\n"
    )
    identity = {"model_sha256": checkpoint_digest(checkpoint), "seed": seed}
    first = benchmark.simulator()
    simulators = [first, *(first.fork() for _ in range(min(ENVIRONMENTS, episodes) - 1))]
    results: dict[str, dict[str, Results]] = {}
    try:
        for level in LEVELS:
            task = benchmark.task("houses", level, simulators[0], seed=seed, limit=episodes, max_steps=MAX_STEPS)
            results[level] = {
                name: evaluate_agent(
                    task,
                    make,
                    simulators,
                    output / level / name,
                    identity={**identity, "agent": name},
                    report_episodes=episodes,
                    force=force,
                    quiet=not console.is_terminal,
                )
                for name, make in agents(model, task, seed).items()
            }
            console.print(comparison_table(f"{level}: {LEVELS[level]}", results[level], (*METRICS, "steps")))
    finally:
        for simulator in simulators:
            simulator.close()
    summary = {level: {name: _figures(run) for name, run in runs.items()} for level, runs in results.items()}
    write_report(
        output / "report.html",
        [
            ReportSection(title=f"{level}: {LEVELS[level]}", runs={name: run.path for name, run in runs.items()})
            for level, runs in results.items()
        ],
        title="navila demo",
    )
    # Last: it marks the demonstration complete.
    write_json(output / "results.json", summary)
    console.print(f"{output / 'results.json'}\n{output / 'report.html'}", soft_wrap=True, markup=False)
    console.print(f"done in {time.monotonic() - started:.0f} s; open the report in a browser to watch the walks")
    return summary


def agents(model: Any, task: NavigationTask, seed: int) -> Mapping[str, Callable[[], Agent[Any]]]:
    """Who walks, by the name in `results.json`."""
    return {
        "model": lambda: ModelAgent(model),
        "wrong_instruction": lambda: ModelAgent(model, name="wrong_instruction", instruction=wrong_instruction(seed)),
        "random": lambda: RandomAgent(seed),
        "expert": lambda: ExpertAgent(task.success_distance),
    }


def _figures(run: Results) -> dict[str, float | int | None]:
    return {**{name: run.metrics[name] for name in METRICS}, "episodes": run.count}


def _shown(checkpoint: Path) -> str:
    return "that ships with navila-demo" if checkpoint == shipped_checkpoint() else str(checkpoint)
