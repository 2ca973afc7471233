"""Recording a dataset in a simulator: resumable, parallel, and the same whatever interrupted it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from navila.errors import ConfigError, DataError, NavilaError
from navila.files import write_atomically
from navila.plugins import default_host
from navila.simulation import Embodiment, Episode, ProceduralSimulator

from navila_data.mixture import MANIFEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Settings of an unfinished recording, written first.
SETTINGS = "recording.json"
#: One file a house, until the recording is put together.
PARTS = "parts"
#: Where the recorders put images (`Recorder.folder`).
IMAGE_FOLDERS = ("train", "images")

What = Literal["navigation", "tours", "grounding"]
#: Registered dataset that reads a recording.
FORMATS: Mapping[What, str] = {"navigation": "vln", "tours": "vln", "grounding": "llava"}


_BOUNDS = (
    ("episodes", 1, 10**8),
    ("episodes_per_house", 1, 10**6),
    ("image_size", 16, 4096),
    ("hfov", 1, 179),
    ("perturb", 0, 1),
    ("max_steps", 1, 10**6),
    ("views", 1, 10**6),
    ("questions", 1, 10**6),
)


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """Everything that decides the bytes of a recording."""

    what: What = "navigation"
    sim: str = "mesh"
    episodes: int = 100
    episodes_per_house: int = 5
    """Several targets in one house teach a model to listen to the instruction."""
    levels: tuple[int, ...] = (0,)
    """Difficulties, taken in turn."""
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
    every_step: bool = True
    """A record at every primitive; otherwise only where a decision is due."""
    max_steps: int = 200
    """Primitives after which an episode is cut off."""
    stop_distance: float | None = None
    """The expert's goal radius in metres; None for the episode's success distance."""
    views: int = 8
    """Views an episode (grounding)."""
    questions: int = 6
    """Questions a view (grounding)."""

    def __post_init__(self) -> None:
        for field, low, high in _BOUNDS:
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}: give {low} to {high}.")
        if self.stop_distance is not None and not self.stop_distance > 0:
            raise ConfigError(f"stop_distance is {self.stop_distance}: give metres above 0.")

    def embodiment(self) -> Embodiment:
        """The default body with the recording's camera."""
        return Embodiment(width=self.image_size, height=self.image_size, hfov=self.hfov)


@dataclass(frozen=True, kw_only=True)
class HouseTask:
    """The episodes of one house, the unit of work and of resuming."""

    number: int
    level: int
    seed: int
    """Names the house and every random choice in it."""
    episodes: range
    """Numbers of the episodes, which name their folders."""


class Recorder:
    """What turns an episode into records, which must depend on its arguments alone."""

    folder: str
    """Where images go, below the recording."""

    def records(
        self, sim: ProceduralSimulator, episode: Episode, name: str, generator: np.random.Generator, save: SaveImage
    ) -> list[dict[str, Any]]:
        """Walk or look around, save images, and return the annotations of the episode called `name`."""
        raise NotImplementedError


#: Saves an (H, W, 3) image under a name without suffix, and returns its path relative to the image folder.
SaveImage = Callable[[str, "NDArray[np.uint8]"], str]


def tasks(settings: RecordSettings) -> Iterator[HouseTask]:
    """The houses of a recording; the first N episodes do not depend on how many there are."""
    starts = range(0, settings.episodes, settings.episodes_per_house)
    for number, start in enumerate(starts):
        level = settings.levels[number % len(settings.levels)]
        digest = hashlib.sha256(f"navila-record {settings.seed} {level} {number}".encode()).digest()
        yield HouseTask(
            number=number,
            level=level,
            seed=int.from_bytes(digest[:4], "big") >> 1,
            episodes=range(start, min(start + settings.episodes_per_house, settings.episodes)),
        )


def record(
    settings: RecordSettings,
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
        SceneError: the simulator could not make an episode.
    """
    settings = _checked(settings)
    finished = _finished(settings, output)
    if finished is not None:
        progress(settings.episodes, settings.episodes)
        return finished
    _claim(settings, output)
    todo = [task for task in tasks(settings) if not _part(output, task.number).exists()]
    done = settings.episodes - sum(len(task.episodes) for task in todo)
    progress(done, settings.episodes)
    for count in _run(settings, output, todo, workers):
        done += count
        progress(done, settings.episodes)
    return _assemble(settings, output)


def _checked(settings: RecordSettings) -> RecordSettings:
    """The settings with the simulator's own name instead of an alias; told before a folder is claimed for them."""
    spec = default_host().registry("simulator").spec(settings.sim)
    if settings.policy != "expert":
        from navila.model.location import checkpoint_folder, read_root

        read_root(checkpoint_folder(settings.policy))
    return dataclasses.replace(settings, sim=spec.name) if settings.sim in spec.aliases else settings


def _finished(settings: RecordSettings, output: Path) -> dict[str, Any] | None:
    if not (output / MANIFEST).exists():
        return None
    manifest = _read_json(output / MANIFEST)
    _require_same(settings, manifest.get("settings"), output)
    return manifest


def _claim(settings: RecordSettings, output: Path) -> None:
    """Make the folder this recording's, or check that it already is."""
    claimed = (output / SETTINGS).exists()
    if claimed and any((output / PARTS).glob("*.jsonl")):
        _require_same(settings, _read_json(output / SETTINGS), output)
        return
    if claimed:
        # What broke before its first house, often for a wrong argument, left nothing to keep.
        for name in IMAGE_FOLDERS:
            shutil.rmtree(output / name, ignore_errors=True)
    elif output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty and holds no recording to resume: choose another --output.")
    (output / PARTS).mkdir(parents=True, exist_ok=True)
    write_atomically(output / SETTINGS, json.dumps(_plain(settings), indent=2) + "\n")


def _require_same(settings: RecordSettings, recorded: Any, output: Path) -> None:
    wanted = _plain(settings)
    recorded = dict(recorded) if isinstance(recorded, dict) else {}
    if recorded.get("sim") in default_host().registry("simulator").spec(settings.sim).aliases:
        recorded["sim"] = settings.sim
    differing = [key for key in wanted if wanted[key] != recorded.get(key)]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{output} holds a recording with {key} {recorded.get(key)!r}, not {wanted[key]!r}: repeat its settings to "
            "resume it, or choose another --output."
        )


def _run(settings: RecordSettings, output: Path, todo: list[HouseTask], workers: int) -> Iterator[int]:
    """Record every task, yielding how many episodes each had."""
    workers = min(workers, len(todo))
    if workers <= 1:
        yield from _work(settings, output, todo)
        return
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_worker, args=(settings, output, todo[k::workers], queue), daemon=True)
        for k in range(workers)
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


def _worker(settings: RecordSettings, output: Path, todo: list[HouseTask], queue: Any) -> None:
    parent = multiprocessing.parent_process()
    try:
        for count in _work(settings, output, todo):
            queue.put(count)
            if parent is not None and not parent.is_alive():
                return
    except NavilaError as error:
        queue.put(error)
        return
    queue.put(None)


def _work(settings: RecordSettings, output: Path, todo: list[HouseTask]) -> Iterator[int]:
    if not todo:
        return
    recorder = make_recorder(settings)
    sim = default_host().registry("simulator").load(settings.sim)(embodiment=settings.embodiment())  # pyright: ignore[reportCallIssue]
    if not isinstance(sim, ProceduralSimulator):
        raise ConfigError(f"The simulator {settings.sim!r} makes no episodes of its own: choose one that does.")
    try:
        for task in todo:
            lines: list[str] = []
            episodes = sim.make_episodes(level=task.level, seed=task.seed, count=len(task.episodes))
            for number, episode in zip(task.episodes, episodes, strict=True):
                folder = output / recorder.folder / str(number)
                # What an interrupted run left of this episode is written anew.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                generator = np.random.default_rng([settings.seed, number])
                records = recorder.records(sim, episode, str(number), generator, _saver(folder, settings.image_format))
                lines += [json.dumps(entry, ensure_ascii=False) + "\n" for entry in records]
            write_atomically(_part(output, task.number), "".join(lines))
            yield len(task.episodes)
    finally:
        sim.close()


def make_recorder(settings: RecordSettings) -> Recorder:
    """The recorder of a kind of data."""
    if settings.what == "grounding":
        from navila_data.grounding import GroundingRecorder

        return GroundingRecorder(settings)
    if settings.what == "tours":
        from navila_data.tours import TourRecorder

        return TourRecorder(settings)
    from navila_data.walks import WalkRecorder

    return WalkRecorder(settings)


def _saver(folder: Path, image_format: str) -> SaveImage:
    from PIL import Image

    def save(name: str, rgb: NDArray[np.uint8]) -> str:
        path = folder / f"{name}.{image_format}"
        # Full chroma resolution: small frames lose coloured landmarks to the usual halving.
        options: dict[str, Any] = {"quality": 95, "subsampling": 0} if image_format == "jpg" else {}
        Image.fromarray(rgb).save(path, **options)
        return f"{folder.name}/{path.name}"

    return save


def _assemble(settings: RecordSettings, output: Path) -> dict[str, Any]:
    """Put the parts together in order; the manifest comes last and marks the recording complete."""
    count = 0
    temporary = output / "annotations.json.partial"
    with temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for task in tasks(settings):
            for line in _part(output, task.number).read_text(encoding="utf-8").splitlines():
                file.write(",\n" if count else "\n")
                file.write(line)
                count += 1
        file.write("\n]\n")
    temporary.replace(output / "annotations.json")
    manifest = {
        "format": FORMATS[settings.what],
        "records": count,
        "episodes": settings.episodes,
        "settings": _plain(settings),
        "versions": {"navila-data": version("navila-data"), **default_host().provenance()},
    }
    write_atomically(output / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(output / PARTS)
    (output / SETTINGS).unlink()
    return manifest


def _part(output: Path, number: int) -> Path:
    return output / PARTS / f"{number}.jsonl"


def _plain(settings: RecordSettings) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path} is not valid JSON: delete the folder and record it again.") from None
