"""The attention of a row that is cut over ranks, under one name among those of transformers."""

from __future__ import annotations

import math
from typing import Any

from navila.errors import ConfigError
from navila.model.packed_attention import packed_attention
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from navila_train.sequence_parallel.exchange import heads_to_sequence, sequence_to_heads
from navila_train.sequence_parallel.layout import RowShard
from navila_train.sequence_parallel.ring import RingAttention

#: Its name among the attentions of transformers.
SEQUENCE_PARALLEL = "sequence_parallel"


def sequence_parallel_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    shard: RowShard | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Causal attention of this rank's queries (B, H, s, C) with the keys and values (B, K, s, C) of the whole rows.

    Heads are exchanged for tokens inside the Ulysses group (arXiv 2309.14509); then the whole row, or, with rings, the
    chunk of it that the group holds, is attended to. Returns (B, s, H, C).

    Raises:
        ConfigError: the model was not called through `SequenceParallel`, which gives the `shard`.
    """
    if shard is None:
        raise ConfigError(
            f"{SEQUENCE_PARALLEL} attention needs the rows' layout: call the model with sequence_parallel=, or "
            "set_attn_implementation('sdpa') to use it on one process."
        )
    ulysses, ring = shard.groups.ulysses, shard.groups.ring
    # Fewer heads than ranks: each is repeated until all ranks have as many; autograd sums their gradients.
    repeats = math.lcm(key.shape[1], ulysses.size()) // key.shape[1]
    if repeats > 1:
        key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    # Under autocast, normalised queries and keys come in float32.
    query, key, value = heads_to_sequence([query.to(value), key.to(value), value], ulysses)
    if ring.size() == 1:
        output, _ = packed_attention(
            module,
            query,
            key,
            value,
            None,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            segments=shard.segments,
        )
    else:
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        attended: Tensor = RingAttention.apply(query, key, value, shard, scaling, sliding_window)  # type: ignore[assignment]
        output = attended.transpose(1, 2)
    return sequence_to_heads(output, ulysses), None


# transformers makes no mask for attentions it has no mask function of: what must not be seen is said by the shard.
ALL_ATTENTION_FUNCTIONS.register(SEQUENCE_PARALLEL, sequence_parallel_attention)
