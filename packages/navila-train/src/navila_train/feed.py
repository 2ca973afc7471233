"""What a training is fed: samples, batches and their order."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, DataError
from navila.model import NavilaForCausalLM
from navila_data.augment import find_augmentations
from navila_data.collator import Collator
from navila_data.dataset import LoadOptions
from navila_data.failures import FailureLog
from navila_data.frame_cache import FrameCache
from navila_data.frames import FrameStore, PixelPipeline
from navila_data.lengths import token_lengths
from navila_data.mixture import Mixture
from navila_data.packing import default_budget, group_by_length, pack
from navila_data.processor import EncodedMixture, Processor
from navila_data.sampler import GroupedSampler, SequentialSampler, ShuffledSampler, WindowedSampler
from navila_data.stream import Batching, BatchStream, Position, RankBatches, batches_of

from navila_train.agreement import gather_objects
from navila_train.parse import Arguments
from navila_train.sequence_parallel import SequenceParallel


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Everything between files and the model's inputs."""

    dataset: EncodedMixture
    collator: Collator
    batches: RankBatches
    """This process's share of the training's batches."""
    failures: FailureLog
    identity: str
    """What decides the batches: a checkpoint's position means nothing in a stream of others."""


def failures_of_all(mine: FailureLog, parallel: SequenceParallel | None) -> FailureLog:
    """What became of the samples of all processes; every process calls this."""
    everyone = FailureLog(mine.policy, total=mine.total, bound=mine.bound)
    # The processes of a sequence group have had the same samples.
    for counted in gather_objects(mine.to_dict())[:: 1 if parallel is None else parallel.size]:
        everyone.add(counted)
    return everyone


def open_mixture(arguments: Arguments, text: str | None, *, rebalance: str | None = None) -> Mixture:
    """Open the data; `rebalance` in place of `--rebalance_actions`.

    Raises:
        ConfigError: no mixture was given.
    """
    data = arguments.data
    if not text:
        raise ConfigError("There is nothing to train on: give --data_mixture, e.g. r2r+rxr or vln:FOLDER.")
    if not 0 <= data.fps < math.inf:
        raise ConfigError(f"--fps is {data.fps}: give frames per second, or 0 to spread --num_video_frames evenly.")
    options = LoadOptions(
        num_frames=data.num_video_frames, fps=data.fps, normalise_instructions=data.normalise_instructions
    )
    root = Path(data.data_path) if data.data_path else None
    balance = data.rebalance_actions if rebalance is None else rebalance
    return Mixture.open(text, root, options, rebalance=balance, progress=_tell("reading actions"))


def _tell(work: str) -> Callable[[int, int], None]:
    """A progress function that keeps one line of a terminal up to date."""

    def tell(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{work}: {done} of {total} samples", end="\n" if done == total else "", file=sys.stderr)

    return tell


def texts_of(mixture: Mixture) -> Iterator[str]:
    """Every different text of a mixture, without the marks of its images."""
    seen = set[str]()
    for index in range(len(mixture)):
        # A broken sample has no words; whoever trains on it counts it, and says why.
        with suppress(DataError):
            for text in [turn.text for turn in mixture[index].turns]:
                if text not in seen:
                    seen.add(text)
                    yield from text.split("<image>")


def make_feed(
    model: NavilaForCausalLM,
    mixture: Mixture,
    arguments: Arguments,
    *,
    max_length: int,
    rank: int,
    world: int,
    start: Position,
) -> Feed:
    """Put the data side of a training together, from the position `start` on.

    Raises:
        ConfigError: the model has no conversation template, or options contradict each other.
    """
    data, training = arguments.data, arguments.training
    if model.template is None:
        raise ConfigError("The model names no conversation template: give --conversation, e.g. llama_3.")
    if data.packing and data.share_prefix:
        raise ConfigError("--packing and --share_prefix are two ways to lay out a batch: leave one of them out.")
    seed = training.seed if training.data_seed is None else training.data_seed
    processor = Processor(
        tokenizer=model.tokenizer,
        template=model.template,
        tokens_per_image=model.tokens_per_image,
        max_length=max_length,
        history_dropout=data.history_dropout,
        seed=seed,
        enclose=model.config.mm_use_im_start_end,
        image_ids=model.image_ids,
    )
    pixels = PixelPipeline(
        model.image_processor,
        model.config.image_aspect_ratio,
        decoding=data.image_decoding,  # type: ignore[arg-type]
    )
    cache = None
    if data.frame_cache_dir:
        limit = int(data.frame_cache_gb * 2**30)
        cache = FrameCache(Path(data.frame_cache_dir), pixels.fingerprint(), max_bytes=limit)
    collator = Collator(
        frames=FrameStore(pixels.resize, read=pixels.read, cache=cache, max_bytes=data.frame_cache_mb << 20),
        to_tensor=pixels.to_tensor,
        pad_token_id=model.tokenizer.pad_token_id,
        mask_broken=data.on_bad_data == "mask",
        share_prefix=data.share_prefix,
        packed=data.packing,
    )
    sampler = _sampler(mixture, arguments, seed)
    batching, budget = _batching(mixture, processor, arguments, max_length, seed)
    if training.max_steps > 0:
        steps = training.max_steps * training.gradient_accumulation_steps
        stream = BatchStream(sampler, batching, limit=start.batches + (steps - start.steps) * world)
    else:
        stream = BatchStream(sampler, batching, epochs=training.num_train_epochs)
    facts = [mixture.counts(), mixture.labels(), seed, data.augment, data.group_by_episode, data.packing, budget]
    facts += [data.shuffle_window] if data.shuffle_window else []
    facts += [str(training.train_sampling_strategy)]
    return Feed(
        dataset=EncodedMixture(mixture, processor, find_augmentations(data.augment)),
        collator=collator,
        batches=RankBatches(stream, rank=rank, world=world, start=start),
        failures=FailureLog(data.on_bad_data, total=len(mixture), bound=data.bad_data_bound),  # type: ignore[arg-type]
        identity=hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16],
    )


def upcoming(feed: Feed, count: int) -> Iterator[dict[str, Any]]:
    """The next `count` batches of all processes: their number, epoch and the names of their samples."""
    stream, first = feed.batches.stream, feed.batches.start.batches
    for number in range(first, min(first + count, len(stream))):
        batch = stream[number]
        yield {"batch": number, "epoch": batch[0].epoch, "samples": [feed.dataset[item].where for item in batch]}


def _sampler(mixture: Mixture, arguments: Arguments, seed: int) -> ShuffledSampler:
    """The order of the samples.

    Raises:
        ConfigError: two orders are asked for at once, or one that there is not.
    """
    data, training = arguments.data, arguments.training
    strategy = str(training.train_sampling_strategy)
    if strategy == "batch_rebalance":
        raise ConfigError("--train_sampling_strategy batch_rebalance is not offered: --packing balances processes.")
    if training.dataloader_drop_last:
        raise ConfigError("--dataloader_drop_last would lose samples, and none need be lost: leave it out.")
    wanted = {
        "group_by_episode": data.group_by_episode,
        "shuffle_window": data.shuffle_window,
        "train_sampling_strategy sequential": strategy == "sequential",
    }
    if len(named := [name for name, value in wanted.items() if value]) > 1:
        raise ConfigError(f"--{named[0]} and --{named[1]} are two orders of samples: leave one of them out.")
    if data.group_by_episode:
        return GroupedSampler(mixture.groups(), chunk=data.group_by_episode, seed=seed)
    if data.shuffle_window:
        return WindowedSampler(mixture.runs(), window=data.shuffle_window, seed=seed)
    if strategy == "sequential":
        return SequentialSampler(len(mixture), seed=seed)
    return ShuffledSampler(len(mixture), seed=seed)


def _batching(
    mixture: Mixture, processor: Processor, arguments: Arguments, max_length: int, seed: int
) -> tuple[Batching, int]:
    """How an epoch's order becomes batches, and their size: tokens of a packed row, else samples."""
    data, training = arguments.data, arguments.training
    by_length = str(training.train_sampling_strategy) == "group_by_length"
    size = training.per_device_train_batch_size
    if data.packing:
        return row_batching(mixture, processor, arguments, max_length, seed)
    if not by_length:
        return batches_of(size), size
    lengths = token_lengths(mixture, processor, _tell("counting tokens")).tolist()
    return lambda order, epoch: group_by_length(order, lengths, size, seed=seed + epoch), size


def row_batching(
    mixture: Mixture, processor: Processor, arguments: Arguments, max_length: int, seed: int
) -> tuple[Batching, int]:
    """How samples are packed into rows, and the tokens of a row.

    Raises:
        ConfigError: a row does not hold the longest sample.
    """
    data = arguments.data
    lengths = token_lengths(mixture, processor, _tell("counting tokens")).tolist()
    budget = data.packing_tokens or max(default_budget(), max_length)
    if (longest := max(lengths)) > budget:
        raise ConfigError(
            f"--packing_tokens is {budget}, and the longest sample takes {longest}: give at least as many, or lower "
            "--model_max_length."
        )
    return lambda order, epoch: pack(order, lengths, budget, seed=seed + epoch), budget
