"""How often an epoch sees the actions of navigation steps: rare ones more than once, as the release's duplicates do."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256

import numpy as np
from navila.actions import KINDS, parse
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


def rebalanced(lines: Callable[[], Iterable[str]], balance: str, seed: int) -> Iterator[str]:
    """Records of navigation as lines of JSON, those of rare actions several times in a row, as the release has them.

    Args:
        lines: gives the records anew at each call.
        balance: as `parse_weights` takes it; empty for every record once.
        seed: of the choice of records for weights that are no whole numbers.
    """
    if not balance:
        yield from lines()
        return
    weights = parse_weights(balance)
    if weights is None:
        weights = weights_of(None, [_kind(line) for line in lines()])
    for number, line in enumerate(lines()):
        weight = weights.get(_kind(line), 1.0)
        whole = math.floor(weight)
        more = np.random.default_rng([seed, number]).random() < weight - whole
        yield from [line] * (whole + int(more))


def _kind(line: str) -> str:
    """The action that a record is answered with; empty where it is none."""
    action = parse(json.loads(line).get("a", ""))
    return "" if action.status == "unparsed" else action.kind
