"""What a training does in a second, for its log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from navila.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from navila.model import NavilaForCausalLM

from navila_train.flops import StepFlops
from navila_train.gpus import gpu_called


class Throughput:
    """Counts what the model is given between two log lines."""

    def __init__(self, model: NavilaForCausalLM) -> None:
        self.tokens_per_image = model.tokens_per_image
        self.cuda = torch.cuda.is_available() and model.device.type != "cpu"
        gpu = gpu_called(torch.cuda.get_device_name()) if self.cuda else None
        self.peak = None if gpu is None else gpu.flops
        """Most operations a second of this process's GPU; None if unknown, and on CPUs."""
        self.flops = None if self.peak is None else StepFlops.of(model)
        self._reset()

    def _reset(self) -> None:
        self.samples = 0
        self.tokens = 0
        self.images = 0
        self.operations = 0.0
        self.waited = 0.0
        self.since = time.perf_counter()

    def waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; the time until each is there is counted."""
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def count(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Count a batch, best before it is on the GPU."""
        ids = inputs["input_ids"]
        sizes = torch.where(ids == IMAGE_TOKEN_INDEX, self.tokens_per_image, 1)
        if "attention_mask" in inputs:
            sizes = sizes * (inputs["attention_mask"] != 0)
        images = len(inputs["pixel_values"]) if "pixel_values" in inputs else 0
        if "position_ids" in inputs:
            # Packed: a sample begins where its positions do; each row begins one.
            starts = (inputs["position_ids"] == 0).flatten().cumsum(0) - 1
            lengths = torch.zeros(int(starts[-1]) + 1, dtype=torch.long).index_add_(0, starts, sizes.flatten())
            self.samples += len(lengths)
        else:
            lengths = sizes.sum(1)
            branches = inputs["branch_ids"].amax(1).clamp(min=1) if "branch_ids" in inputs else torch.ones(len(ids))
            self.samples += int(branches.sum())
        self.tokens += int(lengths.sum())
        self.images += images
        if self.flops is not None:
            labels = int((inputs["labels"] != IGNORE_INDEX).sum())
            self.operations += self.flops.total(lengths=lengths.tolist(), images=images, labels=labels)

    def rates(self, groups: int, processes: int | None = None) -> dict[str, float]:
        """Per second over all processes, and how well they are used; starts the next count.

        This process's count stands for all: their batches are of one size. Images count as often as they were encoded.

        Args:
            groups: how many processes, or groups of them, have batches of their own.
            processes: all processes; `groups` when None.
        """
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = {
            "tokens_per_second": round(self.tokens * groups / seconds, 1),
            "samples_per_second": round(self.samples * groups / seconds, 1),
            "images_per_second": round(self.images * groups / seconds, 1),
            "data_wait": round(self.waited / seconds, 4),
        }
        if self.peak is not None:
            share = groups / (processes or groups)
            rates["mfu"] = round(self.operations * share / seconds / self.peak, 4)
        if self.cuda:
            rates["gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.reset_peak_memory_stats()
        self._reset()
        return rates
