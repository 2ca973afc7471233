"""Agents that walk what is on record, so that simulator, episodes and scoring can be checked without a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from navila.actions import STOP
from navila.errors import DataError
from navila.simulation import Episode, Position, Simulator

from navila_eval.agents import PrimitiveAgent

#: Metres to a way point at which the next one counts; VLN-CE's own expert comes as near to its goal.
WAY_POINT_RADIUS = 0.5


class ReplayAgent(PrimitiveAgent[Iterator[int]]):
    """Executes the actions recorded with the episode, as `_gt` files have them.

    They succeed in a simulator that moves like the one they were recorded in.
    """

    name = "replay"

    def begin(self, episode: Episode, simulator: Simulator) -> Iterator[int]:
        return self._actions(episode)

    def primitive(self, state: Iterator[int]) -> int:
        return next(state)

    def _actions(self, episode: Episode) -> Iterator[int]:
        if not episode.info.get("gt_actions"):
            raise DataError(f"Episode {episode.episode_id} has no recorded actions: use the agent reference or expert.")
        # RxR's actions 4 and 5 look up and down, which no task here goes by.
        yield from (action for action in episode.info["gt_actions"] if action not in (4, 5))
        while True:
            yield STOP


@dataclass
class _Route:
    simulator: Simulator
    ahead: list[Position]


class ReferenceAgent(PrimitiveAgent[_Route]):
    """The simulator's expert from way point to way point of the path that the instruction describes, to its end."""

    name = "reference"

    def begin(self, episode: Episode, simulator: Simulator) -> _Route:
        return _Route(simulator, [*episode.reference_path, *episode.goals[:1]])

    def primitive(self, state: _Route) -> int:
        while state.ahead:
            primitive = state.simulator.expert_action(state.ahead[0], WAY_POINT_RADIUS)
            if primitive != STOP:
                return primitive
            state.ahead.pop(0)
        return STOP
