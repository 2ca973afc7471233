"""The task `houses`: go to a landmark in procedural houses that nobody has seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from navila.errors import ConfigError
from navila.plugins import default_host
from navila.simulation import Embodiment, Episode, ProceduralSimulator
from navila_eval.navigation import NavigationBenchmark

#: Episodes of a split when no limit says otherwise.
DEFAULT_EPISODES = 100
#: Side of the camera image in pixels: what `navila data record --sim houses` records with.
IMAGE_SIZE = 96


class Houses(NavigationBenchmark):
    """Episodes made by level and seed; success is stopping within the episode's own goal radius.

    The radius is also d_th of oracle success and of nDTW, whose formula is scaled by the task's success distance.
    """

    max_steps = 100

    def __init__(self, *, image_size: int = IMAGE_SIZE) -> None:
        if type(image_size) is not int or image_size < 1:
            raise ConfigError(f"image_size of the task houses is {image_size!r}: give a number of pixels, e.g. 96.")
        self.embodiment = Embodiment(name=f"navila-{image_size}px", width=image_size, height=image_size)

    @classmethod
    def tiny(cls) -> Houses:
        return cls(image_size=32)

    def simulator(self) -> ProceduralSimulator:
        simulator = default_host().registry("simulator").load("mesh")(embodiment=self.embodiment)  # pyright: ignore[reportCallIssue]
        if not isinstance(simulator, ProceduralSimulator):
            raise ConfigError("The simulator 'mesh' makes no episodes of its own: the task houses needs one that does.")
        return simulator

    def success_distance(self, episode: Episode) -> float:
        return episode.goal_radius

    def episodes(
        self, split: str, *, seed: int = 0, limit: int | None = None, data_root: Path | None = None
    ) -> Sequence[Episode]:
        """Episodes of `level0` … `level3`; a longer list starts with the shorter one."""
        level = split.removeprefix("level")
        if level == split or not level.isdigit():
            raise ConfigError(f"The task houses has no split {split!r}: use level0, level1, level2 or level3.")
        simulator = self.simulator()
        try:
            return simulator.make_episodes(level=int(level), seed=seed, count=limit or DEFAULT_EPISODES)
        finally:
            simulator.close()
