"""Which tokens of a row each rank holds, and which of them see each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from navila.model.packed_attention import Segments
from torch import Tensor

from navila_train.sequence_parallel.groups import SequenceGroups

#: Tokens on either side of a block of scores in the ring: bounds memory, and lets blocks without a pair be left out.
TILE = 1024


def layout_index(length: int, ulysses: int, ring: int, *, zigzag: bool = True) -> Tensor:
    """Places in a row of `length` tokens that each rank of a sequence group holds, (ring * ulysses, length / both).

    Each ring rank has a chunk of the row: with `zigzag` of 2 R pieces the r-th and the r-th from the end, as late
    tokens see more than early ones. Its Ulysses ranks have equal parts of the chunk, in its order.
    """
    places = torch.arange(length)
    if zigzag and ring > 1:
        pieces = places.view(2 * ring, -1)
        places = torch.cat([pieces[:ring], pieces[ring:].flip(0)], dim=1)
    return places.reshape(ring * ulysses, -1)


def multiple_of(groups: SequenceGroups) -> int:
    """What the length of a row must be a multiple of."""
    ring = groups.ring.size()
    return groups.ulysses.size() * ring * (2 if groups.zigzag and ring > 1 else 1)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Neighbouring tokens of a chunk, with the bounds of their documents and of their places in the row."""

    start: int
    stop: int
    first_document: int
    last_document: int
    first_place: int
    last_place: int

    def sees_none_of(self, keys: Tile, window: int | None) -> bool:
        """Whether no token of this tile may look at one of `keys`."""
        return (
            keys.last_document < 0
            or self.last_document < keys.first_document
            or keys.last_document < self.first_document
            or self.last_place < keys.first_place
            or (window is not None and self.first_place - keys.last_place >= window)
        )

    def sees_all_of(self, keys: Tile, window: int | None) -> bool:
        """Whether every token of this tile may look at each of `keys`."""
        documents = {self.first_document, self.last_document, keys.first_document, keys.last_document}
        return (
            len(documents) == 1
            and self.first_place >= keys.last_place
            and (window is None or self.last_place - keys.first_place < window)
        )


class RowShard:
    """What the attention must know of a batch of rows (B, S) of which this rank holds a part.

    A token sees those of its document at its own place or before, at a distance below the layer's window. Nothing else
    decides, so that any order of tokens, packed samples and padding (document -1) are right without cases of their own.
    """

    def __init__(self, documents: Tensor, groups: SequenceGroups) -> None:
        """`documents` (B, S) numbers the samples of each row, ascending, -1 at padding."""
        ring = groups.ring.size()
        length = documents.shape[1]
        index = layout_index(length, groups.ulysses.size(), ring, zigzag=groups.zigzag)
        chunks = index.reshape(ring, -1)
        known = documents.cpu()
        self.groups = groups
        self.index = index[groups.sequence.rank()].to(documents.device)
        """(s,) places of this rank's tokens."""
        self.documents = documents[:, chunks.to(documents.device)]
        """(B, R, S / R), by the ring rank that holds them."""
        self.places = chunks.to(documents.device)
        """(R, S / R)."""
        self.segments: Segments = _segments(known) if ring == 1 else []
        """The samples, where each rank sees whole rows."""
        piece = chunks.shape[1] // (2 if groups.zigzag and ring > 1 else 1)
        self._tiles = [_tiles(known[:, chunk], chunk, piece) for chunk in chunks] if ring > 1 else []

    def pairs(self, source: int, window: int | None) -> Iterator[tuple[slice, slice, Tensor | None]]:
        """Ranges of this ring rank's queries and of `source`'s keys that see each other, and which do.

        The mask is (B, 1, 1, queries, keys) bool, or None where all do.
        """
        own = self.groups.ring.rank()
        for queries in self._tiles[own]:
            for keys in self._tiles[source]:
                if queries.sees_none_of(keys, window):
                    continue
                rows, columns = slice(queries.start, queries.stop), slice(keys.start, keys.stop)
                mask = None if queries.sees_all_of(keys, window) else self._mask(own, rows, source, columns, window)
                yield rows, columns, mask

    def _mask(self, own: int, rows: slice, source: int, columns: slice, window: int | None) -> Tensor:
        same = self.documents[:, own, rows, None] == self.documents[:, source, None, columns]
        distance = self.places[own, rows, None] - self.places[source, columns]
        near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        return (same & near)[:, None, None]


def _segments(documents: Tensor) -> Segments:
    """Row and range of every document of (B, S)."""
    found: Segments = []
    for row, numbers in enumerate(documents):
        ends = [0, *(numbers.diff().nonzero().squeeze(1) + 1).tolist(), len(numbers)]
        found += [(row, start, end) for start, end in pairwise(ends) if numbers[start] >= 0]
    return found


def _tiles(documents: Tensor, places: Tensor, piece: int) -> list[Tile]:
    """Tiles of a chunk, none of which crosses the end of a piece."""
    tiles = []
    for first in range(0, len(places), piece):
        for start in range(first, first + piece, TILE):
            stop = min(start + TILE, first + piece)
            held = documents[:, start:stop]
            tiles.append(
                Tile(
                    start=start,
                    stop=stop,
                    first_document=int(held.min()),
                    last_document=int(held.max()),
                    first_place=int(places[start]),
                    last_place=int(places[stop - 1]),
                )
            )
    return tiles
