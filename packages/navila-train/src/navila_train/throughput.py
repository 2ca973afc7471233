"""What a training does in a second, for its log."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from navila.constants import IMAGE_TOKEN_INDEX


class Throughput:
    """Counts what the model was given between two log lines."""

    def __init__(self, tokens_per_image: int) -> None:
        self.tokens_per_image = tokens_per_image
        self._reset()

    def _reset(self) -> None:
        self.samples = 0
        self.tokens = 0
        self.images = 0
        self.since = time.perf_counter()

    def count(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Count a batch."""
        ids = inputs["input_ids"]
        shown = int((ids == IMAGE_TOKEN_INDEX).sum())
        if "position_ids" in inputs:
            self.samples += int((inputs["position_ids"] == 0).sum())
        elif "branch_ids" in inputs:
            self.samples += int(inputs["branch_ids"].amax(1).clamp(min=1).sum())
        else:
            self.samples += len(ids)
        real = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else ids.numel()
        self.tokens += real + shown * (self.tokens_per_image - 1)
        self.images += len(inputs["pixel_values"]) if "pixel_values" in inputs else 0

    def rates(self, processes: int) -> dict[str, float]:
        """Per second over so many processes with batches of their own; starts the next count.

        Images count as often as they were encoded. This process's count stands for all: their batches are of one size.
        """
        share = processes / max(time.perf_counter() - self.since, 1e-9)
        rates = {
            "tokens_per_second": round(self.tokens * share, 1),
            "samples_per_second": round(self.samples * share, 1),
            "images_per_second": round(self.images * share, 1),
        }
        self._reset()
        return rates
