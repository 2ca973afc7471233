"""Tensors moved between ranks, and their gradients moved back, so that what is computed for another is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed import ProcessGroup


class _AllToAll(Function):
    """The i-th slice of dimension 0 goes to rank i; its own transpose."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        given = given.contiguous()
        received = torch.empty_like(given)
        dist.all_to_all_single(received, given, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.apply(gradients[0], ctx.group), None  # type: ignore[return-value]


class _AllGather(Function):
    """Every rank's (N, …) one after the other; each rank's gradient is the sum over all that took it."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        given = given.contiguous()
        received = given.new_empty(group.size() * given.shape[0], *given.shape[1:])
        dist.all_gather_into_tensor(received, given, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous()
        own = whole.new_empty(whole.shape[0] // ctx.group.size(), *whole.shape[1:])
        dist.reduce_scatter_tensor(own, whole, group=ctx.group)
        return own, None


def all_gather(given: Tensor, group: ProcessGroup) -> Tensor:
    """(N, …) of every rank to (ranks * N, …) on every rank."""
    return given if group.size() == 1 else _AllGather.apply(given, group)  # type: ignore[return-value]


def heads_to_sequence(tensors: Sequence[Tensor], group: ProcessGroup) -> Sequence[Tensor]:
    """(B, H, s, C) of all heads and a part of the tokens to (B, H / U, U * s, C) of some heads and all tokens.

    Several tensors, of any number of heads each, take one exchange.
    """
    ranks = group.size()
    if ranks == 1:
        return tensors
    parted = torch.cat([tensor.unflatten(1, (ranks, -1)) for tensor in tensors], dim=2)
    received: Tensor = _AllToAll.apply(parted.transpose(0, 1), group)  # type: ignore[assignment]
    whole = received.permute(1, 2, 0, 3, 4).flatten(2, 3)
    return whole.split([tensor.shape[1] // ranks for tensor in tensors], dim=1)


def sequence_to_heads(tensor: Tensor, group: ProcessGroup) -> Tensor:
    """(B, U * s, H / U, C) of some heads and all tokens back to (B, s, H, C)."""
    ranks = group.size()
    if ranks == 1:
        return tensor
    parted = tensor.unflatten(1, (ranks, -1)).transpose(0, 1)
    received: Tensor = _AllToAll.apply(parted, group)  # type: ignore[assignment]
    return received.permute(1, 2, 0, 3, 4).flatten(2, 3)


def pass_on(given: Tensor, group: ProcessGroup) -> tuple[Tensor, list[dist.Work]]:
    """Send to the next rank of the ring and receive from the one before; wait for the works before reading."""
    rank, ranks = group.rank(), group.size()
    received = torch.empty_like(given)
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, given, group=group, group_peer=(rank + 1) % ranks),
            dist.P2POp(dist.irecv, received, group=group, group_peer=(rank - 1) % ranks),
        ]
    )
    return received, works
