"""How many tokens each sample of a mixture takes, counted once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from navila.errors import DataError
from numpy.typing import NDArray

from navila_data.mixture import Mixture, Part
from navila_data.processor import Processor
from navila_data.record_index import cache_folder, kept_array

Progress = Callable[[int, int], None]
#: Samples between two calls of the progress function.
EVERY = 1000


def token_lengths(
    mixture: Mixture, processor: Processor, progress: Progress = lambda done, total: None
) -> NDArray[np.int32]:
    """Tokens of every sample of a mixture, images expanded; 1 for a broken one, which is told when it is used.

    The counts of a dataset that says what it was read from (`Dataset.fingerprint`) are kept below the cache folder.
    """
    identity = processor.fingerprint()
    counted: dict[str, NDArray[np.int32]] = {}
    parts: list[NDArray[np.int32]] = []
    before = 0
    for number, part in enumerate(mixture.parts):
        kept = _kept(part, identity)
        key = kept or f"part {number}"
        if key not in counted:

            def count(part: Part = part, before: int = before) -> NDArray[np.int32]:
                return _count(part, processor, lambda done: progress(before + done, len(mixture)))

            counted[key] = kept_array(cache_folder() / "lengths" / f"{kept}.npy", count) if kept else count()
        parts.append(counted[key])
        before += len(part.indices)
    return np.concatenate(parts)


def _count(part: Part, processor: Processor, progress: Callable[[int], None]) -> NDArray[np.int32]:
    lengths = np.ones(len(part.indices), np.int32)
    for place, index in enumerate(part.indices):
        # The sample is broken: whoever trains on it counts it, and says why.
        with suppress(DataError):
            lengths[place] = processor.length(processor.encode(part.dataset[index]))
        if place % EVERY == 0:
            progress(place)
    progress(len(part.indices))
    return lengths


def _kept(part: Part, processor: str) -> str:
    """Name of the file that keeps the lengths, of all that they depend on; empty when the dataset does not say."""
    fingerprint = part.dataset.fingerprint()
    if not fingerprint:
        return ""
    facts = [
        fingerprint,
        processor,
        hashlib.sha256(np.asarray(part.indices, np.int64).tobytes()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
