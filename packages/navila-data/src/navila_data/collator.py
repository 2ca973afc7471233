"""Batches in which every distinct frame occurs once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from navila.constants import IGNORE_INDEX
from navila.errors import DataError
from numpy.typing import NDArray

from navila_data.failures import Failure, FailureLog
from navila_data.frames import FrameStore
from navila_data.processor import Encoded, masked


class Collator:
    """Pads samples on the right and gathers their frames without repeats.

    Returns:
        `input_ids`, `labels`, `attention_mask` (B, L); with media also `pixel_values` (U, 3, H, W) of the U distinct
        frames and `image_index` (K,), the row of `pixel_values` that each image token of the flattened batch shows.
    """

    def __init__(
        self,
        *,
        frames: FrameStore,
        normalise: Callable[[NDArray[np.uint8]], torch.Tensor],
        pad_token_id: int,
        failures: FailureLog,
    ) -> None:
        """Prepare to collate.

        Args:
            frames: decodes and resizes.
            normalise: (U, H, W, 3) uint8 to (U, 3, H, W) float.
            pad_token_id: id that fills `input_ids` after a row's end.
            failures: what to do about broken samples.
        """
        self.frames = frames
        self.normalise = normalise
        self.pad_token_id = pad_token_id
        self.failures = failures

    def __call__(self, items: Sequence[Encoded | Failure]) -> dict[str, torch.Tensor]:
        rows = [row for item in items if (row := self._checked(item)) is not None]
        if not rows:
            # A batch must exist on every rank: a short row without labels adds nothing to the loss.
            pad = (self.pad_token_id,)
            rows = [Encoded(input_ids=pad, labels=(IGNORE_INDEX,), media=(), where="empty batch")]
        batch = self._pad(rows)
        media = [path for row in rows for path in row.media]
        if media:
            unique = {path: number for number, path in enumerate(dict.fromkeys(media))}
            batch["pixel_values"] = self.normalise(np.stack([self.frames.get(path) for path in unique]))
            batch["image_index"] = torch.tensor([unique[path] for path in media])
        return batch

    def _checked(self, item: Encoded | Failure) -> Encoded | None:
        """The sample if all its frames can be read, else what the policy makes of it."""
        if isinstance(item, Failure):
            self.failures.note(item)
            return None
        try:
            for path in item.media:
                self.frames.get(path)
        except DataError as error:
            self.failures.note(Failure(item.where, str(error)))
            return masked(item) if self.failures.policy == "mask" else None
        return item

    def _pad(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        shape = (len(rows), max(len(row.input_ids) for row in rows))
        ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            length = len(row.input_ids)
            ids[number, :length] = row.input_ids
            labels[number, :length] = row.labels
            mask[number, :length] = 1
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "attention_mask": torch.from_numpy(mask),
        }
