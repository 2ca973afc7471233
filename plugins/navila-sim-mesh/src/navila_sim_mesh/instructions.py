"""Instructions of procedural episodes: templates filled by seed."""

from __future__ import annotations

import numpy as np

IN_VIEW = (
    "Go to the {target}.",
    "Walk to the {target} and stop.",
    "Stop next to the {target}.",
    "Move to the {target} and stop in front of it.",
    "Head over to the {target}.",
    "Approach the {target} and wait there.",
)
SAME_ROOM = (
    "Find the {target} in this room and walk to it.",
    "Look around for the {target} and stop next to it.",
    "Turn until you see the {target}, then go to it.",
    "Go to the {target} in this room.",
    "Somewhere in this room is a {target}. Walk to it and stop.",
    "Walk to the {target} and stop beside it.",
)


def pick(rng: np.random.Generator, templates: tuple[str, ...], **words: str) -> str:
    """One of `templates`, filled with `words`."""
    return templates[int(rng.integers(len(templates)))].format(**words)
