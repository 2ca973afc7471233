"""How many tokens each sample of a mixture takes, counted once and kept."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from navila.errors import DataError
from navila.files import write_atomically
from numpy.typing import NDArray

from navila_data.mixture import Mixture, Part
from navila_data.processor import Processor
from navila_data.record_index import cache_folder

Progress = Callable[[int, int], None]
#: Samples between two calls of the progress function.
EVERY = 1000


def token_lengths(
    mixture: Mixture, processor: Processor, progress: Progress = lambda done, total: None
) -> NDArray[np.int32]:
    """Tokens of every sample of a mixture, images expanded; 1 for a broken one, which is told when it is used.

    The counts of a dataset that says what it was read from (`Dataset.fingerprint`) are kept below the cache folder.
    """
    counted: dict[str, NDArray[np.int32]] = {}
    parts = []
    for number, part in enumerate(mixture.parts):
        before = sum(len(done) for done in parts)
        key = _key(part, processor) or f"part {number}"
        if key not in counted:
            counted[key] = _kept_or_counted(
                key, part, processor, lambda done, before=before: progress(before + done, len(mixture))
            )
        parts.append(counted[key])
    return np.concatenate(parts)


def _kept_or_counted(key: str, part: Part, processor: Processor, progress: Callable[[int], None]) -> NDArray[np.int32]:
    path = cache_folder() / "lengths" / f"{key}.npy"
    if part.dataset.fingerprint():
        with suppress(OSError, ValueError):
            return np.load(path)
    lengths = np.ones(len(part.indices), np.int32)
    for place, index in enumerate(part.indices):
        # The sample is broken: whoever trains on it counts it, and says why.
        with suppress(DataError):
            lengths[place] = processor.length(processor.encode(part.dataset[index]))
        if place % EVERY == 0:
            progress(place)
    progress(len(part.indices))
    if part.dataset.fingerprint():
        content = io.BytesIO()
        np.save(content, lengths)
        with suppress(OSError):
            write_atomically(path, content.getvalue())
    return lengths


def _key(part: Part, processor: Processor) -> str:
    """What the lengths depend on, as a file name; empty when the dataset does not say."""
    fingerprint = part.dataset.fingerprint()
    if not fingerprint:
        return ""
    facts = [
        fingerprint,
        processor.fingerprint(),
        hashlib.sha256(np.asarray(part.indices, np.int64).tobytes()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
