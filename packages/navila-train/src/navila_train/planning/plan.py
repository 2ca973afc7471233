"""A plan: what each GPU holds, whether it fits, the longest sample that does, and how long an epoch takes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from navila.errors import ConfigError, NavilaError
from navila.files import write_atomically

from navila_train.feed import open_mixture
from navila_train.flops import StepFlops
from navila_train.gpus import find_gpu
from navila_train.parse import Arguments
from navila_train.planning.blueprint import Blueprint
from navila_train.planning.engines import Engine, Weights
from navila_train.planning.micro_batch import SUPERVISED, Measured, Prepare, Shape
from navila_train.sequence_parallel.groups import check_sizes

#: What CUDA, its libraries and NCCL take, bytes.
CONTEXT = 1.5 * 2**30
#: Share of the rest that the allocator loses between blocks.
FRAGMENTS = 0.05
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Figures of a training that has not begun."""

    gpu: str
    gpus: int
    engine: str
    precision: str
    gradient_checkpointing: bool
    sequence_parallel: int
    """Processes that share a row."""
    parameters: dict[str, int]
    """Of each part."""
    trained: int
    rows: int
    """Of a micro-batch."""
    row_tokens: int
    """The longest a row can be."""
    images: int
    """Of a micro-batch."""
    memory: dict[str, float]
    """Bytes a GPU, by what takes them."""
    available: int
    """Bytes that the GPU has."""
    host_memory: float
    """Bytes that every process keeps in the machine's memory."""
    longest_tokens: int
    """The longest sample that fits, alone in a micro-batch; 0 where none does."""
    longest_frames: int
    mfu: float
    """Assumed."""
    sample_tokens: int
    """Tokens of the sample that speed is told for."""
    tokens_per_second: float | None
    """Of all GPUs; None where the GPU's operations a second are unknown."""
    samples_per_second: float | None
    samples: dict[str, int] = field(default_factory=dict)
    """An epoch of the data, where they are there."""
    hours: float | None = None
    """Of the whole training."""

    @property
    def total(self) -> float:
        """Bytes a GPU."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a GPU has as much."""
        return self.total <= self.available

    def to_json(self) -> str:
        """Every figure."""
        return json.dumps({**asdict(self), "total": self.total, "fits": self.fits}, indent=2) + "\n"

    def to_text(self) -> str:
        """To read."""
        shared = f", {self.sequence_parallel} GPUs share a row" if self.sequence_parallel > 1 else ""
        checkpointing = ", gradient checkpointing" if self.gradient_checkpointing else ""
        parts = ", ".join(f"{part} {_count(count)}" for part, count in self.parameters.items())
        whole = f"{_count(sum(self.parameters.values()))} parameters ({parts})"
        lines = [
            f"{self.gpus} x {self.gpu}, {self.engine}, {self.precision}{checkpointing}{shared}",
            f"model        {whole}, {_count(self.trained)} trained",
            f"micro-batch  {self.rows} x {self.row_tokens} tokens, {self.images} images, {SUPERVISED:.0%} supervised",
            "",
            f"{'memory of a GPU':<44}{'GiB':>8}",
        ]
        lines += [f"  {name:<42}{size / GIB:8.2f}" for name, size in self.memory.items()]
        verdict = "fits" if self.fits else "does not fit"
        lines += [f"  {'total':<42}{self.total / GIB:8.2f}  of {self.available / GIB:.2f}: {verdict}"]
        if self.host_memory:
            lines += [f"  {'in the memory of the machine, a process':<42}{self.host_memory / GIB:8.2f}"]
        longest = f"{self.longest_tokens} tokens ({self.longest_frames} frames)" if self.longest_tokens else "none"
        lines += ["", f"longest sample that fits, alone in a micro-batch: {longest}"]
        if self.tokens_per_second is None:
            lines += ["speed unknown: name a GPU, e.g. --gpu h100-80gb"]
        else:
            lines += [
                f"speed at {self.mfu:.0%} MFU (assumed): {self.tokens_per_second:,.0f} tokens/s, "
                f"{self.samples_per_second:.2f} samples of {self.sample_tokens} tokens/s"
            ]
        if self.samples:
            time = "" if self.hours is None else f": {self.hours:,.1f} hours of training"
            lines += [f"data {' + '.join(f'{name} {count}' for name, count in self.samples.items())} samples{time}"]
        return "\n".join(lines)


def make_plan(arguments: Arguments, prepare: Prepare, *, counts: Mapping[str, int] | None = None) -> Plan:
    """Work out what a training takes.

    Args:
        arguments: of the training.
        prepare: chooses what is trained, and adds adapters, as the training does.
        counts: samples of an epoch by dataset, where the data are there.

    Raises:
        NavilaError: the GPU or a part is unknown, or sizes do not fit.
    """
    wanted, training = arguments.plan, arguments.training
    gpu, gpus = find_gpu(wanted.gpu), wanted.gpus
    if gpus < 1:
        raise ConfigError(f"--gpus is {gpus}: give how many GPUs there are, at least 1.")
    if not 0 < wanted.plan_mfu <= 1:
        raise ConfigError(f"--plan_mfu is {wanted.plan_mfu}: give a share between 0 and 1, e.g. 0.4.")
    size, ring = (max(n, 1) for n in (training.seq_parallel_size, training.seq_parallel_ring_size))
    check_sizes(size, ring, training.seq_parallel_ring_type, world=gpus)
    blueprint = Blueprint.of(arguments)
    engine = Engine.of(training, gpus)
    model = blueprint.build(dtype=engine.stored)
    prepare(model)
    shape = Shape.of(arguments, model, gpu)
    measured = Measured(blueprint, arguments, engine, prepare, share=size, ring=ring)
    states = engine.states(Weights.of(model, arguments.adapter), hidden_size=model.mm_projector.out_features)
    fixed = states.parameters + states.gradients + states.optimizer + states.buffers

    def memory(shape: Shape) -> dict[str, float]:
        vision, text, exchange = measured.take(shape)
        # The language model runs while the images' activations are kept; its own are gone when theirs are needed.
        activations = {
            "activations of images": vision.kept,
            "activations of the language model": max(text.peak, vision.peak - vision.kept),
        }
        used = fixed + sum(activations.values()) + exchange
        return {
            "parameters": states.parameters,
            "gradients": states.gradients,
            "optimizer": states.optimizer,
            "gathered parameters, buckets, copies": states.buffers,
            **activations,
            **({"exchanged with other GPUs of a row": exchange} if size > 1 else {}),
            "CUDA, libraries, fragments": CONTEXT + FRAGMENTS * used,
        }

    used = memory(shape)
    frames = _most(lambda n: sum(memory(shape.single(n)).values()), gpu.memory)
    tokens = shape.single(frames).row_tokens if frames else 0
    flops = StepFlops.of(model)
    sample = shape.sample_tokens
    operations = flops.total(lengths=[sample], images=shape.frames, labels=math.ceil(sample * SUPERVISED))
    rate = None if gpu.flops is None else gpu.flops * wanted.plan_mfu * gpus / operations
    samples = dict(counts or {})
    seen = sum(samples.values()) * training.num_train_epochs
    if training.max_steps > 0:
        batches = training.max_steps * training.gradient_accumulation_steps * gpus / size
        seen = batches * (shape.row_tokens / sample if arguments.data.packing else shape.rows)
    return Plan(
        gpu=f"{gpu.name} ({gpu.memory / GIB:.1f} GiB)",
        gpus=gpus,
        engine=engine.name,
        precision="bf16" if training.bf16 else "fp16" if training.fp16 else "float32",
        gradient_checkpointing=bool(training.gradient_checkpointing),
        sequence_parallel=size,
        parameters={name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        rows=shape.rows,
        row_tokens=shape.row_tokens,
        images=shape.images,
        memory=used,
        available=gpu.memory,
        host_memory=states.host,
        longest_tokens=tokens,
        longest_frames=frames,
        mfu=wanted.plan_mfu,
        sample_tokens=sample,
        tokens_per_second=None if rate is None else rate * sample,
        samples_per_second=rate,
        samples=samples,
        hours=None if rate is None or not seen else seen / rate / 3600,
    )


def _most(memory: Callable[[int], float], available: float) -> int:
    """The most frames whose `memory` is available; 0 if one is too many. Memory grows nearly in proportion."""
    few, many = 1, 64
    low = memory(few)
    if low > available:
        return 0
    high = memory(many)
    for _ in range(6):
        guess = max(int(few + (available - low) * (many - few) / (high - low)), few)
        if guess in (few, many):
            break
        size = memory(guess)
        if size <= available:
            few, low = guess, size
        else:
            many, high = guess, size
    return few


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def tell_plan(arguments: Arguments, prepare: Prepare) -> None:
    """Print a plan, and write it where `--plan_json` says; raises as `make_plan`."""
    counts: Mapping[str, int] = {}
    if arguments.data.data_mixture:
        try:
            counts = open_mixture(arguments, arguments.data.data_mixture).counts()
        except NavilaError as error:
            print(f"The length of the training is not told, as its data are not here: {error}", file=sys.stderr)
    plan = make_plan(arguments, prepare, counts=counts)
    print(plan.to_text())
    if arguments.plan.plan_json:
        write_atomically(Path(arguments.plan.plan_json), plan.to_json())
