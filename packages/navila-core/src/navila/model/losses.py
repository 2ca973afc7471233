"""Losses beyond the language models' own next-token cross entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from navila.constants import IGNORE_INDEX


def soft_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    soft_ids: Sequence[int],
    *,
    std: float = 1.0,
    shifted: bool = False,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Mean next-token cross entropy in which a point in time that is nearly right costs little (VILA, after LITA).

    Where the label y is one of `soft_ids` S, the target is spread over S: q(s) ~ exp(-(y - s)^2 / (2 std^2)), ids being
    numbers on a line. Everywhere else it is ordinary cross entropy.

    Args:
        logits: (B, L, V).
        labels: (B, L), -100 where there is no loss; in the layout of the input unless `shifted` to what comes next.
        soft_ids: ids of the points in time, in their order.
        std: width of the spread, in ids.
        num_items_in_batch: the sum is divided by it, not by the number of labels.
    """
    if not shifted:
        labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    labels = labels.to(logits.device)
    active = labels != IGNORE_INDEX
    targets = labels[active]
    log_p = logits[active].float().log_softmax(-1)
    times = torch.as_tensor(soft_ids, dtype=torch.long, device=targets.device)
    spread = (-((targets[:, None] - times) ** 2) / (2 * std**2)).softmax(-1)
    soft = -(spread * log_p[:, times]).sum(-1)
    hard = -log_p.gather(1, targets[:, None]).squeeze(1)
    total = torch.where(torch.isin(targets, times), soft, hard).sum()
    count = targets.numel() if num_items_in_batch is None else num_items_in_batch
    return total / torch.as_tensor(count, device=total.device)
