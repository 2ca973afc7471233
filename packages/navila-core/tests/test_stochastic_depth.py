"""Stochastic depth leaves out whole branches of samples, keeps the mean, and is off in evaluation."""

from __future__ import annotations

import torch
from navila.model.stochastic_depth import drop_path, drop_rates


def test_samples_keep_or_lose_the_whole_branch_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(4000, 3, 5), 0.25, training=True)
    values = dropped.flatten(1)
    assert torch.equal(values.amin(dim=1), values.amax(dim=1))
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert abs(dropped.mean().item() - 1) < 0.05


def test_evaluation_and_rate_zero_change_nothing() -> None:
    branch = torch.rand(8, 3)
    assert drop_path(branch, 0.9, training=False) is branch
    assert drop_path(branch, 0.0, training=True) is branch


def test_half_precision_stays() -> None:
    assert drop_path(torch.ones(8, 3, dtype=torch.bfloat16), 0.5, training=True).dtype == torch.bfloat16


def test_rates_rise_from_the_first_layer_to_the_last() -> None:
    torch.testing.assert_close(torch.tensor(drop_rates(0.3, 4)), torch.tensor([0.0, 0.1, 0.2, 0.3]))
    assert drop_rates(0.3, 1) == [0.0]
