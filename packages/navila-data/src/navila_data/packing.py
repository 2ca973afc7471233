"""Which samples share a row or a batch, by their lengths, over windows of an epoch's order."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

#: Samples among which rows are put together. More pack hardly better, and would sort the epoch by length.
WINDOW = 2048


def pack(order: Sequence[int], lengths: Sequence[int], budget: int, *, seed: int = 0) -> list[list[int]]:
    """Put samples into rows of at most `budget` tokens, every sample into exactly one.

    Within a window each sample, the longest first, goes into the fullest row that still takes it (best-fit decreasing);
    a sample longer than the budget has a row of its own. Rows keep the order of their samples, and the rows of a window
    are shuffled: they come out sorted by length.

    Args:
        order: numbers of samples as the epoch visits them.
        lengths: tokens of each sample, by its number.
        budget: tokens of a row.
        seed: of the order of the rows.
    """
    generator = np.random.default_rng(seed)
    rows: list[list[int]] = []
    for first in range(0, len(order), WINDOW):
        packed = _best_fit_decreasing(order[first : first + WINDOW], lengths, budget)
        rows += [packed[i] for i in generator.permutation(len(packed)).tolist()]
    return rows


def _best_fit_decreasing(window: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    rows: list[list[int]] = []
    # Rows that still have room, as (room, number of the row), the fullest first.
    open_rows: list[tuple[int, int]] = []
    for place in sorted(range(len(window)), key=lambda place: -lengths[window[place]]):
        length = lengths[window[place]]
        fullest = bisect.bisect_left(open_rows, (length, 0))
        if fullest < len(open_rows):
            room, number = open_rows.pop(fullest)
        else:
            room, number = max(budget, length), len(rows)
            rows.append([])
        rows[number].append(place)
        if room > length:
            bisect.insort(open_rows, (room - length, number))
    return [[window[place] for place in sorted(row)] for row in rows]


def group_by_length(order: Sequence[int], lengths: Sequence[int], size: int, *, seed: int = 0) -> list[list[int]]:
    """Batches of `size` samples of like length, every sample in exactly one: less padding, without packing.

    Windows of the epoch's order are sorted by length and cut into batches, which come in a drawn order; the last batch
    of an epoch may be shorter.
    """
    generator = np.random.default_rng(seed)
    window = max(WINDOW // size, 1) * size
    batches: list[list[int]] = []
    for first in range(0, len(order), window):
        longest_first = sorted(order[first : first + window], key=lambda number: -lengths[number])
        cut = [longest_first[start : start + size] for start in range(0, len(longest_first), size)]
        batches += [cut[i] for i in generator.permutation(len(cut)).tolist()]
    return batches


def default_budget(memory: int | None = None) -> int:
    """Tokens of a row when none are asked for: 16,384 for 80 GB of GPU memory, in proportion, at least 2,048.

    `memory` is that of the GPU in bytes; of this process's GPU when None, and 4,096 tokens without one.
    """
    import torch

    if memory is None:
        if not torch.cuda.is_available():
            return 4096
        memory = int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return max(int(memory / 80e9 * 16384) // 1024 * 1024, 2048)
