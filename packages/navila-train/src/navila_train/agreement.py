"""What all processes of a training tell each other, and decide alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def several() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(values: Sequence[float], device: torch.device) -> list[list[float]]:
    """A row of values (float32) from every process, in the order of ranks, the same everywhere; all call this."""
    if not several():
        return [list(values)]
    mine = torch.tensor(values, dtype=torch.float32, device=device)
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, mine)
    return torch.stack(rows).tolist()


def gather_objects(value: T) -> list[T]:
    """An object from every process, in the order of ranks; all call this."""
    if not several():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, for all; all call this."""
    if not several():
        return make()
    found: list[Any] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def wait_for_all() -> None:
    """Return when every process has come here."""
    if several():
        dist.barrier()
