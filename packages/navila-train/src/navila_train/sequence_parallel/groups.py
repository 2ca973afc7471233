"""Which ranks compute a row together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from navila.errors import ConfigError
from torch.distributed import ProcessGroup

#: Orders of a row in the ring: one piece a rank, or an early and a late one, which gives all ranks equal work.
RING_TYPES = ("ring_varlen", "zigzag_ring_varlen")


@dataclass(frozen=True, kw_only=True)
class SequenceGroups:
    """The groups of this rank, `rank = (data_rank * ring + ring_rank) * ulysses + ulysses_rank`.

    Neighbours exchange heads, which is all to all and wants the fastest links; rings go between their groups.
    """

    ulysses: ProcessGroup
    ring: ProcessGroup
    sequence: ProcessGroup
    """Both together: the ranks that share a row."""
    data_rank: int
    """Which batches this rank reads: the same as its whole sequence group."""
    data_world: int
    zigzag: bool = True

    @classmethod
    def open(cls, size: int, ring_size: int = 1, ring_type: str = "zigzag_ring_varlen") -> SequenceGroups:
        """Divide all ranks into groups of `size`, each into rings of `ring_size`; every rank must call it.

        Raises:
            ConfigError: the sizes do not divide each other, or there is no such ring type.
        """
        check_sizes(size, ring_size, ring_type, world=dist.get_world_size())
        ranks = torch.arange(dist.get_world_size()).view(-1, ring_size, size // ring_size)
        return cls(
            ulysses=_own_group(ranks.flatten(0, 1).tolist()),
            ring=_own_group(ranks.transpose(1, 2).flatten(0, 1).tolist()),
            sequence=_own_group(ranks.flatten(1).tolist()),
            data_rank=dist.get_rank() // size,
            data_world=len(ranks),
            zigzag=ring_type == "zigzag_ring_varlen",
        )


def check_sizes(size: int, ring_size: int, ring_type: str, *, world: int) -> None:
    """Check sizes against the number of processes.

    Raises:
        ConfigError: the sizes do not divide each other, or there is no such ring type.
    """
    if size < 1 or world % size:
        raise ConfigError(
            f"--seq_parallel_size is {size}, which does not divide the number of processes, {world}: launch a multiple "
            "of it, e.g. with torchrun --nproc_per_node."
        )
    if ring_size < 1 or size % ring_size:
        raise ConfigError(
            f"--seq_parallel_ring_size is {ring_size}, which does not divide --seq_parallel_size {size}: choose a "
            "divisor, 1 for Ulysses alone."
        )
    if ring_type not in RING_TYPES:
        raise ConfigError(f"--seq_parallel_ring_type is {ring_type!r}: use {' or '.join(RING_TYPES)}.")


def _own_group(groups: Sequence[list[int]]) -> ProcessGroup:
    own, _ = dist.new_subgroups_by_enumeration(list(groups))
    return cast("ProcessGroup", own)
