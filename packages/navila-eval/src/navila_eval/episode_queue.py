"""Which episode a free simulator walks next, and which of the processes that share a run may walk it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable

from navila.simulation import Episode

from navila_eval.claims import Claims
from navila_eval.pictures import file_name
from navila_eval.run_folder import RecordReader
from navila_eval.walk import Record


class EpisodeQueue:
    """Episodes by scene, so that a simulator stays in the scene it has loaded while there is work in it."""

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._scenes: dict[str, deque[Episode]] = {}
        for episode in episodes:
            self._scenes.setdefault(episode.scene_id, deque()).append(episode)

    def __len__(self) -> int:
        """Episodes that are neither finished nor taken here."""
        return sum(map(len, self._scenes.values()))

    def has(self, scene: str | None) -> bool:
        """Whether an episode of a scene is left."""
        return bool(scene is not None and self._scenes.get(scene))

    def take(self, scene: str | None, busy: Collection[str] = ()) -> Episode | None:
        """The next episode for a simulator that has `scene` loaded; None while other processes have all that are left.

        In the same scene where it has any; else in one that is not `busy` with other simulators, else in any.
        """
        waiting = [name for name, episodes in self._scenes.items() if episodes]
        waiting.sort(key=lambda name: (name != scene, name in busy, self.rank(name)))
        for name in waiting:
            episodes = self._scenes[name]
            for _ in range(len(episodes)):
                episode = episodes.popleft()
                if self.walked(episode):
                    continue
                if self.claim(episode):
                    return episode
                # Its process may die: it is looked at again after the others.
                episodes.append(episode)
        return None

    def rank(self, scene: str) -> float:
        """Which scenes are begun first: those with most episodes left, so that none of them is left for last."""
        return -len(self._scenes[scene])

    def walked(self, episode: Episode) -> bool:
        """Whether somebody else has walked an episode by now."""
        return False

    def claim(self, episode: Episode) -> bool:
        """Whether an episode may be walked here; all may."""
        return True


class SharedEpisodes(EpisodeQueue):
    """Episodes of a run that any number of processes work on: each is walked by the one that claims it."""

    def __init__(
        self,
        episodes: Iterable[Episode],
        claims: Claims,
        reader: RecordReader,
        *,
        seen: Callable[[Record], None] = lambda _: None,
    ) -> None:
        """Episodes to share.

        Args:
            episodes: without those whose records `reader` has read.
            claims: of the run.
            reader: of its records.
            seen: called with the record of every episode that another process has walked.
        """
        super().__init__(episodes)
        self._claims = claims
        self._reader = reader
        self._seen = seen
        self._mine: set[str] = set()
        self._walked: set[str] = set()
        self._joins = bool(claims.others())

    def take(self, scene: str | None, busy: Collection[str] = ()) -> Episode | None:
        self._look()
        return super().take(scene, busy)

    def rank(self, scene: str) -> float:
        """A process that joins others begins with other scenes than theirs, so that few are loaded by all."""
        if not self._joins:
            return super().rank(scene)
        digest = hashlib.sha256(f"{self._claims.owner} {scene}".encode()).digest()
        return float(int.from_bytes(digest[:6], "big"))

    def walked(self, episode: Episode) -> bool:
        return episode.episode_id in self._walked

    def claim(self, episode: Episode) -> bool:
        """Whether nobody else is walking an episode, or has walked it."""
        if not self._claims.take(_name(episode)):
            return False
        # Once more, now that nobody else can be walking it.
        self._look()
        if self.walked(episode):
            self._claims.release(_name(episode))
            return False
        self._mine.add(episode.episode_id)
        return True

    def finish(self, episode: Episode) -> None:
        """Tell that the record of an episode that was taken is written."""
        self._claims.release(_name(episode))

    def _look(self) -> None:
        for record in self._reader.new():
            name = record["episode_id"]
            if name not in self._mine and name not in self._walked:
                self._walked.add(name)
                self._seen(record)


def _name(episode: Episode) -> str:
    """Name of an episode's claim."""
    return f"episode-{file_name(episode.episode_id)}"
