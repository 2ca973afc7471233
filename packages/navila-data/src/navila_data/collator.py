"""Batches in which every distinct frame occurs once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from navila.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from navila.errors import DataError

from navila_data.failures import BatchNotes, Failure
from navila_data.frames import Frame, FrameStore
from navila_data.media import Medium
from navila_data.processor import Encoded, masked


class Collator:
    """Pads samples on the right and gathers their frames without repeats.

    With `share_prefix`, samples that begin alike (the same frames under several instructions) become one row: the
    common beginning, then the rest of each sample as a branch of its own, which the model keeps apart by `branch_ids`.
    With `packed`, all samples become one row, one after the other, kept apart by `position_ids`.

    Returns:
        `input_ids`, `labels`, `attention_mask` (B, L); with media also `pixel_values` (U, 3, H, W) of the U distinct
        frames and `image_index` (K,), the row of `pixel_values` that each image token of the flattened batch shows;
        with `share_prefix` also `branch_ids` (B, L), 0 over beginnings, 1, 2, … over branches, -1 at padding; with
        `packed` `position_ids` (1, L), 0 where a sample begins, in place of `attention_mask`. `notes` says what
        happened to which sample (`BatchNotes`): collators work in processes of their own.
    """

    def __init__(
        self,
        *,
        frames: FrameStore,
        to_tensor: Callable[[Sequence[Frame]], torch.Tensor],
        pad_token_id: int,
        mask_broken: bool = False,
        share_prefix: bool = False,
        packed: bool = False,
    ) -> None:
        """Prepare to collate.

        Args:
            frames: decodes and resizes.
            to_tensor: U frames (H, W, 3) uint8 to the `pixel_values` (U, 3, H, W) that the model takes.
            pad_token_id: id that fills `input_ids` after a row's end.
            mask_broken: keep a sample whose media cannot be read, with black frames and without labels, instead of
                leaving it out.
            share_prefix: compute what samples with the same frames have in common once.
            packed: put all samples of the batch into one row.
        """
        self.frames = frames
        self.to_tensor = to_tensor
        self.pad_token_id = pad_token_id
        self.mask_broken = mask_broken
        self.share_prefix = share_prefix
        self.packed = packed

    def __call__(self, items: Sequence[Encoded | Failure]) -> dict[str, Any]:
        shown: dict[Medium | None, Frame] = {}
        failures: list[Failure] = []
        rows = [row for item in items if (row := self._readable(item, shown, failures)) is not None]
        notes = BatchNotes(
            samples=len(rows),
            shortened=sum(row.shortened for row in rows),
            failures=tuple(failures),
            frames=self.frames.take_counts(),
        )
        if not rows:
            # A batch must exist on every rank: a short row without labels adds nothing to the loss.
            pad = (self.pad_token_id,)
            rows = [Encoded(input_ids=pad, labels=(IGNORE_INDEX,), media=(), where="empty batch")]
        families = by_media(rows) if self.share_prefix else [[row] for row in rows]
        batch: dict[str, Any] = pack_row(rows) if self.packed else self._pad([Row.of(family) for family in families])
        media = [medium for family in families for medium in family[0].media]
        if media:
            unique = {medium: number for number, medium in enumerate(dict.fromkeys(media))}
            batch["pixel_values"] = self.to_tensor([shown[medium] for medium in unique])
            batch["image_index"] = torch.tensor([unique[medium] for medium in media])
        return {**batch, "notes": notes}

    def _readable(
        self, item: Encoded | Failure, shown: dict[Medium | None, Frame], failures: list[Failure]
    ) -> Encoded | None:
        """The sample if all its frames can be read, which are put into `shown`; else None, or it without its frames."""
        if isinstance(item, Failure):
            failures.append(item)
            return None
        try:
            shown.update(self.frames.load(medium for medium in item.media if medium not in shown))
        except DataError as error:
            failures.append(Failure(item.where, f"{item.where}: {error}"))
            if not self.mask_broken:
                return None
            item = masked(item)
            shown.update(self.frames.load(item.media))
        return item

    def _pad(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        shape = (len(rows), max(len(row.input_ids) for row in rows))
        batch = {
            "input_ids": np.full(shape, self.pad_token_id, dtype=np.int64),
            "labels": np.full(shape, IGNORE_INDEX, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
        }
        if self.share_prefix:
            batch["branch_ids"] = np.full(shape, -1, dtype=np.int64)
        for number, row in enumerate(rows):
            length = len(row.input_ids)
            batch["input_ids"][number, :length] = row.input_ids
            # Nothing comes before the first token that could say it.
            batch["labels"][number, 1:length] = row.labels[1:]
            batch["attention_mask"][number, :length] = 1
            if self.share_prefix:
                batch["branch_ids"][number, :length] = row.branches
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def pack_row(rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """All samples in one row (1, L): ids, labels and the positions that tell them apart."""
    # A sample's first token would be learned as what follows the sample before it.
    labels = [(IGNORE_INDEX, *row.labels[1:]) for row in rows]
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row.input_ids]]),
        "labels": torch.tensor([[label for row in labels for label in row]]),
        "position_ids": torch.tensor([[place for row in rows for place in range(len(row.input_ids))]]),
    }


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a batch: a sample, or several that begin alike."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    branches: tuple[int, ...]

    @classmethod
    def of(cls, family: Sequence[Encoded]) -> Row:
        """Put samples with the same media into one row."""
        first = family[0]
        shared = len(first.input_ids)
        if len(family) > 1:
            # What is learned must stand in a branch: a shared position can have only one next token.
            begins = [
                next((i for i, label in enumerate(m.labels) if label != IGNORE_INDEX), len(m.labels)) for m in family
            ]
            shared = min(common_prefix([m.input_ids for m in family]), *(max(begin - 1, 0) for begin in begins))
        ids, labels = list(first.input_ids[:shared]), list(first.labels[:shared])
        branches = [0] * shared
        for number, member in enumerate(family, start=1):
            rest = len(member.input_ids) - shared
            ids += member.input_ids[shared:]
            labels += member.labels[shared:]
            branches += [number] * rest
        return cls(input_ids=tuple(ids), labels=tuple(labels), branches=tuple(branches))


def by_media(rows: Sequence[Encoded]) -> list[list[Encoded]]:
    """Group samples that show the same frames and read alike up to the last of them."""
    families: dict[tuple[object, ...], list[Encoded]] = {}
    for number, row in enumerate(rows):
        end = len(row.input_ids) - row.input_ids[::-1].index(IMAGE_TOKEN_INDEX) if row.media else 0
        learns_early = any(label != IGNORE_INDEX for label in row.labels[:end])
        key = (row.media, row.input_ids[:end]) if row.media and not learns_early else (number,)
        families.setdefault(key, []).append(row)
    return list(families.values())


def common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """Length of the longest beginning that all sequences share."""
    shortest, longest = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), len(shortest))
