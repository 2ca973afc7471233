"""Which episode a free simulator walks next."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from navila.simulation import Episode


class EpisodeQueue:
    """Episodes by scene, so that a simulator stays in the scene it has loaded while there is work in it."""

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._scenes: dict[str, deque[Episode]] = {}
        for episode in episodes:
            self._scenes.setdefault(episode.scene_id, deque()).append(episode)

    def __len__(self) -> int:
        return sum(map(len, self._scenes.values()))

    def has(self, scene: str | None) -> bool:
        """Whether an episode of a scene is left."""
        return bool(scene is not None and self._scenes.get(scene))

    def take(self, scene: str | None, busy: Collection[str] = ()) -> Episode:
        """The next episode for a simulator that has `scene` loaded.

        In the same scene where it has any; else in one that is not `busy` with other simulators, else in any: the one
        with most episodes left, so that long scenes are not left for last.

        Raises:
            IndexError: none is left.
        """
        if scene is None or not self.has(scene):
            waiting = [name for name, episodes in self._scenes.items() if episodes]
            if not waiting:
                raise IndexError("no episode is left")
            free = [name for name in waiting if name not in busy]
            # The first of equals: what is taken follows from the order of the episodes alone.
            scene = max(free or waiting, key=lambda name: len(self._scenes[name]))
        return self._scenes[scene].popleft()
