"""The task `scan`: instructions of one's own in a scan of one's own building."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, DataError, SceneError, SimulatorError
from navila.simulation import Episode, Position, Simulator
from navila_eval.navigation import NavigationTask

from navila_bench_vln.markers import markers_of
from navila_bench_vln.plan import draw_plan, standing_place
from navila_bench_vln.scenes import SceneBenchmark, path_of
from navila_bench_vln.walks_file import read_walks

#: The picture beside results that coordinates are read from.
PLAN = "plan.png"


class Scan(SceneBenchmark):
    """Walks of a list through one mesh; those without goal are recorded and shown, not scored."""

    def __init__(
        self,
        *,
        scene: str | None = None,
        instructions: str | None = None,
        up: str = "y",
        simulator: str = "mesh",
        embodiment: str | Mapping[str, Any] = "navila",
        simulator_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what is asked for; `SceneBenchmark` tells of the other options.

        Args:
            scene: GLB, PLY or OBJ file in metres.
            instructions: list of walks (`navila_bench_vln.walks_file`).
            up: vertical axis of the scene, `y` or `z`.
        """
        if up not in ("y", "z"):
            raise ConfigError(f"The scene's vertical axis up is {up!r}: give y or z.")
        self._scene, self._instructions = path_of(scene), path_of(instructions)
        self._up: Any = up
        # The points of the list are in these axes: the mesh simulator must not find others by itself.
        own = {"up": up} if up == "z" or simulator == "mesh" else {}
        super().__init__(
            simulator=simulator,
            embodiment=embodiment,
            scenes=str(self._scene.parent) if self._scene else None,
            simulator_options={**own, **(simulator_options or {})},
        )

    def simulator(self) -> Simulator:
        if not self._in_houses:
            self._files()
        return super().simulator()

    def episodes(
        self, split: str, *, seed: int = 0, limit: int | None = None, data_root: Path | None = None
    ) -> Sequence[Episode]:
        if self._in_houses:
            return self.houses(limit)
        scene, instructions = self._files()

        @functools.cache
        def anywhere() -> Position:
            simulator = self.simulator()
            try:
                return standing_place(simulator, scene.name)
            finally:
                simulator.close()

        return read_walks(instructions, scene.name, markers_of(scene, self._up), anywhere, self._up)[:limit]

    def task(self, name: str, split: str, simulator: Simulator, **options: Any) -> NavigationTask:
        """The task; a plan with the scan's coordinates is put beside its results.

        Raises:
            DataError: the scene cannot be loaded, or no walk starts on its floor.
        """
        task = super().task(name, split, simulator, **options)
        plan = self._output_dir / PLAN if self._output_dir is not None and not self._in_houses else None
        if plan is not None and not plan.exists() and _stands(simulator, task.episodes):
            draw_plan(simulator.top_down_map(), plan, title=task.episodes[0].scene_id, up=self._up)
        return task

    def success_distance(self, episode: Episode) -> float:
        return episode.goal_radius

    def _files(self) -> tuple[Path, Path]:
        if self._scene is None or self._instructions is None:
            lacking = "scene=building.glb" if self._scene is None else "instructions=walks.json"
            raise ConfigError(f"The task scan needs a scene and a list of walks: add -o {lacking}.")
        if not self._scene.is_file():
            raise DataError(f"There is no scene {self._scene}: check -o scene=FILE.")
        return self._scene, self._instructions


def _stands(simulator: Simulator, episodes: Sequence[Episode]) -> bool:
    """Whether the simulator stands at the start of a walk now, the first that has one on a floor.

    Raises:
        DataError: no walk has, or the scene cannot be loaded.
    """
    refusal = ""
    for episode in episodes:
        try:
            simulator.reset(dataclasses.replace(episode, goals=()))
            return True
        except SimulatorError:
            return False  # It broke, as its walk will say.
        except SceneError as error:
            # Of a scene that cannot be loaded nothing else is ever said.
            if str(error) == refusal:
                break
            refusal = refusal or str(error)
    raise DataError(refusal)
