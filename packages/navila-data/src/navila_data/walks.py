"""Navigation data: walks through houses, labelled with what the expert would do at each point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from navila.actions import FORWARD, LEFT, MAX_RUN, RIGHT, STOP, answer_for_primitives, split_runs
from navila.simulation import Episode, ProceduralSimulator
from numpy.typing import NDArray

from navila_data.recording import Recorder, RecordSettings, SaveImage


@dataclass(frozen=True, kw_only=True)
class Step:
    """One point of a walk."""

    rgb: NDArray[np.uint8]
    """(H, W, 3), seen before the primitive."""
    expert: int
    """What the expert does here."""
    due: bool
    """Whether a decision was taken here; between two decisions an answer's primitives are worked off."""
    ahead: tuple[int, ...] = ()
    """What the expert would do after `expert`, where the walk went another way."""
    followed: bool = True
    """Whether the walk did what the expert does."""


class WalkRecorder(Recorder):
    """Records `{"video_id", "frames", "q", "a"}` in NaVILA-Dataset's format."""

    folder = "train"

    def __init__(self, settings: RecordSettings) -> None:
        self.settings = settings
        self.navigator = None if settings.policy == "expert" else load_navigator(settings.policy)

    def records(
        self, sim: ProceduralSimulator, episode: Episode, name: str, generator: np.random.Generator, save: SaveImage
    ) -> list[dict[str, Any]]:
        """Walk the episode; one record a step, whose answer is the expert's next run of equal primitives."""
        steps = self.walk(sim, episode, generator)
        frames = [save(f"frame_{number}", step.rgb) for number, step in enumerate(steps)]
        return [
            {
                "video_id": f"{name}-{number}",
                "frames": frames[: number + 1],
                "q": episode.instruction,
                "a": answer_for_primitives(expert_run(steps, number)),
            }
            for number, step in enumerate(steps)
            if step.due or self.settings.every_step
        ]

    def walk(self, sim: ProceduralSimulator, episode: Episode, generator: np.random.Generator) -> list[Step]:
        """Act until STOP or `max_steps`: the expert with random detours, or the policy."""
        goal = episode.goals[0]
        radius = self.settings.stop_distance
        radius = episode.goal_radius if radius is None else radius
        observation = sim.reset(episode)
        if self.navigator is not None:
            self.navigator.reset(episode.instruction)
        steps: list[Step] = []
        pending: list[int] = []
        while len(steps) < self.settings.max_steps:
            expert = sim.expert_action(goal, radius)
            due = not pending
            if self.navigator is None:
                if due and generator.random() < self.settings.perturb:
                    pending = detour(expert, generator)
                primitive = pending.pop(0) if pending else expert
            else:
                if due:
                    pending = list(self.navigator.act(observation.rgb).primitives)
                else:
                    self.navigator.observe(observation.rgb)
                primitive = pending.pop(0)
            # Where the walk leaves the expert's or is cut off, the expert's further way is looked up.
            followed = primitive == expert and len(steps) + 1 < self.settings.max_steps
            ahead = () if followed else look_ahead(sim, goal, radius)
            steps.append(Step(rgb=observation.rgb, expert=expert, due=due, ahead=ahead, followed=followed))
            # A policy that stops in the wrong place ends its episode there, as it would when it is scored.
            if primitive == STOP:
                break
            observation = sim.step(primitive)
        return steps if self.navigator is not None else mark_due(steps)


def detour(expert: int, generator: np.random.Generator) -> list[int]:
    """One to three equal primitives other than the expert's, and not STOP."""
    kinds = [kind for kind in (FORWARD, LEFT, RIGHT) if kind != expert]
    return [kinds[generator.integers(len(kinds))]] * int(generator.integers(1, MAX_RUN + 1))


def look_ahead(sim: ProceduralSimulator, goal: tuple[float, float, float], radius: float) -> tuple[int, ...]:
    """What the expert would do after its next primitive, as far as one answer reaches; the agent ends where it was."""
    state, rendering = sim.snapshot(), sim.render_images
    sim.render_images = False
    run = [sim.expert_action(goal, radius)]
    while len(run) < MAX_RUN and run[-1] == run[0] != STOP:
        sim.step(run[-1])
        run.append(sim.expert_action(goal, radius))
    sim.restore(state)
    sim.render_images = rendering
    return tuple(run[1:])


def expert_run(steps: Sequence[Step], start: int) -> tuple[int, ...]:
    """The expert's primitives from a point on, as far as the walk tells."""
    run: list[int] = []
    for step in steps[start : start + MAX_RUN]:
        run.append(step.expert)
        if not step.followed:
            return (*run, *step.ahead)
    return tuple(run)


def mark_due(steps: Sequence[Step]) -> list[Step]:
    """Mark where an expert that answers in runs would decide: after each run, and after each detour."""
    marked: list[Step] = []
    remaining = 0
    for number, step in enumerate(steps):
        due = remaining == 0 or (number > 0 and not steps[number - 1].followed)
        if due:
            remaining = len(split_runs(expert_run(steps, number))[0])
        remaining -= 1
        marked.append(replace(step, due=due))
    return marked


def load_navigator(policy: str) -> Any:
    """The checkpoint as a navigator."""
    import navila

    return navila.Navigator(navila.load(policy))
