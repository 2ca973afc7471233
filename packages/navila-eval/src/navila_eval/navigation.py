"""Closed-loop navigation: episodes walked by an agent in a simulator, scored, recorded and resumable."""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from navila.errors import ConfigError
from navila.simulation import Embodiment, Episode, Simulator

from navila_eval.agents import MISLEADING, Agent, ExpertAgent, ForwardRandomAgent, ModelAgent, RandomAgent
from navila_eval.benchmark import AGENTS, Benchmark, Request, Results
from navila_eval.claims import Claims
from navila_eval.closed_loop import run_episodes
from navila_eval.episode_queue import SharedEpisodes
from navila_eval.jsonl import JsonlWriter, drop_cut_line
from navila_eval.manifest import episodes_digest
from navila_eval.navigation_metrics import SUCCESS_DISTANCE
from navila_eval.navigation_processes import run_in_processes
from navila_eval.navigation_results import complete_records, finish_run, rescored, timings_file
from navila_eval.perturbations import Perturbation, make_perturbed
from navila_eval.pictures import Keeper, PictureKeeper
from navila_eval.progress import EpisodeProgress
from navila_eval.reference_agents import ReferenceAgent, ReplayAgent
from navila_eval.results import results_of
from navila_eval.run_folder import CLAIMS, PICTURES, RECORDS, RESULTS, VIDEOS, RecordReader, RunFolder, by_id
from navila_eval.simulator_process import SimulatorProcess
from navila_eval.walk import Record, Walk

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

    shares: ClassVar[bool] = True
    # Options are of episodes and simulators; a walk is scored by its poses alone.
    asks_by: ClassVar[Sequence[str] | None] = None
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

        if request.video:
            from navila_eval.film import film_count

            # Told before a model is loaded.
            film_count(request.video)
            if (request.output_dir / RESULTS).is_file() and not (request.force or request.quiet):
                line = f"{request.output_dir} is complete, and films are made while walking: --force walks again."
                click.echo(line, err=True)
        if request.endpoint is not None:
            raise ConfigError(f"The task {request.task} needs a model here (-m): --api-base answers questions only.")
        if request.processes > 1 and request.model_loader is not None:
            run_in_processes(self, request)
            request = replace(request, force=False, resume=True)
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
            if request.agent == "replay" and not any(episode.info.get("gt_actions") for episode in task.episodes):
                raise ConfigError(
                    f"No episode of {request.task} {request.split} comes with recorded actions (a _gt file beside its "
                    "episodes has them): use the agent reference or expert."
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
        """What makes simulators that are so perturbed, here or in another process; episodes stay as they are."""
        other = self
        if perturbation.pitch or perturbation.height:
            if self.embodiment is None:
                raise ConfigError(f"The cameras of {type(self).__name__} cannot be moved: leave out pitch and height.")
            other = copy.copy(self)
            other.embodiment = perturbation.mount(self.embodiment)
        if not perturbation.of_images:
            return other.simulator
        return functools.partial(make_perturbed, other.simulator, perturbation, seed)

    def rescore(self, folder: Path, judge: Judge | None = None) -> Results:
        runs = RunFolder(folder)
        run = runs.run()
        return finish_run(runs, rescored(complete_records(runs, run)), run, self.submission)


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
    if request.agent == "reference":
        return ReferenceAgent()
    if request.agent == "replay":
        return ReplayAgent()
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

    Processes that do so in one folder at the same time, on any number of machines, share the episodes: each claims the
    next that is free, and what a killed one had claimed is free again.

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
        ConfigError: there are no episodes, or the folder holds another run, or others are at work on one to start over.
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
    claims = Claims(output_dir / CLAIMS)
    shared = bool(claims.others())
    if force or not resume:
        claims.check_alone()
    cut = folder.open(run, force=force, resume=resume, shared=shared)
    reader = RecordReader(folder)
    known = set(ids)
    records = {name: record for name, record in by_id(reader.new(), folder.key).items() if name in known}
    done = {name for name, record in records.items() if record["outcome"] != "failed"}
    finished = folder.results()
    if finished is not None and len(done) == len(ids):
        return results_of(output_dir, finished)
    with claims, EpisodeProgress(f"{task.name} {task.split}", total=len(ids), quiet=quiet) as progress:
        # The first process here writes the file of records itself, others beside it.
        first = claims.take(RECORDS)
        cut |= first and drop_cut_line(output_dir / RECORDS)
        progress.start([records[name] for name in ids if name in done], cut=cut, path=output_dir / RECORDS)
        todo = [episode for episode in task.episodes if episode.episode_id not in done]
        queue = SharedEpisodes(todo, claims, reader, seen=progress.advance)
        if len(queue):
            walker = agent()
            keepers = _keepers(output_dir, ids, report_episodes, video, frames=walker.needs_images)
            folder.note_agent(walker.facts())
            part = "" if first else claims.owner
            with folder.writer(part) as writer, JsonlWriter(timings_file(output_dir, part)) as timings:

                def finish(walk: Walk) -> None:
                    record = walk.record()
                    writer.append(record)
                    timings.append({"episode_id": record["episode_id"], **walk.timing.facts()})
                    queue.finish(walk.episode)
                    progress.advance(record)

                run_episodes(
                    walker,
                    queue,
                    simulators,
                    max_steps=task.max_steps,
                    success_distance=task.success_distance,
                    on_finish=finish,
                    keepers=keepers,
                )
        claims.wait_for("results")
        if (now := folder.results_since(finished)) is not None:
            # Another process was the first to see that all is walked.
            return results_of(output_dir, now)
        # From the files, not from memory: an interrupted run and an uninterrupted one go through the same numbers.
        records = folder.records()
        return finish_run(folder, [records[name] for name in ids], run, task.submission)


def _keepers(output_dir: Path, ids: Sequence[str], pictures: int, video: str, *, frames: bool) -> list[Keeper]:
    keepers: list[Keeper] = [PictureKeeper(output_dir / PICTURES, ids[:pictures], frames=frames)]
    if video:
        from navila_eval.film import FilmKeeper

        keepers.append(FilmKeeper(output_dir / VIDEOS, video, ids))
    return keepers
