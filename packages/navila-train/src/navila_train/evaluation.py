"""Evaluation during training: the loss on data that is held out, and callbacks that score the model."""

from __future__ import annotations

import copy
import datetime
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from navila.callbacks import Evaluator
from navila.constants import IGNORE_INDEX
from navila.errors import ConfigError, NavilaError
from navila.model import NavilaForCausalLM
from navila.options import construct, parse_options
from navila.plugins import default_host
from navila_data.collator import Collator
from navila_data.failures import FailureLog
from navila_data.mixture import Mixture
from navila_data.processor import EncodedMixture
from navila_data.sampler import EpochIndex
from navila_data.stream import batches_of
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from navila_train.feed import Feed, failures_of_all, open_mixture, row_batching
from navila_train.parse import Arguments
from navila_train.sequence_parallel import SequenceParallel
from navila_train.stopping import ignore_stop_signals

#: How long processes wait for the one that runs callbacks: longer than anything sensible takes.
PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Data that is not trained on, in batches of one source each; the same ones for any number of processes."""

    dataset: EncodedMixture
    collator: Collator
    batches: Sequence[Sequence[EpochIndex]]
    """This process's share; as many for every process, the last ones empty where there are not enough."""
    sources: Sequence[str]
    """The dataset each of these batches is of."""
    names: Sequence[str]
    """All datasets, in the order of the mixture."""

    @classmethod
    def open(cls, arguments: Arguments, feed: Feed, *, rank: int, world: int) -> HeldOut | None:
        """The data of `--eval_data_mixture`, laid out as the training's; None where none is asked for.

        Raises:
            NavilaError: it cannot be opened, or nothing says when to look at it.
        """
        data, training = arguments.data, arguments.training
        if not data.eval_data_mixture:
            return None
        if not evaluates(arguments):
            raise ConfigError(
                "--eval_data_mixture is never looked at: give --eval_strategy steps --eval_steps N, or --eval_strategy "
                "epoch."
            )
        mixture = open_mixture(arguments, data.eval_data_mixture, rebalance="")
        # Every frame is shown: what is left out and changed in training is drawn.
        processor = copy.copy(feed.dataset.processor)
        processor.history_dropout = 0.0
        batching = batches_of(training.per_device_eval_batch_size)
        if data.packing:
            batching, _ = row_batching(mixture, processor, arguments, processor.max_length, seed=0)
        numbered: list[tuple[str, list[int]]] = [
            (name, batch) for name, indices in _by_source(mixture).items() for batch in batching(indices, 0)
        ]
        steps = -(-len(numbered) // world)
        numbered += [(numbered[0][0], [])] * (steps * world - len(numbered))
        own = numbered[rank::world]
        return cls(
            dataset=EncodedMixture(mixture, processor),
            collator=feed.collator,
            batches=[[EpochIndex(0, index) for index in batch] for _, batch in own],
            sources=[name for name, _ in own],
            names=list(mixture.counts()),
        )

    def loader(self, *, workers: int = 0, prefetch: int | None = None) -> DataLoader[Any]:
        """The batches, loaded without touching the random state of the training."""
        return DataLoader(
            self.dataset,
            batch_sampler=self.batches,  # type: ignore[arg-type]
            collate_fn=self.collator,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            generator=torch.Generator(),
            worker_init_fn=ignore_stop_signals,
        )


def _by_source(mixture: Mixture) -> dict[str, list[int]]:
    """Numbers of the mixture's samples, by the name of their dataset."""
    sources: dict[str, list[int]] = {}
    start = 0
    for part in mixture.parts:
        sources.setdefault(part.dataset.name, []).extend(range(start, start + len(part.indices)))
        start += len(part.indices)
    return sources


def evaluates(arguments: Arguments) -> bool:
    """Whether the training stops to evaluate at all."""
    training = arguments.training
    return str(training.eval_strategy.value) != "no" or bool(training.eval_on_start)  # type: ignore[union-attr]


def make_callbacks(arguments: Arguments) -> list[TrainerCallback]:
    """The callbacks of `--callback NAME[:KEY=VALUE,…]`.

    Raises:
        UnknownComponentError: there is no such callback.
        ConfigError: it has no such option, or scores the model when nothing says when.
    """
    registry = default_host().registry("callback")
    callbacks: list[TrainerCallback] = []
    for word in arguments.training.callback or ():
        name, _, options = word.partition(":")
        keywords = parse_options(options.split(",") if options else (), "callback")
        callback: TrainerCallback = construct(registry.load(name), keywords, f"callback {name}")
        scores = isinstance(callback, Evaluator)
        if scores and not evaluates(arguments):
            raise ConfigError(
                f"--callback {name} would never score the model: give --eval_strategy steps --eval_steps N."
            )
        callbacks.append(callback)
    return callbacks


def require_whole_model(callbacks: Sequence[TrainerCallback], *, divided: str | None) -> None:
    """Make sure that one process can score the model; `divided` names what cuts it up, if anything does.

    Raises:
        ConfigError: a callback scores the model, and no process has all of it.
    """
    if divided and any(isinstance(callback, Evaluator) for callback in callbacks):
        raise ConfigError(
            f"A --callback that scores the model needs all of it on one process, and {divided} divides it: use ZeRO 1, "
            "2 or none, or `navila eval` on checkpoints."
        )


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    data: HeldOut,
    *,
    loader: Iterator[Mapping[str, Any]],
    failures: FailureLog,
    parallel: SequenceParallel | None,
    device: torch.device,
) -> dict[str, float]:
    """Mean next-token loss over all labels of all processes: `loss`, and `NAME_loss` of each dataset.

    Args:
        model: in evaluation mode, with whatever is wrapped around it.
        loader: gives the batches of `data`, on the model's device, with their `notes`.
        failures: counts what is wrong with them.

    Raises:
        DataError: too many samples are broken.
    """
    more: dict[str, Any] = {"supervised_logits_only": True} if parallel is None else {"sequence_parallel": parallel}
    # Every process of a sequence group has counted the same labels.
    counts_labels = parallel is None or parallel.groups.sequence.rank() == 0
    totals = {name: [0.0, 0.0] for name in data.names}
    for source, batch in zip(data.sources, loader, strict=True):
        inputs = dict(batch)
        failures.count(inputs.pop("notes"))
        labels = int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum())
        totals[source][0] += model(**inputs, **more, num_items_in_batch=1).loss.item()
        totals[source][1] += labels * counts_labels
    failures_of_all(failures, parallel).require_few()
    sums = torch.tensor([totals[name] for name in data.names], dtype=torch.float64)
    if dist.is_initialized():
        sums = sums.to(device)
        dist.all_reduce(sums)
    means = {f"{name}_loss": _mean(row) for name, row in zip(data.names, sums, strict=True)}
    return {"loss": _mean(sums.sum(0)), **means}


def _mean(total: Tensor) -> float:
    """Sum over number, (2,) to a number; NaN where nothing was counted."""
    return float(total[0] / total[1])


@torch.no_grad()
def callback_scores(
    model: NavilaForCausalLM, callbacks: Sequence[TrainerCallback], *, step: int, output_dir: Path
) -> dict[str, float | None]:
    """What the callbacks that score the model say; computed by the first process, known to all.

    The others wait at a connection of their own, which lasts as long as it takes, not at one of those that time out.

    Raises:
        NavilaError: on every process, what a callback raised on the first one.
    """
    evaluators = [callback for callback in callbacks if isinstance(callback, Evaluator)]
    if not evaluators:
        return {}
    first = not dist.is_initialized() or dist.get_rank() == 0
    scores: dict[str, float | None] = {}
    problem: Exception | None = None
    group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if dist.is_initialized() else None
    if first:
        try:
            for evaluator in evaluators:
                scores |= evaluator.evaluate(model, step=step, output_dir=output_dir)
        except Exception as error:
            problem = error
    if group is not None:
        told: list[Any] = [scores, str(problem) if problem else ""]
        dist.broadcast_object_list(told, src=0, group=group)
        dist.destroy_process_group(group)
        if not first and told[1]:
            raise NavilaError(f"The first process could not score the model: {told[1]}")
        scores = told[0]
    if problem is not None:
        raise problem
    return scores


@contextmanager
def as_in_evaluation(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; its modes and every random state are put back as they were."""
    modes = {module: module.training for module in model.modules()}
    numbers, drawn = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            random.setstate(numbers)
            np.random.set_state(drawn)
