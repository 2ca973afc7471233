"""What of weights, gradients and optimizer states a GPU holds, by engine.

Counting follows ZeRO (Rajbhandari et al., arXiv 1910.02054, section 3): of a trained weight, Adam keeps two float32
numbers, and mixed precision a float32 copy besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from navila_train.parse import TrainingArguments

#: Bytes that optimizers keep of a trained weight, by the beginning of their names in `--optim`.
_OPTIMIZERS = (
    # A block of 2,048 numbers of 8 bits has a float32 scale (arXiv 2110.02861).
    (("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), 2 + 8 / 2048),
    (("adamw_torch_4bit",), 1 + 8 / 128),
    (("lion_8bit", "paged_lion_8bit"), 1 + 4 / 2048),
    (("adafactor", "sgd_none"), 0.0),
    (("sgd", "lion", "paged_lion", "rmsprop", "adagrad"), 4.0),
)
_ADAM = 8.0
#: DeepSpeed's sizes of buckets, in numbers, where its configuration does not say.
_BUCKET = 5e8
_MAX_LIVE = 1e9
_SUB_GROUP = 1e9
#: Processes of a machine, within which MiCS and hpZ keep whole copies.
MACHINE = 8


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Bytes and numbers of a model's parameters."""

    trained: int
    """Numbers that are trained."""
    frozen: int
    """Numbers that are not."""
    trained_bytes: float
    """Bytes as they lie on one GPU that has all of them."""
    frozen_bytes: float
    largest: int
    """Numbers of the largest parameter."""

    @classmethod
    def of(cls, model: nn.Module, packed: Mapping[str, float] | None = None) -> Weights:
        """Count, every tensor once; `packed` gives bytes a number of those that are kept in fewer bits."""
        counts = {True: 0, False: 0}
        sizes = {True: 0.0, False: 0.0}
        largest = 0
        for name, parameter in model.named_parameters():
            trains, number = parameter.requires_grad, parameter.numel()
            counts[trains] += number
            sizes[trains] += number * (packed or {}).get(name, parameter.element_size())
            largest = max(largest, number)
        return cls(
            trained=counts[True],
            frozen=counts[False],
            trained_bytes=sizes[True],
            frozen_bytes=sizes[False],
            largest=largest,
        )


@dataclass(frozen=True, kw_only=True)
class States:
    """Bytes on a GPU, and of all its processes' shares in a machine's own memory."""

    parameters: float
    gradients: float
    optimizer: float
    buffers: float
    """Gathered parameters, buckets of gradients and copies for the optimizer's step."""
    host: float = 0.0
    """Bytes a process keeps in the machine's memory instead."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How weights are divided, as flags and DeepSpeed's configuration say."""

    name: str
    dtype: torch.dtype
    """Of the weights that forward and backward use."""
    autocast: bool
    gpus: int
    stage: int = 0
    """Of ZeRO; 0 for one process, DDP and FSDP."""
    fsdp: bool = False
    zero: Mapping[str, Any] | None = None
    """DeepSpeed's `zero_optimization`."""
    per_optimizer: float = _ADAM

    @classmethod
    def of(cls, training: TrainingArguments, gpus: int) -> Engine:
        """What the flags ask for."""
        low = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32
        optim = str(getattr(training.optim, "value", training.optim))
        per_optimizer = next((size for names, size in _OPTIMIZERS if optim.startswith(names)), _ADAM)
        common: dict[str, Any] = {"gpus": gpus, "per_optimizer": per_optimizer}
        if training.deepspeed:
            zero = dict(training.hf_deepspeed_config.config.get("zero_optimization") or {})
            stage = int(zero.get("stage", 0))
            return cls(
                name=f"DeepSpeed ZeRO-{stage}{_variant(zero)}",
                dtype=low,
                autocast=False,
                stage=stage,
                zero=zero,
                **common,
            )
        autocast = low != torch.float32
        if training.fsdp:
            return cls(name="FSDP", dtype=torch.float32, autocast=autocast, fsdp=True, **common)
        return cls(name="DDP" if gpus > 1 else "one process", dtype=torch.float32, autocast=autocast, **common)

    def states(self, weights: Weights, *, hidden_size: int) -> States:
        """What a GPU holds; `weights` in `dtype`."""
        if self.zero is not None:
            return self._zero(weights, hidden_size, self.zero)
        optimizer = self.per_optimizer * weights.trained
        gradients = weights.trained_bytes
        parameters = weights.trained_bytes + weights.frozen_bytes
        if self.fsdp:
            # What computes and what comes next are whole, in the type of autocast.
            width = 2 if self.autocast else 4
            return States(
                parameters=parameters / self.gpus,
                gradients=gradients / self.gpus,
                optimizer=optimizer / self.gpus,
                buffers=2 * width * weights.largest,
            )
        # DDP's buckets are a second copy of the gradients.
        buckets = gradients if self.gpus > 1 else 0.0
        return States(parameters=parameters, gradients=gradients, optimizer=optimizer, buffers=buckets)

    def _zero(self, weights: Weights, hidden_size: int, zero: Mapping[str, Any]) -> States:
        width = self.dtype.itemsize
        machine = min(self.gpus, MACHINE)
        shards = _group(zero, "mics_shard_size", machine) or self.gpus
        parameters = weights.trained_bytes + weights.frozen_bytes
        gradients = weights.trained_bytes
        # A float32 copy of the weights besides, also where they are float32 themselves.
        optimizer = (4 + self.per_optimizer) * weights.trained / (shards if self.stage else 1)
        copies = 2 if zero.get("overlap_comm") else 1
        buffers = copies * width * _size(zero, "reduce_bucket_size", _BUCKET, auto=hidden_size**2)
        if self.stage >= 2:
            gradients /= shards
        if self.stage == 3:
            numbers = weights.trained + weights.frozen
            live = min(_size(zero, "stage3_max_live_parameters", _MAX_LIVE), numbers)
            prefetch = _size(zero, "stage3_prefetch_bucket_size", _BUCKET / 10, auto=0.9 * hidden_size**2)
            buffers += width * (live + min(prefetch, numbers))
            if machines := _group(zero, "zero_hpz_partition_size", machine):
                buffers += parameters / machines
            parameters /= shards
        elif self.stage:
            buffers += width * _size(zero, "allgather_bucket_size", _BUCKET)
        # The optimizer's step takes gradients in float32, so many at a time.
        group = _size(zero, "sub_group_size", _SUB_GROUP) if self.stage == 3 else weights.trained
        step = 4 * min(weights.trained / (shards if self.stage else 1), group)
        host = 0.0
        if _offloaded(zero, "offload_optimizer"):
            host, optimizer, step = host + optimizer + step, 0.0, 0.0
            gradients = 0.0 if self.stage >= 2 else gradients
        if self.stage == 3 and _offloaded(zero, "offload_param"):
            host, parameters = host + parameters, 0.0
        return States(
            parameters=parameters, gradients=gradients, optimizer=optimizer, buffers=buffers + step, host=host
        )


def _size(zero: Mapping[str, Any], key: str, default: float, *, auto: float | None = None) -> float:
    value = zero.get(key, default)
    return float((default if auto is None else auto) if value == "auto" else value)


def _group(zero: Mapping[str, Any], key: str, machine: int) -> int:
    """Size of the groups that keep whole copies; 0 where there are none, `machine` where a plan cannot know."""
    value = zero.get(key, 0)
    return machine if value in (1, "auto") else max(int(value), 0)


def _offloaded(zero: Mapping[str, Any], key: str) -> bool:
    return (zero.get(key) or {}).get("device", "none") not in ("none", None)


def _variant(zero: Mapping[str, Any]) -> str:
    names = {"mics_shard_size": " MiCS", "zero_hpz_partition_size": " hpZ"}
    words = [word for key, word in names.items() if _group(zero, key, 1)]
    offloaded = [what for what in ("optimizer", "param") if _offloaded(zero, f"offload_{what}")]
    return "".join(words) + (f", {' and '.join(offloaded)} offloaded" if offloaded else "")
