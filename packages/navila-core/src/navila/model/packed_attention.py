"""Attention over packed rows, sample by sample: no (L, L) mask, and no work between samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

#: Its name among the attentions of transformers.
PACKED = "packed_sdpa"

#: Row and range of each sample of a batch, in the order of the rows.
Segments = list[tuple[int, int, int]]


def segments_of(position_ids: Tensor) -> Segments:
    """The samples of packed rows whose positions (B, L) begin anew at 0; a padding position is one of its own."""
    starts = (position_ids == 0).nonzero().tolist()
    length = position_ids.shape[1]
    ends = [after if row == following else length for (row, _), (following, after) in pairwise(starts)]
    return [(row, start, end) for (row, start), end in zip(starts, [*ends, length], strict=True)]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Causal attention of query (B, H, L, C) with key and value (B, K, L, C) inside each of `segments`.

    Rows are one sample each when there are no segments. Returns (B, L, H, C).
    """
    batch, heads, length, _ = query.shape
    output = query.new_zeros(batch, length, heads, value.shape[-1])
    grouped = key.shape[1] != heads
    for row, start, end in segments or [(row, 0, length) for row in range(batch)]:
        # Without a window that bites, no mask: the fast kernels then skip the upper half.
        mask = None
        if sliding_window is not None and end - start > sliding_window:
            places = torch.arange(end - start, device=query.device)
            distance = places[:, None] - places
            mask = (distance >= 0) & (distance < sliding_window)
        attended = scaled_dot_product_attention(
            query[row : row + 1, :, start:end],
            key[row : row + 1, :, start:end],
            value[row : row + 1, :, start:end],
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=mask is None,
            enable_gqa=grouped,
        )
        output[row, start:end] = attended[0].transpose(0, 1)
    return output, None


@contextmanager
def rows_of_one(llm: Any) -> Iterator[None]:
    """A language model that trains with an attention without masks, for a while with one for rows padded in front."""
    own = llm.config._attn_implementation
    maskless = own not in ALL_MASK_ATTENTION_FUNCTIONS
    if maskless:
        llm.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if maskless:
            llm.set_attn_implementation(own)


# transformers makes no mask for attentions it has no mask function of: what must not be seen is said by segments.
ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
