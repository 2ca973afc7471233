"""Navigation data: walks through houses, labelled with what the expert would do at each point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from navila.actions import FORWARD, LEFT, MAX_RUN, RIGHT, STOP, answer_for_primitives
from navila.errors import SceneError
from navila.simulation import Episode, Observation, Simulator
from numpy.typing import NDArray

from navila_data.recording import Recorder, SaveImage, WalkSettings

if TYPE_CHECKING:
    from navila.navigator import Navigator


@dataclass(frozen=True, kw_only=True)
class Step:
    """One point of a walk."""

    rgb: NDArray[np.uint8]
    """(H, W, 3), seen before the primitive."""
    run: tuple[int, ...]
    """The equal primitives that the expert would take here, up to one answer's worth."""
    due: bool
    """Whether a decision was taken here; between two decisions an answer's primitives are worked off."""


#: Tells, at each point of a walk in turn, the run of equal primitives to take there; it sees through the simulator.
Expert = Callable[[Observation], tuple[int, ...]]


class WalkRecorder(Recorder):
    """Records `{"video_id", "frames", "q", "a"}` in NaVILA-Dataset's format."""

    folder = "train"

    def __init__(self, settings: WalkSettings) -> None:
        self.settings = settings
        self.navigator = None if settings.policy == "expert" else load_navigator(settings.policy)

    def records(
        self, sim: Simulator, episode: Episode, name: str, generator: np.random.Generator, save: SaveImage
    ) -> list[dict[str, Any]]:
        """Walk the episode; one record a step, whose answer is the expert's next run of equal primitives."""
        steps = self.walk(sim, episode, generator)
        frames = [save(f"frame_{number}", step.rgb) for number, step in enumerate(steps)]
        return [
            {
                "video_id": f"{name}-{number}",
                "frames": frames[: number + 1],
                "q": episode.instruction,
                "a": answer_for_primitives(step.run),
            }
            for number, step in enumerate(steps)
            if step.due or self.settings.every_step
        ]

    def walk(self, sim: Simulator, episode: Episode, generator: np.random.Generator) -> list[Step]:
        """Act until STOP or `max_steps`: the expert with random detours, or the policy."""
        observation = sim.reset(episode)
        expert = self.expert(sim, episode)
        if self.navigator is not None:
            self.navigator.reset(episode.instruction)
        steps: list[Step] = []
        pending: list[int] = []
        while len(steps) < self.settings.max_steps:
            run = expert(observation)
            due = not pending
            if due:
                pending = self.decide(run, observation.rgb, generator)
            elif self.navigator is not None:
                self.navigator.observe(observation.rgb)
            steps.append(Step(rgb=observation.rgb, run=run, due=due))
            primitive = pending.pop(0)
            # A policy that stops in the wrong place ends its episode there, as it would when it is scored.
            if primitive == STOP:
                break
            observation = sim.step(primitive)
        return steps

    def expert(self, sim: Simulator, episode: Episode) -> Expert:
        """The expert of the walk that begins."""
        radius = self.settings.stop_distance
        radius = episode.goal_radius if radius is None else radius
        return lambda _: sim.expert_run(episode.goals, radius, MAX_RUN)

    def decide(self, run: Sequence[int], rgb: NDArray[np.uint8], generator: np.random.Generator) -> list[int]:
        """The next primitives: the policy's, or the expert's, but for random detours."""
        # A policy sees the frame whoever acts on it.
        said = run if self.navigator is None else self.navigator.act(rgb).primitives
        perturb, share = self.settings.perturb, self.settings.expert_share
        if perturb and generator.random() < perturb:
            return detour(run[0], generator)
        return list(run if share and generator.random() < share else said)


def leading(expert: Expert, sim: Simulator, episode: Episode) -> Expert:
    """The expert, which tells where it is stuck instead of calling that a stop.

    Raises:
        SceneError: when asked, it finds no way on.
    """

    def run(observation: Observation) -> tuple[int, ...]:
        primitives = expert(observation)
        if primitives == (STOP,):
            left = sim.geodesic(observation.position, episode.goals)
            if left > episode.goal_radius:
                raise SceneError(
                    f"The expert of episode {episode.episode_id!r} is stuck {left:.1f} m before its goal in "
                    f"{episode.scene_id!r}: leave the episode out, or use --skip-misfits."
                )
        return primitives

    return run


def detour(expert: int, generator: np.random.Generator) -> list[int]:
    """One to three equal primitives other than the expert's, and not STOP."""
    kinds = [kind for kind in (FORWARD, LEFT, RIGHT) if kind != expert]
    return [kinds[generator.integers(len(kinds))]] * int(generator.integers(1, MAX_RUN + 1))


def load_navigator(policy: str) -> Navigator:
    """The checkpoint as a navigator.

    Raises:
        CheckpointError: there is no whole checkpoint of that name.
    """
    import navila
    from navila.model.location import checkpoint_folder, read_root

    # Before torch is imported, so that a wrong path is told at once.
    read_root(checkpoint_folder(policy))
    return navila.Navigator(navila.load(policy))
