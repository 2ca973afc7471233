"""How often an epoch sees the actions of navigation steps: rare ones more than once, as the release's duplicates do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import numpy as np
from navila.actions import KINDS
from navila.errors import ConfigError
from numpy.typing import NDArray

from navila_data.dataset import Dataset
from navila_data.record_index import cache_folder, kept_array

AUTO = "auto"
#: `auto` shows no sample more often: a handful of stops seen a hundred times would be learned by heart.
AUTO_MOST = 5.0
#: Records between two calls of the progress function.
EVERY = 10_000

#: Called with how many records are read, and of how many.
Progress = Callable[[int, int], None]


def parse_weights(text: str) -> Mapping[str, float] | None:
    """How often each action is seen, from `stop=5,left=1.5`; None for `auto`.

    Raises:
        ConfigError: the text is malformed.
    """
    if text.strip() == AUTO:
        return None
    weights: dict[str, float] = {}
    for part in text.split(","):
        label, _, number = (piece.strip() for piece in part.partition("="))
        try:
            weights[label] = float(number)
        except ValueError:
            weights[label] = math.nan
        if label not in KINDS or not 0 < weights[label] < math.inf:
            raise ConfigError(
                f'"{part.strip()}" in the balance of actions {text!r}: write {AUTO}, or ACTION=TIMES with actions of '
                f"{', '.join(KINDS)} and times above 0, as in stop=5,left=1.5."
            )
    return weights


def weights_of(weights: Mapping[str, float] | None, labels: Sequence[str]) -> Mapping[str, float]:
    """The weights themselves; without any, those that make actions as frequent as the commonest, up to `AUTO_MOST`."""
    if weights is not None:
        return weights
    counts = Counter(label for label in labels if label)
    return {label: min(max(counts.values()) / count, AUTO_MOST) for label, count in counts.items()}


def labels_of(dataset: Dataset, progress: Progress = lambda done, total: None) -> NDArray[np.str_]:
    """The label of every record, (N,); kept below the cache folder for a dataset that says what it was read from."""
    if type(dataset).label is Dataset.label:
        return np.full(len(dataset), "", dtype=np.str_)
    fingerprint = dataset.fingerprint()

    def read() -> NDArray[np.str_]:
        found = []
        for index in range(len(dataset)):
            found.append(dataset.label(index))
            if len(found) % EVERY == 0:
                progress(len(found), len(dataset))
        progress(len(found), len(dataset))
        return np.array(found, dtype=np.str_)

    if not fingerprint:
        return read()
    return kept_array(cache_folder() / "labels" / f"{sha256(fingerprint.encode()).hexdigest()[:32]}.npy", read)
