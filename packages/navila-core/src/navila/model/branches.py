"""Rows of several samples with one beginning: where their tokens stand, and what they may see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from navila.errors import ConfigError


def branch_attention(branches: Tensor) -> tuple[Tensor, Tensor]:
    """Position ids (B, L) and attention mask (B, 1, L, L) bool of rows whose samples share their beginning.

    `branches` (B, L) is 0 over the shared beginning, 1, 2, … over the rest of each sample, one after the other, and -1
    at padding on the right. A token sees what is before it in the beginning and in its own branch, and is numbered as
    if its sample stood alone, so a row gives every sample the logits it would have by itself.
    """
    length = branches.shape[1]
    places = torch.arange(length, device=branches.device)
    shared = (branches == 0).sum(1, keepdim=True)
    begins = torch.ones_like(branches, dtype=torch.bool)
    begins[:, 1:] = branches[:, 1:] != branches[:, :-1]
    begin = torch.where(begins, places, 0).cummax(1).values
    position_ids = torch.where(branches > 0, shared + places - begin, places.expand_as(branches))
    visible = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    # Padding sees itself and its like only; a row of the mask without any True would give NaN.
    mask = visible & (places[:, None] >= places[None, :])
    return position_ids.masked_fill(branches < 0, 0), mask[:, None]


def masks_of_layers(config: Any, visible: Tensor, position_ids: Tensor, dtype: torch.dtype) -> Any:
    """What each position may see, (B, 1, L, L) bool, as a language model of this config takes it.

    A given mask is taken as it is, so the window of layers that have one must be in it. It counts positions (B, L), not
    places in the row.

    Raises:
        ConfigError: the language model's attention takes no mask of this kind.
    """
    window = getattr(config, "sliding_window", None)
    if window is None:
        return as_attention_mask(config, visible, dtype)
    near = visible & (position_ids[:, None, :, None] - position_ids[:, None, None, :] < window)
    if getattr(config, "layer_types", None) is None:
        return as_attention_mask(config, near, dtype)
    return {
        "full_attention": as_attention_mask(config, visible, dtype),
        "sliding_attention": as_attention_mask(config, near, dtype),
    }


def as_attention_mask(config: Any, visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What each query may see, (B, 1, L, K) bool, as the attention of this config takes it.

    Raises:
        ConfigError: it takes no mask of this kind.
    """
    if config._attn_implementation == "sdpa":
        return visible
    if config._attn_implementation == "eager":
        # It adds the mask to the scores: True and False would hide nothing.
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    raise ConfigError(
        f"Rows of several samples with one beginning need sdpa or eager attention, not {config._attn_implementation}: "
        "load the model with attn_implementation='sdpa', or leave branch_ids (--share_prefix) out."
    )
