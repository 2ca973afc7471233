"""Grounding data: questions about what a view shows, answered from the simulator's own landmarks.

Imitation alone lets a small model read the goal from its own past motion and never look; these questions make it tie
colours, shapes and sides to words first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from navila.errors import SceneError
from navila.simulation import STRIPS, Episode, Landmark, Position, Rotation, Simulator

from navila_data.procedural import RecordSettings
from navila_data.recording import Recorder, SaveImage, procedural

#: Share of the image above which a landmark counts as seen; between 0 and it nothing is asked.
SEEN = 0.004
#: Share of a strip above which the landmark that fills it most is named in a scan.
STRIP_SEEN = 0.026
#: Degrees to either side that count as ahead, and as the centre of the image.
AHEAD = 7.5
CENTRE = 15.0


class GroundingRecorder(Recorder):
    """Records `{"id", "image", "conversations"}` in LLaVA's format, one question about one image a record."""

    folder = "images"

    def __init__(self, settings: RecordSettings) -> None:
        self.settings = settings

    def records(
        self, sim: Simulator, episode: Episode, name: str, generator: np.random.Generator, save: SaveImage
    ) -> list[dict[str, Any]]:
        """Look around from random points of the episode's route, in random directions."""
        sim = procedural(sim)
        route = episode.reference_path or (episode.start_position,)
        records = []
        for number in range(self.settings.views):
            view = replace(
                episode,
                start_position=point_on(route, generator.random()),
                start_rotation=facing(generator.uniform(-180, 180)),
            )
            try:
                observation = sim.reset(view)
            except SceneError:
                # A point between two way points may lie too close to an obstacle to stand on.
                observation = sim.reset(replace(view, start_position=episode.start_position))
            questions = ask(sim.landmarks(), generator, self.settings.questions)
            if not questions:
                continue
            image = save(f"view_{number}", observation.rgb)
            # A record a question: in one conversation, later answers could be read off earlier ones.
            for k, (question, answer) in enumerate(questions):
                conversation = [
                    {"from": "human", "value": f"<image>\n{question}"},
                    {"from": "gpt", "value": answer},
                ]
                image_path = f"{self.folder}/{image}"
                records.append({"id": f"{name}-{number}-{k}", "image": image_path, "conversations": conversation})
        return records


def ask(landmarks: Sequence[Landmark], generator: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Up to `count` different (question, answer) pairs about one view: a scan, then the kinds in balance, shuffled."""
    seen = [mark for mark in landmarks if mark.visible_fraction >= SEEN]
    unseen = [mark for mark in landmarks if mark.visible_fraction == 0]
    # A name that two landmarks share has no single answer.
    names = [mark.name for mark in landmarks]
    seen_once = [mark for mark in seen if names.count(mark.name) == 1]
    unseen_once = [mark for mark in unseen if names.count(mark.name) == 1]
    kinds = [
        [(f"Where is the {mark.name}?", where(mark)) for mark in seen_once],
        [(f"Where is the {mark.name}?", "It is not in view.") for mark in unseen_once],
        [(f"How far is the {mark.name}?", how_far(mark)) for mark in seen_once],
        [(f"Is there {one(mark)} in view?", "Yes.") for mark in seen],
        [(f"Is there {one(mark)} in view?", "No.") for mark in unseen if mark.name not in {m.name for m in seen}],
        [(f"What colour is the {mark.shape}?", f"{mark.colour.capitalize()}.") for mark in _only_of_shape(seen)],
        sides(seen),
    ]
    # Every word of the scan is learned, so it teaches an untrained encoder fastest what stands where.
    questions = [scan(landmarks)] if count else []
    pools = [[kind[i] for i in generator.permutation(len(kind)).tolist()] for kind in kinds if kind]
    while len(questions) < count and any(pools):
        for number in generator.permutation(len(pools)).tolist():
            if pools[number] and len(questions) < count:
                questions.append(pools[number].pop())
    return questions


def scan(landmarks: Sequence[Landmark]) -> tuple[str, str]:
    """What fills each vertical strip of the image most, from left to right."""
    words = []
    for strip in range(STRIPS):
        mark = max(landmarks, key=lambda mark: mark.strips[strip], default=None)
        words.append(mark.name if mark is not None and mark.strips[strip] >= STRIP_SEEN else "nothing")
    return "What is there from left to right?", f"{', '.join(words)}."


def one(mark: Landmark) -> str:
    """The name with its article."""
    return f"{'an' if mark.name[0] in 'aeiou' else 'a'} {mark.name}"


def where(mark: Landmark) -> str:
    """Side and bearing, rounded to 15 degrees as the agent turns."""
    if abs(mark.bearing) <= AHEAD:
        return "It is ahead."
    degrees = max(15, 15 * round(abs(mark.bearing) / 15))
    return f"It is {degrees} degrees to the {'left' if mark.bearing > 0 else 'right'}."


def how_far(mark: Landmark) -> str:
    """Distance in metres: to half a metre up to three, to a metre beyond."""
    step = 0.5 if mark.distance < 3 else 1.0
    return f"About {max(step, step * round(mark.distance / step)):g} m."


def sides(seen: Sequence[Landmark]) -> list[tuple[str, str]]:
    """What stands left, in the centre and right, where that is one thing or none."""
    areas = {
        "on the left": [mark for mark in seen if mark.bearing > CENTRE],
        "in the centre": [mark for mark in seen if abs(mark.bearing) <= CENTRE],
        "on the right": [mark for mark in seen if mark.bearing < -CENTRE],
    }
    return [
        (f"What is {area}?", f"{one(marks[0]).capitalize()}." if marks else "Nothing.")
        for area, marks in areas.items()
        if len(marks) <= 1
    ]


def _only_of_shape(seen: Sequence[Landmark]) -> list[Landmark]:
    shapes = [mark.shape for mark in seen]
    return [mark for mark in seen if shapes.count(mark.shape) == 1]


def point_on(path: Sequence[Position], share: float) -> Position:
    """The point that lies `share` (0 to 1) of the way along a path."""
    lengths = [math.dist(a, b) for a, b in pairwise(path)]
    left = share * sum(lengths)
    for (start, end), length in zip(pairwise(path), lengths, strict=True):
        if left <= length and length > 0:
            t = left / length
            x, y, z = (a + t * (b - a) for a, b in zip(start, end, strict=True))
            return (x, y, z)
        left -= length
    return path[-1]


def facing(yaw: float) -> Rotation:
    """The rotation about the vertical of an agent turned left by `yaw` degrees from -z."""
    half = math.radians(yaw) / 2
    return (0.0, math.sin(half), 0.0, math.cos(half))
