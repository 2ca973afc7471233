"""What of weights, gradients and optimizer states a GPU holds, by engine.

Counting follows ZeRO (Rajbhandari et al., arXiv 1910.02054, section 3): of a trained weight, Adam keeps two float32
numbers, and mixed precision a float32 copy besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from navila.model import NavilaForCausalLM
from torch import nn

from navila_train.arguments import AdapterArguments
from navila_train.fsdp import NAME as FSDP2
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
    """Numbers and bytes of a model's parameters, as they lie on one GPU that has all of them."""

    trained: int
    frozen: int
    trained_bytes: float
    frozen_bytes: float
    outside: int
    """Numbers outside of the language model's and encoder's layers, which FSDP gathers together."""
    unpacked: int
    """Bytes of the largest matrix of 4 or 8 bits, when it is computed with."""

    @classmethod
    def of(cls, model: NavilaForCausalLM, adapter: AdapterArguments) -> Weights:
        """Count, every tensor once; of quantised weights what bitsandbytes keeps."""
        packed = _packed(model, adapter)
        counts, sizes = {True: 0, False: 0}, {True: 0.0, False: 0.0}
        layers = 0
        for name, parameter in model.named_parameters():
            trains, number = parameter.requires_grad, parameter.numel()
            counts[trains] += number
            sizes[trains] += number * packed.get(name, parameter.element_size())
            layers += number if ".layers." in name else 0
        return cls(
            trained=counts[True],
            frozen=counts[False],
            trained_bytes=sizes[True],
            frozen_bytes=sizes[False],
            outside=sum(counts.values()) - layers,
            unpacked=max((2 * model.get_parameter(name).numel() for name in packed), default=0),
        )


def _packed(model: NavilaForCausalLM, adapter: AdapterArguments) -> dict[str, float]:
    """Bytes of each number of the weights that `--bits` packs, by name."""
    if adapter.bits == 16:
        return {}
    # A block of 64 numbers of 4 bits has a float32 scale; doubly quantised 8 bits, and float32 for 256 of those
    # (QLoRA, arXiv 2305.14314, section 3).
    scales = (1 + 4 / 256) / 64 if adapter.double_quant else 4 / 64
    size = 0.5 + scales if adapter.bits == 4 else 1.0
    head = model.get_output_embeddings()
    return {
        f"llm.{name}.weight": size
        for name, module in model.llm.named_modules()
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in name
    }


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
    stored: torch.dtype
    """Of the weights that a GPU keeps."""
    dtype: torch.dtype
    """Of the weights that forward and backward use."""
    autocast: bool
    """Whether matrices are multiplied in a smaller type than that."""
    gpus: int
    stage: int = 0
    """Of ZeRO; 0 for one process, DDP and FSDP."""
    shards: int = 0
    """Processes that share a copy under FSDP2; 0 without it."""
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
                stored=low,
                dtype=low,
                autocast=False,
                stage=stage,
                zero=zero,
                **common,
            )
        whole: dict[str, Any] = {"stored": torch.float32, **common}
        if training.engine == FSDP2:
            return cls(name="FSDP2", dtype=low, autocast=False, shards=training.fsdp_group_size or gpus, **whole)
        name = "DDP" if gpus > 1 else "one process"
        return cls(name=name, dtype=torch.float32, autocast=low != torch.float32, **whole)

    def states(self, weights: Weights, *, hidden_size: int) -> States:
        """What a GPU holds; `weights` in `dtype`."""
        if self.zero is not None:
            return self._zero(weights, hidden_size, self.zero)
        optimizer = self.per_optimizer * weights.trained
        gradients = weights.trained_bytes
        parameters = weights.trained_bytes + weights.frozen_bytes
        if self.shards:
            # What is outside of layers is gathered, and its gradients in float32; layers are small beside it.
            gathered = weights.outside * (self.dtype.itemsize + 4)
            return States(
                parameters=parameters / self.shards,
                gradients=gradients / self.shards,
                optimizer=optimizer / self.shards,
                buffers=gathered,
            )
        # DDP's buckets are a second copy of the gradients.
        buckets = gradients if self.gpus > 1 else 0.0
        return States(
            parameters=parameters, gradients=gradients, optimizer=optimizer, buffers=buckets + weights.unpacked
        )

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
            parameters=parameters,
            gradients=gradients,
            optimizer=optimizer,
            buffers=buffers + step + weights.unpacked,
            host=host,
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
