"""What tasks in scenes on disk share: the simulator, the body, and where scenes are looked for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from navila.embodiments import embodiment as named_embodiment
from navila.errors import ConfigError, DataError
from navila.options import construct
from navila.plugins import default_host
from navila.simulation import Episode, ProceduralSimulator, Simulator
from navila_eval.benchmark import DATA_ROOT, Request, Results
from navila_eval.navigation import NavigationBenchmark, NavigationTask

#: Side of the images of tiny instances, pixels.
_TINY = 32


class SceneBenchmark(NavigationBenchmark):
    """Episodes in scenes on disk, walked by a named body in any installed simulator."""

    max_steps = 500
    data_root: Path = DATA_ROOT
    _agent = ""
    _output_dir: Path | None = None
    _in_houses = False

    def __init__(
        self,
        *,
        simulator: str = "mesh",
        embodiment: str | Mapping[str, Any] = "navila",
        scenes: str | None = None,
        simulator_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what is asked for; nothing is opened.

        Args:
            simulator: name of an installed one.
            embodiment: name of a profile (`navila.embodiments`), or an object of `Embodiment`'s fields.
            scenes: folder of the scenes; `scene_datasets` below the data root by default.
            simulator_options: what else the simulator's constructor takes.

        Raises:
            UnknownComponentError, ConfigError: there is no such simulator or embodiment.
        """
        self._simulator = default_host().registry("simulator").spec(str(simulator))
        self.embodiment = named_embodiment(embodiment)
        self._scenes = path_of(scenes)
        if not isinstance(simulator_options or {}, Mapping):
            raise ConfigError(f'simulator_options is {simulator_options!r}: give an object such as {{"up": "z"}}.')
        self._simulator_options = dict(simulator_options or {})

    @classmethod
    def tiny(cls) -> Self:
        """The same rules in small procedural houses."""
        made = cls(embodiment={"name": "tiny", "width": _TINY, "height": _TINY})
        made._in_houses = True
        return made

    def run(self, request: Request) -> Results:
        bound = copy.copy(self)
        bound.data_root = request.data_root or DATA_ROOT
        bound._agent, bound._output_dir = request.agent, request.output_dir
        root = bound.scene_root()
        if bound.on_graphs and not root.exists():
            raise DataError(
                f"There are no connectivity graphs at {root}: download the folder 'connectivity' of "
                "https://github.com/peteanderson80/Matterport3DSimulator and name it with -o scenes=FOLDER."
            )
        return super(SceneBenchmark, bound).run(request)

    def task(self, name: str, split: str, simulator: Simulator, **options: Any) -> NavigationTask:
        """The task; who goes to goals is refused where there is none."""
        task = super().task(name, split, simulator, **options)
        lost = next((episode for episode in task.episodes if not episode.goals), None)
        if self._agent in ("expert", "reference") and lost is not None:
            raise ConfigError(
                f"Episode {lost.episode_id!r} of {name} {split} has no goal (those of test splits are not public): "
                f"the agent {self._agent} has nowhere to go; choose another agent or split."
            )
        return task

    def scene_root(self, data_root: Path | None = None) -> Path:
        """The folder, or for graphs the file, that `scene_id`s are looked for in."""
        return self._scenes or (data_root or self.data_root) / ("connectivity" if self.on_graphs else "scene_datasets")

    @property
    def on_graphs(self) -> bool:
        """Whether the simulator walks connectivity graphs."""
        return "connectivity" in self._simulator.scenes

    def simulator(self) -> Simulator:
        component = default_host().registry("simulator").load(self._simulator.name)
        options: dict[str, Any] = {"embodiment": self.embodiment, **self._simulator_options}
        if _reads_scenes(component):
            options.setdefault("scene_root", self.scene_root())
        return construct(component, options, f"simulator {self._simulator.name}")

    def check_scenes(self, episodes: Sequence[Episode], data_root: Path | None, get: str) -> None:
        """Make sure that scenes which are files here are there, before the first is walked.

        Raises:
            DataError: one is not; `get` says where it comes from.
        """
        if self.on_graphs or not _reads_scenes(default_host().registry("simulator").load(self._simulator.name)):
            return
        root = self.scene_root(data_root)
        names = dict.fromkeys(episode.scene_id for episode in episodes)
        missing = [name for name in names if not (root / name).is_file()]
        if missing:
            raise DataError(
                f"{missing[0]} is not below {root} ({len(missing)} of {len(names)} scenes are missing): {get}"
            )

    def houses(self, limit: int | None) -> tuple[Episode, ...]:
        """Episodes of `tiny`."""
        simulator = self.simulator()
        if not isinstance(simulator, ProceduralSimulator):
            raise ConfigError(f"The simulator {self._simulator.name!r} makes no episodes of its own.")
        return simulator.make_episodes(level=0, seed=0, count=limit or 2)


def by_scene(episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes in the order of the first of each scene, as habitat walks them: no scene is loaded twice."""
    order = {scene: place for place, scene in enumerate(dict.fromkeys(episode.scene_id for episode in episodes))}
    return sorted(episodes, key=lambda episode: order[episode.scene_id])


def path_of(option: str | None) -> Path | None:
    """The path that an option names; a name of digits has been read as a number."""
    return Path(str(option)) if option is not None else None


def _reads_scenes(simulator: Any) -> bool:
    """Whether a simulator loads scenes from a folder here, and not at the other end of a connection."""
    return "scene_root" in inspect.signature(simulator).parameters
