"""Recording a dataset in a simulator: resumable, parallel, and the same whatever interrupted it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import multiprocessing
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from navila.errors import ConfigError, DataError, NavilaError, SceneError, reason
from navila.files import write_atomically
from navila.options import construct, parse_options
from navila.plugins import default_host
from navila.processes import end_with_parent
from navila.simulation import Embodiment, Episode, ProceduralSimulator, Simulator

from navila_data.balance import parse_weights, rebalanced
from navila_data.job_folder import JobFolder, write_annotations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: One file a task, until the recording is put together.
PARTS = "parts"
#: Where the recorders put images (`Recorder.folder`).
IMAGE_FOLDERS = ("train", "images")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Episodes that share a scene, the unit of work and of resuming."""

    number: int
    episodes: Sequence[int]
    """Numbers of the episodes, which decide their random choices."""


@dataclass(frozen=True, kw_only=True)
class WalkSettings(ABC):
    """How an agent walks and what is kept of it; subclasses say where its episodes come from."""

    job: ClassVar[str] = "recording"
    bounds: ClassVar[tuple[tuple[str, float, float], ...]] = (
        ("image_size", 16, 4096),
        ("hfov", 1, 179),
        ("perturb", 0, 1),
        ("expert_share", 0, 1),
        ("max_steps", 1, 10**6),
    )

    sim: str = "mesh"
    seed: int = 0
    image_size: int = 96
    """Side of the square frames, pixels."""
    hfov: float = 90.0
    """Degrees."""
    image_format: Literal["jpg", "png"] = "jpg"
    perturb: float = 0.0
    """Probability, a decision, of a random detour of 1 to 3 primitives; the labels stay the expert's."""
    policy: str = "expert"
    """`expert`, or a checkpoint that acts while the expert labels (DAgger)."""
    expert_share: float = 0.0
    """Probability, a decision, that the expert acts in the policy's place (DAgger's beta)."""
    rebalance: str = ""
    """How often records of each action are written, as in `stop=5,left=1.5`, or `auto`; empty for once each."""
    every_step: bool = True
    """A record at every primitive; otherwise only where a decision is due."""
    max_steps: int = 200
    """Primitives after which an episode is cut off."""
    stop_distance: float | None = None
    """The expert's goal radius in metres; None for the episode's success distance."""
    sim_options: tuple[str, ...] = ()
    """Further options of the simulator, each KEY=VALUE."""
    skip_misfits: bool = False
    """Leave out and count an episode that does not fit its scene, instead of stopping there."""

    def __post_init__(self) -> None:
        for field, low, high in self.bounds:
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}: give {low} to {high}.")
        if self.expert_share and self.policy == "expert":
            raise ConfigError("expert_share is for a policy that acts: give one, or leave it out.")
        if self.rebalance:
            parse_weights(self.rebalance)
        if self.stop_distance is not None and not self.stop_distance > 0:
            raise ConfigError(f"stop_distance is {self.stop_distance}: give metres above 0.")

    @property
    def format(self) -> str:
        """Registered dataset that reads the recording."""
        return "vln"

    @abstractmethod
    def tasks(self) -> Iterator[Task]:
        """All work, in the order of the records; the first tasks do not depend on how many follow."""

    @abstractmethod
    def open_simulator(self) -> Simulator:
        """The simulator, for all tasks of a process."""

    @abstractmethod
    def episodes_of(self, sim: Simulator, task: Task) -> Iterable[tuple[str, Episode]]:
        """The episodes of a task and the names of their folders."""

    @abstractmethod
    def recorder(self) -> Recorder:
        """What walks them."""

    def checked(self) -> Self:
        """The settings with the simulator's own name; told before a folder is claimed for them.

        Raises:
            UnknownComponentError, CheckpointError: there is no such simulator or policy.
        """
        spec = default_host().registry("simulator").spec(self.sim)
        if self.policy != "expert":
            from navila.model.location import checkpoint_folder, read_root

            read_root(checkpoint_folder(self.policy))
        return dataclasses.replace(self, sim=spec.name)

    def facts(self) -> dict[str, Any]:
        """Everything that decides the bytes of the recording, as JSON's types."""
        return json.loads(json.dumps(plain_facts(self)))

    def make_simulator(self, **options: Any) -> Simulator:
        """The simulator with the recording's body, the options of the settings, and those of these that it takes.

        Raises:
            ConfigError: it has no such option as the settings ask for.
        """
        component = default_host().registry("simulator").load(self.sim)
        takes = inspect.signature(component).parameters
        given = {name: value for name, value in options.items() if name in takes}
        asked = parse_options(self.sim_options, "simulator")
        return construct(component, {"embodiment": self.embodiment(), **given, **asked}, f"simulator {self.sim}")

    def embodiment(self) -> Embodiment:
        """The default body with the recording's camera."""
        return Embodiment(width=self.image_size, height=self.image_size, hfov=self.hfov)


class Recorder(ABC):
    """What turns an episode into records, which must depend on its arguments alone."""

    folder: str
    """Where images go, below the recording."""

    @abstractmethod
    def records(
        self, sim: Simulator, episode: Episode, name: str, generator: np.random.Generator, save: SaveImage
    ) -> list[dict[str, Any]]:
        """Walk or look around, save images, and return the annotations of the episode called `name`.

        Raises:
            SceneError: the episode does not fit its scene.
        """


#: Saves an (H, W, 3) image under a name without suffix, and returns its path relative to the image folder.
SaveImage = Callable[[str, "NDArray[np.uint8]"], str]


def plain_facts(settings: WalkSettings) -> dict[str, Any]:
    """The fields of settings, without those that change nothing and came later than recordings that are there."""
    facts = dataclasses.asdict(settings)
    for name in ("expert_share", "rebalance", "sim_options"):
        if not facts[name]:
            del facts[name]
    return facts


def procedural(sim: Simulator) -> ProceduralSimulator:
    """The simulator, if it makes its own episodes.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(sim, ProceduralSimulator):
        raise ConfigError(f"{type(sim).__name__} makes no episodes of its own: choose a simulator that does.")
    return sim


def record(
    settings: WalkSettings,
    output: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Record a dataset, or finish one that was interrupted; `progress(done, total)` follows the episodes.

    Returns:
        The manifest that marks the recording complete.

    Raises:
        ConfigError: `output` holds a recording with other settings, or something else.
        UnknownComponentError, CheckpointError: there is no such simulator or policy.
        DataError: a worker died.
        SceneError: an episode could not be made, or does not fit its scene.
    """
    settings = settings.checked()
    job = JobFolder(output, settings.job, settings.facts(), scratch=(PARTS,))
    finished = job.finished()
    if finished is not None:
        progress(finished["episodes"], finished["episodes"])
        return finished
    tasks = list(settings.tasks())
    total = sum(len(task.episodes) for task in tasks)
    job.claim(begun=any((output / PARTS).glob("*.jsonl")), leftovers=IMAGE_FOLDERS)
    todo = [task for task in tasks if not _part(output, task.number).exists()]
    done = total - sum(len(task.episodes) for task in todo)
    progress(done, total)
    for count in _run(settings, output, todo, workers):
        done += count
        progress(done, total)
    return _assemble(settings, job, tasks)


def _run(settings: WalkSettings, output: Path, todo: list[Task], workers: int) -> Iterator[int]:
    """Record every task, yielding how many episodes each had."""
    workers = min(workers, len(todo))
    if workers <= 1:
        yield from _work(settings, output, todo)
        return
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    # Neighbouring tasks may share a scene, which a worker then loads once.
    shares = [todo[len(todo) * k // workers : len(todo) * (k + 1) // workers] for k in range(workers)]
    processes = [
        context.Process(target=_worker, args=(settings, output, share, queue), daemon=True) for share in shares
    ]
    for process in processes:
        process.start()
    try:
        running = workers
        while running:
            try:
                message = queue.get(timeout=1)
            except Empty:
                dead = next((p for p in processes if p.exitcode not in (None, 0)), None)
                if dead is not None:
                    raise DataError(
                        f"A recording worker died (exit code {dead.exitcode}): run the same command again to resume."
                    ) from None
                continue
            if isinstance(message, NavilaError):
                raise message
            if message is None:
                running -= 1
            else:
                yield message
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _worker(settings: WalkSettings, output: Path, todo: list[Task], queue: Any) -> None:
    # One that went on would write what the next run of the command writes, too.
    end_with_parent()
    try:
        for count in _work(settings, output, todo):
            queue.put(count)
    except NavilaError as error:
        queue.put(error)
        return
    queue.put(None)


def _work(settings: WalkSettings, output: Path, todo: list[Task]) -> Iterator[int]:
    if not todo:
        return
    recorder = settings.recorder()
    sim = settings.open_simulator()
    try:
        for task in todo:
            lines: list[dict[str, Any]] = []
            for number, (name, episode) in zip(task.episodes, settings.episodes_of(sim, task), strict=True):
                folder = output / recorder.folder / name
                # What an interrupted run left of this episode is written anew.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                generator = np.random.default_rng([settings.seed, number])
                try:
                    records = recorder.records(sim, episode, name, generator, _saver(folder, settings.image_format))
                except SceneError as error:
                    if not settings.skip_misfits:
                        raise
                    shutil.rmtree(folder)
                    records = []
                    lines.append({_SKIPPED: {"episode": name, "why": reason(error)}})
                lines += records
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomically(_part(output, task.number), text)
            yield len(task.episodes)
    finally:
        sim.close()


#: Key of a line of a part that tells of an episode left out.
_SKIPPED = "skipped"


def _saver(folder: Path, image_format: str) -> SaveImage:
    from PIL import Image

    def save(name: str, rgb: NDArray[np.uint8]) -> str:
        path = folder / f"{name}.{image_format}"
        # Full chroma resolution: small frames lose coloured landmarks to the usual halving.
        options: dict[str, Any] = {"quality": 95, "subsampling": 0} if image_format == "jpg" else {}
        Image.fromarray(rgb).save(path, **options)
        return f"{folder.name}/{path.name}"

    return save


def _assemble(settings: WalkSettings, job: JobFolder, tasks: list[Task]) -> dict[str, Any]:
    """Put the parts together in order; the manifest comes last and marks the recording complete."""
    output = job.folder
    skipped: list[dict[str, str]] = []

    def lines() -> Iterator[str]:
        for task in tasks:
            # By "\n" alone: an instruction may hold other line ends, which JSON leaves as they are.
            for line in _part(output, task.number).read_text(encoding="utf-8").split("\n")[:-1]:
                if line.startswith(f'{{"{_SKIPPED}"'):
                    skipped.append(json.loads(line)[_SKIPPED])
                else:
                    yield line

    count = write_annotations(output, rebalanced(lines, settings.rebalance, settings.seed))
    skipped = list({place["episode"]: place for place in skipped}.values())
    if not count:
        # Often for a wrong folder of scenes: what was left out then is tried again.
        shutil.rmtree(output / PARTS)
        (output / "annotations.json").unlink()
        why = skipped[0]["why"] if skipped else "no step was taken."
        raise DataError(f"None of the episodes gave a record, so {output} is not complete; the first: {why}")
    return job.complete(
        {
            "format": settings.format,
            "records": count,
            "episodes": sum(len(task.episodes) for task in tasks),
            "skipped": skipped,
            "versions": {"navila-data": version("navila-data"), **default_host().provenance()},
        }
    )


def _part(output: Path, number: int) -> Path:
    return output / PARTS / f"{number}.jsonl"
