"""Closed-loop navigation: episodes walked by an agent in a simulator, scored, recorded and resumable."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navila.errors import ConfigError
from navila.files import write_atomically
from navila.simulation import Embodiment, Episode, Simulator

from navila_eval.agents import MISLEADING, Agent, ExpertAgent, ForwardRandomAgent, ModelAgent, RandomAgent
from navila_eval.benchmark import AGENTS, Benchmark, Request, Results
from navila_eval.breakdowns import breakdowns, failure_counts
from navila_eval.closed_loop import Keeper, run_episodes
from navila_eval.jsonl import JsonlWriter, strict
from navila_eval.manifest import environment, episodes_digest
from navila_eval.navigation_metrics import SUCCESS_DISTANCE, aggregate, headline_values
from navila_eval.perturbations import Perturbation, Perturbed
from navila_eval.pictures import PictureKeeper
from navila_eval.progress import EpisodeProgress
from navila_eval.run_folder import PICTURES, RECORDS, TIMINGS, VIDEOS, RunFolder
from navila_eval.simulator_process import SimulatorProcess
from navila_eval.statistics import bootstrap_ci
from navila_eval.walk import Record, Walk, measures, score

if TYPE_CHECKING:
    from navila_eval.judging import Judge


@dataclass(frozen=True, kw_only=True)
class NavigationTask:
    """Episodes to walk and the rules they are scored by."""

    name: str
    split: str
    episodes: tuple[Episode, ...]
    embodiment: Embodiment
    max_steps: int = 500
    success_distance: Callable[[Episode], float] = lambda episode: SUCCESS_DISTANCE
    """Metres to the goal under which a stop succeeds; also d_th of oracle success and nDTW."""
    submission: Callable[[Sequence[Record]], Mapping[str, str]] = lambda records: {}
    """Files of complete records that a leaderboard takes, by their names."""


class NavigationBenchmark(Benchmark):
    """A benchmark of episodes in a simulator; a concrete one offers the two."""

    max_steps: int = 500
    embodiment: Embodiment | None = None
    """The body that `simulator` gives the agent; one that has it here can be tried with another camera."""

    @abstractmethod
    def episodes(self, split: str, *, seed: int, limit: int | None, data_root: Path | None) -> Sequence[Episode]:
        """Episodes of a split in a fixed order; the same arguments give the same ones."""

    @abstractmethod
    def simulator(self) -> Simulator:
        """A new simulator; its forks are the further environments of a batch."""

    def success_distance(self, episode: Episode) -> float:
        """Metres to the goal under which a stop succeeds."""
        return SUCCESS_DISTANCE

    def submission(self, records: Sequence[Record]) -> Mapping[str, str]:
        """Text by the names of files that a leaderboard takes; nothing where there is none."""
        return {}

    def task(
        self,
        name: str,
        split: str,
        simulator: Simulator,
        *,
        seed: int = 0,
        limit: int | None = None,
        data_root: Path | None = None,
        max_steps: int | None = None,
    ) -> NavigationTask:
        """The task of one split, in the simulators that `simulator` is one of."""
        episodes = tuple(self.episodes(split, seed=seed, limit=limit, data_root=data_root))
        return NavigationTask(
            name=name,
            split=split,
            episodes=episodes if limit is None else episodes[:limit],
            embodiment=simulator.embodiment,
            max_steps=max_steps or self.max_steps,
            success_distance=self.success_distance,
            submission=self.submission,
        )

    def run(self, request: Request) -> Results:
        from navila_eval.navigation_report import ReportSection, write_report

        if request.endpoint is not None:
            raise ConfigError(f"The task {request.task} needs a model here (-m): --api-base answers questions only.")
        simulators = self._simulators(request)
        try:
            task = self.task(
                request.task,
                request.split,
                simulators[0],
                seed=request.seed,
                limit=request.limit,
                data_root=request.data_root,
                max_steps=request.max_steps,
            )
            # As many as there is work for: a walk that is over leaves its simulator to the next.
            while len(simulators) < min(request.batch_size, len(task.episodes)):
                simulators.append(simulators[0].fork())
            results = evaluate_agent(
                task,
                lambda: make_agent(request, self.success_distance),
                simulators,
                request.output_dir,
                identity={**request.identity, "seed": request.seed},
                report_episodes=request.report_episodes,
                video=request.video,
                force=request.force,
                resume=request.resume,
                quiet=request.quiet,
            )
        finally:
            for simulator in simulators:
                simulator.close()
        write_report(
            request.output_dir / "report.html",
            [ReportSection(title=f"{request.task} {request.split}", runs={request.agent: request.output_dir})],
            title=f"{request.model_name} on {request.task} {request.split}",
        )
        return results

    def _simulators(self, request: Request) -> list[Simulator]:
        """The first simulator, in this process or in one of its own."""
        make = self.simulator
        if request.perturbation is not None:
            make = self._perturbed(request.perturbation, request.seed)
        if not request.env_processes:
            return [make()]
        return [SimulatorProcess(make, task=request.task, timeout=request.sim_timeout)]

    def _perturbed(self, perturbation: Perturbation, seed: int) -> Callable[[], Simulator]:
        """What makes simulators that are so perturbed; episodes stay as they are."""
        other = self
        if perturbation.pitch or perturbation.height:
            if self.embodiment is None:
                raise ConfigError(f"The cameras of {type(self).__name__} cannot be moved: leave out pitch and height.")
            other = copy.copy(self)
            other.embodiment = perturbation.mount(self.embodiment)
        if not perturbation.of_images:
            return other.simulator
        return Perturbed(make=other.simulator, perturbation=perturbation, seed=seed)

    def rescore(self, folder: Path, judge: Judge | None = None) -> Results:
        runs = RunFolder(folder)
        run, records = runs.run(), list(runs.records().values())
        if len(records) < run["episodes"]:
            raise ConfigError(
                f"{folder} has records of {len(records)} of {run['episodes']} episodes: finish it with `navila eval`."
            )
        scored = [{**record, "metrics": strict(score(record))} for record in records]
        return _finish(runs, scored, run, self.submission)


def make_agent(request: Request, success_distance: Callable[[Episode], float]) -> Agent[Any]:
    """The agent a request names.

    Raises:
        ConfigError: there is no such agent.
    """
    if request.agent == "random":
        return RandomAgent(request.seed)
    if request.agent == "random-vln-ce":
        return ForwardRandomAgent(request.seed)
    if request.agent == "expert":
        return ExpertAgent(success_distance)
    if request.agent not in AGENTS:
        raise ConfigError(f"There is no agent {request.agent!r}: use one of {', '.join(AGENTS)}.")
    return ModelAgent(
        request.load_model(),
        name=request.agent,
        num_frames=request.num_frames,
        decoding=request.decoding,
        instruction=MISLEADING[request.agent](request.seed) if request.agent in MISLEADING else None,
    )


def evaluate_agent(
    task: NavigationTask,
    agent: Callable[[], Agent[Any]],
    simulators: Sequence[Simulator],
    output_dir: Path,
    *,
    identity: Mapping[str, Any],
    report_episodes: int = 20,
    video: str = "",
    force: bool = False,
    resume: bool = True,
    quiet: bool = False,
) -> Results:
    """Walk a task's episodes with one agent, going on where an earlier call was stopped, and score them.

    Args:
        agent: makes the agent; called only when there is something left to walk.
        simulators: as many environments are stepped against one batch of decisions; reused by later calls.
        output_dir: gets `run.json`, `episodes.jsonl`, `pictures/`, `aggregate.json` and, last, `results.json`.
        identity: what else decides the result: the model, its prompt, the seed.
        report_episodes: first episodes whose pictures are kept.
        video: episodes to make films of: `all`, `failed`, or a number of the first; empty for none.
        force: start over whatever is there.
        resume: without, unfinished records are thrown away.

    Raises:
        ConfigError: there are no episodes, or the folder holds another run.
    """
    if not task.episodes:
        raise ConfigError(f"The task {task.name} {task.split} has no episodes: ask for at least one.")
    ids = [episode.episode_id for episode in task.episodes]
    repeated = [episode_id for episode_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ConfigError(f"The task {task.name} {task.split} has episode {repeated[0]!r} twice: ids must be unique.")
    run = {
        "task": task.name,
        "split": task.split,
        "episodes": len(ids),
        "episodes_sha256": episodes_digest(task.episodes),
        "embodiment": asdict(task.embodiment),
        "max_steps": task.max_steps,
        **identity,
    }
    folder = RunFolder(output_dir)
    cut = folder.open(run, force=force, resume=resume)
    records = {episode_id: record for episode_id, record in folder.records().items() if episode_id in set(ids)}
    done = {episode_id for episode_id, record in records.items() if record["outcome"] != "failed"}
    finished = folder.results()
    if finished is not None and len(done) == len(ids):
        return _results(output_dir, finished)
    todo = [episode for episode in task.episodes if episode.episode_id not in done]
    with EpisodeProgress(f"{task.name} {task.split}", total=len(ids), quiet=quiet) as progress:
        progress.start(list(records[episode_id] for episode_id in done), cut=cut, path=output_dir / RECORDS)
        if todo:
            walker = agent()
            keepers = _keepers(output_dir, ids, report_episodes, video, frames=walker.needs_images)
            folder.note_agent(walker.facts())
            with folder.writer() as writer, JsonlWriter(output_dir / TIMINGS) as timings:

                def finish(walk: Walk) -> None:
                    record = walk.record()
                    writer.append(record)
                    timings.append({"episode_id": record["episode_id"], **walk.timing.facts()})
                    progress.advance(record)

                run_episodes(
                    walker,
                    todo,
                    simulators,
                    max_steps=task.max_steps,
                    success_distance=task.success_distance,
                    on_finish=finish,
                    keepers=keepers,
                )
    # From the file, not from memory: an interrupted run and an uninterrupted one then go through the same numbers.
    records = folder.records()
    return _finish(folder, [records[episode_id] for episode_id in ids], run, task.submission)


def _finish(
    folder: RunFolder,
    records: Sequence[Record],
    run: Mapping[str, Any],
    submission: Callable[[Sequence[Record]], Mapping[str, str]],
) -> Results:
    """Write what complete records come to, `results.json` last."""
    content, table = summarise(records, run, folder.agent())
    files = submission(records)
    for name, text in files.items():
        write_atomically(folder.path / name, text)
    content = strict({**content, **({"submission": list(files)} if files else {})})
    folder.finish(content, table)
    return _results(folder.path, content)


def _keepers(output_dir: Path, ids: Sequence[str], pictures: int, video: str, *, frames: bool) -> list[Keeper]:
    keepers: list[Keeper] = [PictureKeeper(output_dir / PICTURES, ids[:pictures], frames=frames)]
    if video:
        from navila_eval.film import FilmKeeper

        keepers.append(FilmKeeper(output_dir / VIDEOS, video, ids))
    return keepers


def summarise(
    records: Sequence[Record], run: Mapping[str, Any], agent: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`results.json` and `aggregate.json` of recorded walks; a pure function but for the manifest."""
    rows = [measures(record) for record in records]
    values = headline_values(rows)
    decisions = [decision for record in records for decision in record["decisions"]]
    failed = [record for record in records if record["outcome"] == "failed"]
    content = {
        "format": 1,
        "task": run["task"],
        "split": run["split"],
        "results": {run["task"]: {name: _mean(column) for name, column in values.items()}},
        "confidence_95": {name: bootstrap_ci(column) for name, column in values.items()},
        "episodes": len(records),
        "counters": {
            "stopped": sum(record["outcome"] == "stopped" for record in records),
            "timed_out": sum(record["outcome"] == "time-out" for record in records),
            "failed": len(failed),
            "without_finite_distance": len(records) - len(values["ne"]),
            "decisions": len(decisions),
            "unparsed": sum(decision["status"] == "unparsed" for decision in decisions),
            "answer_status": dict(sorted(Counter(decision["status"] for decision in decisions).items())),
        },
        "failures": failure_counts(records),
        "breakdowns": breakdowns(records),
        "failed_episodes": [{"episode_id": r["episode_id"], "error": r["error"]} for r in failed],
        "run": dict(run),
        "agent": dict(agent),
        "manifest": environment(),
    }
    return content, {"navila": aggregate(rows), "navid": aggregate(rows, invalid="zero")}


def rescore(records: Sequence[Record]) -> list[dict[str, float]]:
    """Measures computed afresh from recorded poses, without model or simulator."""
    return [score(record) for record in records]


def _mean(column: Sequence[float]) -> float | None:
    return sum(column) / len(column) if column else None


def _results(path: Path, content: Mapping[str, Any]) -> Results:
    return Results(
        path=path,
        metrics=content["results"][content["task"]],
        intervals=content["confidence_95"],
        count=content["episodes"],
        failed=content["counters"]["failed"],
        content=content,
    )
