"""How sure a mean is: seeded bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

#: Share of all draws that lie within an interval, and the percentiles between which that is.
CONFIDENCE = 0.95
_TAIL = 100 * (1 - CONFIDENCE) / 2
_TAILS = (_TAIL, 100 - _TAIL)


def bootstrap_ci(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean (Efron, 1979); None without values."""
    if not values:
        return None
    data = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    # In blocks, so that thousands of episodes do not make an index of gigabytes.
    block = max(1, 2_000_000 // len(data))
    counts = [min(block, resamples - start) for start in range(0, resamples, block)]
    means = np.concatenate([data[rng.integers(0, len(data), (count, len(data)))].mean(axis=1) for count in counts])
    low, high = np.percentile(means, _TAILS)
    return float(low), float(high)


def bootstrap_statistic(
    count: int, statistic: Callable[[NDArray[np.intp]], float], *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a figure that is no mean, such as F1 or BLEU; None without samples.

    Args:
        count: how many samples there are.
        statistic: the figure of a draw of them, from their indices (count,), some more than once.
        resamples: how many draws.
        seed: of the draws.
    """
    if not count:
        return None
    return bootstrap_statistics(count, lambda rows: {"": statistic(rows)}, resamples=resamples, seed=seed)[""]


def bootstrap_statistics(
    count: int,
    statistics: Callable[[NDArray[np.intp]], Mapping[str, float]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """`bootstrap_statistic` of several figures at once, from the same draws; `count` is at least 1."""
    rng = np.random.default_rng(seed)
    draws = [statistics(rng.integers(0, count, count)) for _ in range(resamples)]
    intervals = {}
    for name in draws[0]:
        low, high = np.percentile([draw[name] for draw in draws], _TAILS)
        intervals[name] = (float(low), float(high))
    return intervals


def bootstrap_sums(
    rows: Sequence[Sequence[float]], figures: Callable[[list[float]], Mapping[str, float]]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of figures that follow from sums over samples, such as BLEU.

    Args:
        rows: what each sample adds, (N, K), at least one.
        figures: by name, of K sums.
    """
    table = np.asarray(rows, float)
    return bootstrap_statistics(len(table), lambda drawn: figures(table[drawn].sum(axis=0).tolist()))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of `first - second` over the same episodes, with its 95 % bootstrap interval.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"paired values must be equally many and at least one, got {len(first)} and {len(second)}")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = bootstrap_ci(differences)
    assert interval is not None
    return float(np.mean(differences)), interval
