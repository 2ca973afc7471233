"""Many environments, one agent: the loop every closed-loop benchmark runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal

from navila.simulation import Episode, Observation, Simulator

from navila_eval.agents import Agent
from navila_eval.claims import PAUSE
from navila_eval.episode_queue import EpisodeQueue
from navila_eval.pictures import Keeper
from navila_eval.simulator_process import SimulatorProcess, told
from navila_eval.walk import Walk, attempt


def run_episodes(
    agent: Agent[Any],
    episodes: EpisodeQueue,
    simulators: Sequence[Simulator],
    *,
    max_steps: int,
    success_distance: Callable[[Episode], float],
    on_finish: Callable[[Walk], None],
    keepers: Sequence[Keeper] = (),
) -> None:
    """Walk all episodes, one in each simulator at a time, and hand over each walk as it ends.

    In every round the agent decides for all walks at once, then each executes its whole action: so the model's batch is
    as large as there are simulators. Those in processes of their own move side by side. A walk depends on its episode
    and the agent alone, not on what runs beside it.

    Args:
        episodes: to walk; what other processes walk in the meantime leaves it.
        max_steps: primitives after which a walk ends as a time-out.
        success_distance: metres to the goal under which a stop succeeds, per episode.
        on_finish: called with each walk, in the order of finishing.
        keepers: told of each walk as it goes on.

    Raises:
        SimulatorUnavailable: a simulator cannot be started again.
    """
    for simulator in simulators:
        simulator.render_images = agent.needs_images or any(keeper.needs_images for keeper in keepers)

    def make_walk(episode: Episode, simulator: Simulator) -> Walk:
        return Walk(episode, simulator, agent.instruction(episode), max_steps, success_distance(episode))

    loop = _Loop(agent, episodes, simulators, keepers, make_walk, on_finish)
    try:
        loop.run()
    finally:
        # Whoever closes the simulators ends what still moves in them.
        loop.executor.shutdown(wait=False, cancel_futures=True)


@dataclass(eq=False)
class _Turn:
    """A walk, what its simulator is doing, and what its agent knows and sees."""

    number: int
    walk: Walk
    doing: Literal["start", "move", "finish"] = "start"
    state: Any = None
    observation: Observation | None = None


class _Loop:
    """Rounds of decisions between which simulators move."""

    def __init__(
        self,
        agent: Agent[Any],
        queue: EpisodeQueue,
        simulators: Sequence[Simulator],
        keepers: Sequence[Keeper],
        make_walk: Callable[[Episode, Simulator], Walk],
        on_finish: Callable[[Walk], None],
    ) -> None:
        self.agent = agent
        self.queue = queue
        self.idle = list(simulators)
        self.keepers = keepers
        self.make_walk = make_walk
        self.on_finish = on_finish
        # Simulators in this process may share what they have loaded, so they take turns.
        apart = all(isinstance(simulator, SimulatorProcess) for simulator in simulators)
        self.executor: Executor = ThreadPoolExecutor(len(simulators)) if apart else _Here()
        self.scene_of: dict[int, str] = {}
        self.moving: dict[Future[list[Observation]], _Turn] = {}
        self.ready: list[_Turn] = []
        self.begun = 0
        # Seconds a round waits for walks that are not ready for it: as long as the last decision took, so that waiting
        # never costs more than deciding for them apart would.
        self.patience = 1.0
        self.deadline = 0.0

    def run(self) -> None:
        while len(self.queue) or self.moving or self.ready:
            while self.idle and len(self.queue) and self.begin():
                pass
            if not self.moving and not self.ready:
                # Other processes have all that is left, and may leave some of it.
                time.sleep(PAUSE if len(self.queue) else 0)
                continue
            self.collect()
            waited = not self.moving or time.monotonic() >= self.deadline
            if self.ready and waited and not any(future.done() for future in self.moving):
                self.decide()

    def begin(self) -> bool:
        """Start the next episode, in a simulator that has its scene if there is one; False when none is to be had."""
        busy = {turn.walk.episode.scene_id for turn in (*self.moving.values(), *self.ready)}
        loaded = [self.scene_of.get(id(simulator)) for simulator in self.idle]
        place = next((i for i, scene in enumerate(loaded) if self.queue.has(scene)), 0)
        episode = self.queue.take(loaded[place], busy)
        if episode is None:
            return False
        simulator = self.idle.pop(place)
        self.scene_of[id(simulator)] = episode.scene_id
        turn = _Turn(self.begun, self.make_walk(episode, simulator))
        self.begun += 1
        self.submit(turn, lambda: _start(turn.walk, self.keepers))
        return True

    def submit(self, turn: _Turn, task: Callable[[], list[Observation]]) -> None:
        self.moving[self.executor.submit(task)] = turn

    def collect(self) -> None:
        """Take back the walks whose simulators are done; wait for one, while those that are ready are patient."""
        patience = max(0.0, self.deadline - time.monotonic()) if self.ready else None
        wait(self.moving, timeout=patience, return_when=FIRST_COMPLETED)
        done = [future for future in self.moving if future.done()]
        for future in done:
            turn = self.moving.pop(future)
            self.take_back(turn, future.result())

    def take_back(self, turn: _Turn, seen: Sequence[Observation]) -> None:
        walk = turn.walk
        if turn.doing == "finish":
            self.idle.append(walk.simulator)
            self.on_finish(walk)
            return
        if turn.doing == "start" and seen:
            turn.state = self.agent.begin(walk.episode, walk.simulator)
        # The last image is for the next decision; those before it were seen before a queued primitive.
        for observation in seen[:-1]:
            self.agent.observe(turn.state, observation)
        if seen:
            turn.observation = seen[-1]
        if walk.over:
            self.finish(turn)
            return
        if not self.ready:
            self.deadline = time.monotonic() + self.patience
        self.ready.append(turn)

    def finish(self, turn: _Turn) -> None:
        turn.doing = "finish"
        self.submit(turn, lambda: _finish(turn.walk, self.keepers))

    def decide(self) -> None:
        """Let the agent decide for all walks that are ready, and set them moving."""
        turns, self.ready = sorted(self.ready, key=lambda turn: turn.number), []
        began = time.monotonic()
        actions = self.agent.act([turn.state for turn in turns], [_seen(turn) for turn in turns])
        self.patience = time.monotonic() - began
        for turn, action in zip(turns, actions, strict=True):
            turn.walk.timing.decided(self.patience, len(turns))
            if isinstance(action, Exception):
                turn.walk.error = told(action)
                self.finish(turn)
                continue
            turn.doing = "move"
            self.submit(turn, lambda turn=turn, action=action: _move(turn.walk, action, _seen(turn), self.keepers))


def _seen(turn: _Turn) -> Observation:
    assert turn.observation is not None
    return turn.observation


def _start(walk: Walk, keepers: Sequence[Keeper]) -> list[Observation]:
    observation = attempt(walk, walk.start)
    if observation is None:
        return []
    for keeper in keepers:
        keeper.start(walk)
        keeper.moved(walk, [observation])
    return [observation]


def _move(walk: Walk, action: Any, observation: Observation, keepers: Sequence[Keeper]) -> list[Observation]:
    for keeper in keepers:
        keeper.decision(walk, observation)
    seen = attempt(walk, lambda: walk.execute(action)) or []
    for keeper in keepers:
        keeper.moved(walk, seen)
    return seen


def _finish(walk: Walk, keepers: Sequence[Keeper]) -> list[Observation]:
    if walk.error is None:
        attempt(walk, walk.measure)
    for keeper in keepers:
        keeper.finish(walk)
    return []


class _Here(Executor):
    """Runs what it is given at once, in this thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
