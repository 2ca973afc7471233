"""Long rows cut over the ranks of a group: Ulysses, ring and both together, as one attention of transformers.

`layout` says which tokens a rank holds, `exchange` moves tensors between ranks so that gradients find their way back,
`ring` is attention over keys and values that go round, `attention` puts the two modes together under one name, and
`parallel` runs a composed model on a batch.
"""

from navila_train.sequence_parallel.attention import SEQUENCE_PARALLEL, sequence_parallel_attention
from navila_train.sequence_parallel.groups import RING_TYPES, SequenceGroups
from navila_train.sequence_parallel.layout import RowShard, layout_index
from navila_train.sequence_parallel.parallel import SequenceParallel, ShardedBatch

__all__ = [
    "RING_TYPES",
    "SEQUENCE_PARALLEL",
    "RowShard",
    "SequenceGroups",
    "SequenceParallel",
    "ShardedBatch",
    "layout_index",
    "sequence_parallel_attention",
]
