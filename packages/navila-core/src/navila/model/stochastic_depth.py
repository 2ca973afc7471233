"""Stochastic depth (arXiv 1603.09382): in training, the branch of a layer is left out for some of the samples."""

from __future__ import annotations

import torch
from torch import Tensor


def drop_rates(rate: float, num_layers: int) -> list[float]:
    """Rate of each layer, rising from 0 at the first to `rate` at the last."""
    return torch.linspace(0, rate, num_layers, device="cpu").tolist()


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Zero a residual branch (N, ...) for a sample with probability `rate`, the others scaled up to the same mean."""
    if rate == 0 or not training:
        return branch
    keep = torch.rand(branch.shape[0], *[1] * (branch.ndim - 1), device=branch.device) >= rate
    return branch * keep / (1 - rate)
