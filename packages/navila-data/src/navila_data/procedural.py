"""Recordings of episodes that a simulator makes itself, by level and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from navila.errors import ConfigError
from navila.simulation import Episode, ProceduralSimulator, Simulator

from navila_data.recording import Recorder, Task, WalkSettings, procedural

What = Literal["navigation", "tours", "grounding"]


@dataclass(frozen=True, kw_only=True)
class HouseTask(Task):
    """The episodes of one house."""

    level: int
    seed: int
    """Names the house and every random choice in it."""


@dataclass(frozen=True, kw_only=True)
class RecordSettings(WalkSettings):
    """Everything that decides the bytes of a recording."""

    bounds: ClassVar[tuple[tuple[str, float, float], ...]] = (
        *WalkSettings.bounds,
        ("episodes", 1, 10**8),
        ("episodes_per_house", 1, 10**6),
        ("views", 1, 10**6),
        ("questions", 1, 10**6),
    )

    what: What = "navigation"
    episodes: int = 100
    episodes_per_house: int = 5
    """Several targets in one house teach a model to listen to the instruction."""
    levels: tuple[int, ...] = (0,)
    """Difficulties, taken in turn."""
    views: int = 8
    """Views an episode (grounding)."""
    questions: int = 6
    """Questions a view (grounding)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rebalance and self.what == "grounding":
            raise ConfigError("rebalance is for actions: leave it out with grounding.")

    @property
    def format(self) -> str:
        """Views are conversations, walks are navigation steps."""
        return "llava" if self.what == "grounding" else "vln"

    def tasks(self) -> Iterator[HouseTask]:
        """The houses; the first N episodes do not depend on how many there are."""
        starts = range(0, self.episodes, self.episodes_per_house)
        for number, start in enumerate(starts):
            level = self.levels[number % len(self.levels)]
            digest = hashlib.sha256(f"navila-record {self.seed} {level} {number}".encode()).digest()
            yield HouseTask(
                number=number,
                level=level,
                seed=int.from_bytes(digest[:4], "big") >> 1,
                episodes=range(start, min(start + self.episodes_per_house, self.episodes)),
            )

    def open_simulator(self) -> ProceduralSimulator:
        """A simulator that makes its own episodes."""
        return procedural(self.make_simulator())

    def episodes_of(self, sim: Simulator, task: Task) -> Iterator[tuple[str, Episode]]:
        """The episodes of a house, called by their numbers."""
        assert isinstance(task, HouseTask)
        episodes = procedural(sim).make_episodes(level=task.level, seed=task.seed, count=len(task.episodes))
        yield from zip(map(str, task.episodes), episodes, strict=True)

    def recorder(self) -> Recorder:
        """The recorder of the kind of data."""
        if self.what == "grounding":
            from navila_data.grounding import GroundingRecorder

            return GroundingRecorder(self)
        if self.what == "tours":
            from navila_data.tours import TourRecorder

            return TourRecorder(self)
        from navila_data.walks import WalkRecorder

        return WalkRecorder(self)
