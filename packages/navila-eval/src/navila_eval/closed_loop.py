"""Many environments, one agent: the loop every closed-loop benchmark runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from navila.simulation import Episode, Observation, Simulator

from navila_eval.agents import Agent
from navila_eval.walk import Record, Walk, attempt


class Keeper(Protocol):
    """Keeps pictures of walks for a report."""

    def start(self, walk: Walk) -> None: ...
    def decision(self, walk: Walk, observation: Observation) -> None: ...


@dataclass(eq=False)
class _Turn:
    """A walk, what its agent knows, and what it sees now."""

    walk: Walk
    state: Any
    observation: Observation


def run_episodes(
    agent: Agent[Any],
    episodes: Iterable[Episode],
    simulators: Sequence[Simulator],
    *,
    max_steps: int,
    success_distance: Callable[[Episode], float],
    on_finish: Callable[[Record], None],
    keeper: Keeper | None = None,
) -> None:
    """Walk all episodes, one in each simulator at a time, and hand over a record of each as it ends.

    In every round the agent decides for all walks at once, then each executes its whole action: so the model's batch is
    as large as there are simulators. A walk depends on its episode and the agent alone, not on what runs beside it.

    Args:
        max_steps: primitives after which a walk ends as a time-out.
        success_distance: metres to the goal under which a stop succeeds, per episode.
        on_finish: called with each record, in the order of finishing.
        keeper: is shown every image at which a decision was made.
    """
    waiting = deque(episodes)
    idle = list(simulators)
    scene_of: dict[int, str] = {}
    turns: list[_Turn] = []
    for simulator in simulators:
        simulator.render_images = agent.needs_images
    while waiting or turns:
        while waiting and idle:
            episode = waiting.popleft()
            # A simulator that has the scene already need not load it again.
            simulator = next((s for s in idle if scene_of.get(id(s)) == episode.scene_id), idle[0])
            idle.remove(simulator)
            scene_of[id(simulator)] = episode.scene_id
            walk = Walk(episode, simulator, agent.instruction(episode), max_steps, success_distance(episode))
            observation = attempt(walk, walk.start)
            if observation is None:
                idle.append(simulator)
                on_finish(walk.record())
                continue
            if keeper:
                keeper.start(walk)
            turns.append(_Turn(walk, agent.begin(episode, simulator), observation))
        if not turns:
            continue
        actions = agent.act([turn.state for turn in turns], [turn.observation for turn in turns])
        for turn, action in zip(turns, actions, strict=True):
            if keeper:
                keeper.decision(turn.walk, turn.observation)
            seen = attempt(turn.walk, lambda turn=turn, action=action: turn.walk.execute(action)) or []
            # The last image is for the next decision; those before it were seen before a queued primitive.
            for observation in seen[:-1]:
                agent.observe(turn.state, observation)
            if seen:
                turn.observation = seen[-1]
        for turn in [turn for turn in turns if turn.walk.over]:
            attempt(turn.walk, turn.walk.measure)
            turns.remove(turn)
            idle.append(turn.walk.simulator)
            on_finish(turn.walk.record())
