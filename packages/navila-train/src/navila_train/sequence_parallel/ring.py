"""Exact attention over keys and values that go round a ring of ranks (Ring Attention, arXiv 2310.01889)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from navila_train.sequence_parallel.exchange import pass_on
from navila_train.sequence_parallel.layout import RowShard


class RingAttention(Function):
    """Attention of a chunk's queries (B, H, s, C) with the keys and values (B, K, s, C) of all chunks of the ring.

    Blocks of scores are merged by their log-sum-exp in float32; the backward pass computes them anew, and the gradients
    of keys and values travel with these until they are home. Returns (B, H, s, C).
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, shard: RowShard, scaling: float, window: int | None
    ) -> Tensor:
        ring = shard.groups.ring
        exact = torch.promote_types(query.dtype, torch.float32)
        # Autocast would undo what is exact.
        with torch.autocast(query.device.type, enabled=False):
            # Query heads that share a key head stand together: (B, K, H / K, s, C).
            queries = query.unflatten(1, (key.shape[1], -1))
            output = torch.zeros_like(queries, dtype=exact)
            lse = output.new_full(output.shape[:-1], -torch.inf)
            block = torch.stack([key, value])
            for step in range(ring.size()):
                last = step == ring.size() - 1
                arriving, works = (block, []) if last else pass_on(block, ring)
                for rows, columns, mask in shard.pairs((ring.rank() - step) % ring.size(), window):
                    keys, values = block[:, :, :, columns]
                    scores = _scores(queries[..., rows, :], keys, scaling, mask, exact)
                    merged = torch.logaddexp(lse[..., rows], scores.logsumexp(-1))
                    # A query that has seen nothing yet has -inf, of which no difference may be taken.
                    base = merged.masked_fill(merged == -torch.inf, 0)
                    added = torch.einsum("bkgqs,bksc->bkgqc", (scores - base[..., None]).exp().to(values), values)
                    output[..., rows, :] *= (lse[..., rows] - base).exp()[..., None]
                    output[..., rows, :] += added
                    lse[..., rows] = merged
                for work in works:
                    work.wait()
                block = arriving
        result = output.flatten(1, 2).to(query.dtype)
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.shard, ctx.scaling, ctx.window = shard, scaling, window
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, result, lse = ctx.saved_tensors
        shard: RowShard = ctx.shard
        ring = shard.groups.ring
        exact = lse.dtype
        queries, outputs, grads = (t.unflatten(1, (key.shape[1], -1)) for t in (query, result, gradients[0]))
        # Of the softmax: what all keys of a query have in common (FlashAttention-2, arXiv 2307.08691, algorithm 2).
        common = (grads.to(exact) * outputs.to(exact)).sum(-1)
        base = lse.masked_fill(lse == -torch.inf, 0)
        query_grad = torch.zeros_like(queries, dtype=exact)
        block = torch.stack([key, value])
        block_grad = torch.zeros_like(block, dtype=exact)
        for step in range(ring.size()):
            last = step == ring.size() - 1
            arriving, works = (block, []) if last else pass_on(block, ring)
            for rows, columns, mask in shard.pairs((ring.rank() - step) % ring.size(), ctx.window):
                keys, values = block[:, :, :, columns]
                asking, grad = queries[..., rows, :], grads[..., rows, :]
                weights = (_scores(asking, keys, ctx.scaling, mask, exact) - base[..., rows, None]).exp()
                block_grad[1][..., columns, :] += torch.einsum("bkgqs,bkgqc->bksc", weights.to(grad), grad)
                weights_grad = torch.einsum("bkgqc,bksc->bkgqs", grad, values).to(exact)
                scores_grad = weights * (weights_grad - common[..., rows, None]) * ctx.scaling
                query_grad[..., rows, :] += torch.einsum("bkgqs,bksc->bkgqc", scores_grad.to(keys), keys)
                block_grad[0][..., columns, :] += torch.einsum("bkgqs,bkgqc->bksc", scores_grad.to(asking), asking)
            for work in works:
                work.wait()
            block = arriving
            block_grad, works = pass_on(block_grad, ring)
            for work in works:
                work.wait()
        key_grad, value_grad = block_grad.to(key.dtype)
        return query_grad.flatten(1, 2).to(query.dtype), key_grad, value_grad, None, None, None


def _scores(queries: Tensor, keys: Tensor, scaling: float, mask: Tensor | None, exact: torch.dtype) -> Tensor:
    """(B, K, G, q, C) with (B, K, k, C) to (B, K, G, q, k); -inf where nothing may be seen."""
    scores = torch.einsum("bkgqc,bksc->bkgqs", queries, keys).to(exact) * scaling
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)
