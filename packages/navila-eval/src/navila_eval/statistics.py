"""How sure a mean is: seeded bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bootstrap_ci(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean (Efron, 1979); None without values."""
    if not values:
        return None
    data = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    # In blocks, so that thousands of episodes do not make an index of gigabytes.
    block = max(1, 2_000_000 // len(data))
    counts = [min(block, resamples - start) for start in range(0, resamples, block)]
    means = np.concatenate([data[rng.integers(0, len(data), (count, len(data)))].mean(axis=1) for count in counts])
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Mean of `first - second` over the same episodes, with its bootstrap interval.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"paired values must be equally many and at least one, got {len(first)} and {len(second)}")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = bootstrap_ci(differences, confidence=confidence, resamples=resamples, seed=seed)
    assert interval is not None
    return float(np.mean(differences)), interval
