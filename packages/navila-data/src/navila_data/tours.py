"""Tours: walks from landmark to landmark of a room, every point labelled for every landmark one could be sent to.

The same frames under different instructions ask for different actions, so the only way to lower the loss is to read the
instruction and look; imitation of single walks lets a model infer its goal from how it has moved so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from navila.actions import FORWARD, LEFT, MAX_RUN, RIGHT, STOP, answer_for_primitives
from navila.simulation import Episode, Landmark, ProceduralSimulator, Simulator

from navila_data.recording import SaveImage, procedural
from navila_data.walks import WalkRecorder

#: Share of the image from which a landmark counts as seen.
SEEN = 0.002
#: Who does not see the landmark turns left until it comes into view: what to do must follow from what is seen.
SEARCH = (LEFT,) * MAX_RUN
#: Share of the points that do not see a landmark which are kept for it; they all have the same answer.
UNSEEN_SHARE = 0.2


class TourRecorder(WalkRecorder):
    """Records several `{"video_id", "frames", "q", "a"}` a point, one a landmark of the room."""

    def records(
        self, sim: Simulator, episode: Episode, name: str, generator: np.random.Generator, save: SaveImage
    ) -> list[dict[str, Any]]:
        """Walk `max_steps` primitives, choosing another landmark whenever one is reached."""
        sim = procedural(sim)
        names = [episode.info["landmark"], *episode.info["other_landmarks"]]
        radius = self.settings.stop_distance or episode.goal_radius
        observation = sim.reset(episode)
        frames: list[str] = []
        records: list[dict[str, Any]] = []
        target = ""
        pending: list[int] = []
        for number in range(self.settings.max_steps):
            tasks = {mark: sim.retarget(episode, mark, seed=int(generator.integers(2**31))) for mark in names}
            marks = {mark.name: mark for mark in sim.landmarks()}
            runs = {landmark: labels(sim, marks[landmark], task, radius) for landmark, task in tasks.items()}
            frames.append(save(f"frame_{number}", observation.rgb))
            for landmark, run in runs.items():
                if run != SEARCH or generator.random() < UNSEEN_SHARE:
                    question = (
                        episode.instruction if landmark == episode.info["landmark"] else tasks[landmark].instruction
                    )
                    answer = answer_for_primitives(run)
                    records.append({"video_id": f"{name}-{number}", "frames": list(frames), "q": question, "a": answer})
            if not target or runs[target] == (STOP,):
                target, pending = another(names, runs, generator), []
                if self.navigator is not None:
                    self.navigator.reset(tasks[target].instruction)
            if not pending:
                pending = self.decide(runs[target], observation.rgb, generator)
            elif self.navigator is not None:
                self.navigator.observe(observation.rgb)
            observation = sim.step(pending.pop(0))
        return records

    def decide(self, run: Sequence[int], rgb: Any, generator: np.random.Generator) -> list[int]:
        """The next primitives: the policy's or the expert's, with random detours; never STOP, a tour goes on."""
        if generator.random() < self.settings.perturb:
            return [int(generator.choice((FORWARD, LEFT, RIGHT)))] * int(generator.integers(1, MAX_RUN + 1))
        if self.navigator is not None:
            run = self.navigator.act(rgb).primitives
        # One primitive at a time gives the expert's tour a decision at every frame.
        walked = [primitive for primitive in run if primitive != STOP]
        if not walked:
            return [int(generator.choice((FORWARD, LEFT, RIGHT)))]
        return walked if self.navigator is not None else walked[:1]


def labels(sim: ProceduralSimulator, mark: Landmark, task: Episode, radius: float) -> tuple[int, ...]:
    """What to do about a landmark from here: search while it is out of view, else the expert's next run."""
    out_of_view = abs(mark.bearing) > 0.43 * sim.embodiment.hfov and mark.visible_fraction < SEEN
    if out_of_view or not task.goals:
        return SEARCH
    return sim.expert_run(task.goals, radius, MAX_RUN)


def another(names: Sequence[str], runs: Mapping[str, tuple[int, ...]], generator: np.random.Generator) -> str:
    """A landmark that has not been reached, if there is one."""
    left = [name for name in names if runs[name] != (STOP,)] or list(names)
    return left[int(generator.integers(len(left)))]
