"""Who walks what is on record: checks of simulator, episodes and scoring with nobody's decisions in them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from navila.actions import STOP, Action, answer_for_primitives, parse
from navila.errors import DataError
from navila.simulation import Episode, Observation, Position, Simulator

from navila_eval.agents import Agent, StateT

#: Metres to a way point at which the next one counts; VLN-CE's own expert comes as near to its goal.
WAY_POINT_RADIUS = 0.5


class _StepByStep(Agent[StateT]):
    """One primitive a decision, without looking."""

    needs_images = False

    def act(self, states: Sequence[StateT], observations: Sequence[Observation]) -> Sequence[Action | Exception]:
        return [self._said(state) for state in states]

    def _said(self, state: StateT) -> Action | Exception:
        try:
            return parse(answer_for_primitives((self.primitive(state),)))
        except Exception as error:
            return error

    @abstractmethod
    def primitive(self, state: StateT) -> int:
        """What to execute next."""


class ReplayAgent(_StepByStep[Iterator[int]]):
    """Executes the actions recorded with the episode, as `_gt` files have them: where a simulator moves as the one they
    were recorded in, they succeed."""

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


class ReferenceAgent(_StepByStep[_Route]):
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
