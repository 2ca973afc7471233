"""One training, from arguments to a finished checkpoint."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import navila
import transformers
from navila.callbacks import Evaluator
from navila.errors import EXIT_RESUME, ConfigError, Interrupted
from navila.model import NavilaForCausalLM, build
from navila.model.context import record_length
from navila.model.location import MODEL_TYPES, checkpoint_folder, read_json
from navila.model.packed_attention import PACKED
from navila.model.vocabulary import add_config_tokens
from navila.plugins import default_host
from navila_data.stream import Position
from transformers import set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from navila_train import checkpoints
from navila_train.adapters import check_adapter, put_adapter, quantization
from navila_train.agreement import from_first, wait_for_all
from navila_train.checkpoint_files import clear_temporary
from navila_train.engine_trainer import check_engine, check_launch
from navila_train.evaluation import HeldOut, evaluates, make_callbacks, require_whole_model
from navila_train.feed import Feed, make_feed, open_mixture, texts_of, upcoming
from navila_train.parse import Arguments
from navila_train.planning import tell_plan
from navila_train.reports import name_reports
from navila_train.safe_trainer import Safety
from navila_train.sequence_parallel import SequenceGroups, SequenceParallel
from navila_train.sequence_parallel.groups import check_sizes
from navila_train.stopping import Stopper, StopSignals
from navila_train.tokenizers import build_word_tokenizer
from navila_train.trainer import LOG, LogFile, NavilaTrainer
from navila_train.zero import whole_parameters

#: Longest sequence when nothing says another.
DEFAULT_LENGTH = 4096
#: `--tokenizer` value that builds one from the data.
WORDS = "words"


def run(arguments: Arguments, started: float | None = None) -> None:
    """Train, or finish an interrupted training; say so and return when it is finished already. Or tell a plan.

    Args:
        arguments: what to train.
        started: when the process began, in seconds since 1970, from where `--time_limit` counts; now when None.

    Raises:
        Interrupted: the training was stopped early, and the same arguments go on with it.
        NavilaError: an argument, the data or a part is wrong.
    """
    if arguments.plan.plan:
        tell_plan(arguments, lambda model: prepare(model, arguments, None))
        return
    with StopSignals() as signals:
        _run(arguments, signals, time.time() if started is None else started)


def _run(arguments: Arguments, signals: StopSignals, started: float) -> None:
    training = arguments.training
    output = Path(training.output_dir or "")
    if checkpoints.finished(output):
        say(f"{output} holds a finished training; choose another --output_dir to train again.")
        return
    set_seed(training.seed)
    check_launch(training, world=processes())
    check_adapter(arguments)
    parallel = sequence_parallel(arguments)
    rank, world = training.process_index, processes()
    resume = from_first(lambda: find_checkpoint(arguments, output))
    mixture = open_mixture(arguments, arguments.data.data_mixture)
    for name, count in mixture.counts().items():
        say(f"data {name}: {count} samples an epoch")
    for name, labels in mixture.labels().items():
        say(f"data {name}, balanced: {', '.join(f'{count} {label}' for label, count in labels.items())}")
    with whole_parameters():
        model = make_model(arguments)
    length = longest_sequence(model, arguments)
    record_length(model.llm, model.tokenizer, length)
    prepare(model, arguments, resume)
    if arguments.data.packing and model.llm.config._attn_implementation == "sdpa":
        # It would make a mask of all pairs of a row's tokens.
        model.llm.set_attn_implementation(PACKED)
    if parallel is not None:
        parallel.prepare(model)
    if parallel is not None:
        rank, world = parallel.groups.data_rank, parallel.groups.data_world
    start = Position()
    if resume is not None:
        check_engine(resume, training)
        say(f"resuming from {resume}")
        start = checkpoints.position(resume, training.gradient_accumulation_steps)
    feed = make_feed(model, mixture, arguments, max_length=length, rank=rank, world=world, start=start)
    if resume is not None:
        checkpoints.require_same_data(resume, feed.identity)
    if arguments.data.show_order:
        for batch in upcoming(feed, arguments.data.show_order) if training.process_index == 0 else ():
            print(json.dumps(batch))
        return
    held_out = HeldOut.open(arguments, feed, rank=rank, world=world)
    for name, count in held_out.dataset.mixture.counts().items() if held_out else ():
        say(f"held out {name}: {count} samples")
    safety = Safety.of(training, signals, started)
    trainer = make_trainer(safety, model, feed, arguments, parallel, held_out)
    if resume is not None:
        trainer.restore(resume)
        before = checkpoints.counted(resume)
        trainer.loss_sum = before["loss"]
        if trainer.is_world_process_zero():
            feed.failures.add(before["data"])
    result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if safety.stopper.reason:
        leave(safety.stopper, output, step=result.global_step, steps=trainer.state.max_steps)
    trainer.save_model(str(output))
    trainer.save_state()
    failures = trainer.all_failures()
    loss = float(trainer.loss_sum) / max(result.global_step, 1)
    if trainer.is_world_process_zero():
        facts = {
            "steps": result.global_step,
            "steps_left_out": safety.guard.left_out,
            "loss": loss,
            "seconds": round(time.time() - started, 1),
            "samples": mixture.counts(),
            "broken_samples": len(failures.failures),
            "shortened_samples": failures.shortened,
            "frames": dict(failures.frames),
            "arguments": arguments.given,
            "versions": {"transformers": transformers.__version__, **default_host().provenance()},
        }
        checkpoints.mark_finished(output, facts)
    say(f"trained {result.global_step} steps, mean loss {loss:.4f}; model in {output}")
    if training.load_best_model_at_end:
        say(f"it is that of step {trainer.state.best_global_step}: {training.metric_for_best_model} was best there")
    if failures.shortened:
        say(f"{failures.shortened} samples were too long and lost history frames or late turns")
    if arguments.data.frame_cache_dir:
        counts = failures.frames
        say(
            f"{counts['from_disk']} frames came from {arguments.data.frame_cache_dir}, {counts['decoded']} were "
            f"decoded, {counts['left_out']} found no room there, {counts['damaged']} were damaged"
        )
    if failures.failures:
        say(f"{len(failures.failures)} broken samples were left out, e.g. {next(iter(failures.failures.values()))}")


def find_checkpoint(arguments: Arguments, output: Path) -> Path | None:
    """What to go on from, with what an interrupted run left half-done put away.

    Raises:
        CheckpointError: the one that was named is damaged.
    """
    if not arguments.data.show_order:
        clear_temporary(output)
    training = arguments.training
    return checkpoints.to_resume(training.resume_from_checkpoint, output, auto=training.auto_resume, tell=say)


def leave(stopper: Stopper, output: Path, *, step: int, steps: int) -> NoReturn:
    """End a training that was stopped early with exit code 75, on all processes; one tells why.

    Raises:
        Interrupted: on the first process.
        SystemExit: on the others.
    """
    wait_for_all()
    if os.environ.get("RANK", "0") != "0":
        raise SystemExit(EXIT_RESUME)
    kept = output / f"checkpoint-{step}"
    raise Interrupted(
        f"Stopped after step {step} of {steps} by {stopper.reason}, kept in {kept}: run the same command to go on."
    )


def make_model(arguments: Arguments) -> NavilaForCausalLM:
    """The model to train: a whole checkpoint, or parts put together.

    Raises:
        ConfigError: a part is missing.
    """
    wanted = arguments.model
    base = wanted.model_name_or_path
    if base and is_composed(base):
        parts = [part for part in ("llm", "vision_tower", "mm_projector", "tokenizer") if getattr(wanted, part)]
        if parts:
            raise ConfigError(f"{base} is a whole model: leave --{parts[0]} out, or name a language model instead.")
        quantizer = quantization(arguments)
        model = navila.load(
            base,
            # Packed weights are made where they are used.
            device="cpu" if quantizer is None else arguments.training.device,
            dtype="float32",
            quantization=quantizer,
            attn_implementation=wanted.attn_implementation,
            template=wanted.conversation,
            model_max_length=arguments.training.model_max_length,
        )
        model.config.num_video_frames = arguments.data.num_video_frames
        if wanted.mm_use_im_start_end:
            model.config.mm_use_im_start_end = True
        if wanted.num_time_tokens:
            model.config.update(time_tokens(arguments))
        add_config_tokens(model.config, model.tokenizer, model.llm)
        return model
    if arguments.adapter.lora_enable or arguments.adapter.bits != 16:
        raise ConfigError(
            "Adapters and --bits are for whole checkpoints: give one as --model_name_or_path, made of parts by "
            "`navila model build`."
        )
    llm = wanted.llm or base
    missing = [
        flag
        for flag, value in (("llm", llm), ("vision_tower", wanted.vision_tower), ("mm_projector", wanted.mm_projector))
        if not value
    ]
    if missing:
        raise ConfigError(
            f"The model lacks a part: give --{missing[0]}, or --model_name_or_path with a whole checkpoint."
        )
    return build(
        llm,  # type: ignore[arg-type]
        wanted.vision_tower,  # type: ignore[arg-type]
        wanted.mm_projector,  # type: ignore[arg-type]
        make_tokenizer(arguments),
        template=wanted.conversation,
        attn_implementation=wanted.attn_implementation,
        model_max_length=arguments.training.model_max_length,
        num_video_frames=arguments.data.num_video_frames,
        image_aspect_ratio=arguments.data.image_aspect_ratio,
        mm_vision_select_layer=wanted.mm_vision_select_layer,
        mm_vision_select_feature=wanted.mm_vision_select_feature,
        mm_use_im_start_end=wanted.mm_use_im_start_end,
        **time_tokens(arguments),
    )


def time_tokens(arguments: Arguments) -> dict[str, Any]:
    """Fields of the model's config about tokens for points in time."""
    wanted = arguments.model
    return {name: getattr(wanted, name) for name in ("num_time_tokens", "time_token_format", "soft_ce_std")}


def is_composed(path: str) -> bool:
    """Whether a folder or Hub id is a checkpoint of all parts.

    Raises:
        CheckpointError: there is no such folder or repository, or it has no `config.json`.
    """
    return read_json(checkpoint_folder(path) / "config.json").get("model_type") in MODEL_TYPES


def make_tokenizer(arguments: Arguments) -> Any:
    """The tokenizer, or its folder, or None for the language model's own."""
    wanted = arguments.model
    if wanted.tokenizer != WORDS:
        return wanted.tokenizer
    mixture = open_mixture(arguments, wanted.tokenizer_mixture or arguments.data.data_mixture)
    return build_word_tokenizer(
        texts_of(mixture), model_max_length=arguments.training.model_max_length or DEFAULT_LENGTH
    )


def prepare(model: NavilaForCausalLM, arguments: Arguments, resume: Path | None) -> None:
    """Choose what is trained, and put the adapter on it; raises as both."""
    choose_trainable(model, arguments)
    put_adapter(model, arguments, resume)


def choose_trainable(model: NavilaForCausalLM, arguments: Arguments) -> None:
    """Freeze the parts that are not to be trained.

    Raises:
        ConfigError: none is to be trained.
    """
    training, adapter = arguments.training, arguments.adapter
    choices = (training.tune_language_model, training.tune_vision_tower, training.tune_mm_projector)
    untold = all(choice is None for choice in choices) and not adapter.lora_enable
    llm, vision_tower, mm_projector = (untold or bool(choice) for choice in choices)
    if not (llm or vision_tower or mm_projector or adapter.lora_enable):
        raise ConfigError(
            "No part is to be trained: set --tune_language_model, --tune_vision_tower or --tune_mm_projector."
        )
    model.set_trainable(llm=llm, vision_tower=vision_tower, mm_projector=mm_projector)


def longest_sequence(model: NavilaForCausalLM, arguments: Arguments) -> int:
    """The longest sequence to train on: as told, else as the model was trained, else what fits."""
    config = model.llm.config
    recorded = arguments.training.model_max_length or getattr(config, "tokenizer_model_max_length", None)
    return recorded or min(DEFAULT_LENGTH, getattr(config, "max_position_embeddings", None) or DEFAULT_LENGTH)


def sequence_parallel(arguments: Arguments) -> SequenceParallel | None:
    """How rows are divided over processes; None if each process has rows of its own.

    Raises:
        ConfigError: the sizes do not fit, or options contradict each other.
    """
    training = arguments.training
    size, ring = (1 if n == -1 else n for n in (training.seq_parallel_size, training.seq_parallel_ring_size))
    check_sizes(size, ring, training.seq_parallel_ring_type, world=processes())
    if size == 1:
        return None
    if arguments.data.share_prefix:
        raise ConfigError("--share_prefix and --seq_parallel_size do not go together: leave one of them out.")
    if not training.average_tokens_across_devices:
        raise ConfigError(
            "--seq_parallel_size weighs tokens over all processes: leave --average_tokens_across_devices out."
        )
    # Asking for it starts the process group.
    if training.world_size != processes():
        raise ConfigError(f"{processes()} processes were launched and {training.world_size} found each other.")
    return SequenceParallel(SequenceGroups.open(size, ring, training.seq_parallel_ring_type))


def processes() -> int:
    """How many the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_trainer(
    safety: Safety,
    model: NavilaForCausalLM,
    feed: Feed,
    arguments: Arguments,
    parallel: SequenceParallel | None = None,
    held_out: HeldOut | None = None,
) -> NavilaTrainer:
    """Put model, data and Trainer together.

    Raises:
        ConfigError: the launch is wrong.
    """
    training = arguments.training
    output = Path(training.output_dir or "")
    output.mkdir(parents=True, exist_ok=True)
    name_reports(training)
    callbacks = [LogFile(output / LOG), *make_callbacks(arguments)]
    if evaluates(arguments) and held_out is None and not any(isinstance(c, Evaluator) for c in callbacks):
        raise ConfigError(
            "There is nothing to evaluate: give --eval_data_mixture, or a --callback such as benchmark:task=houses."
        )
    trainer = NavilaTrainer(
        model,
        feed=feed,
        safety=safety,
        sequence_parallel=parallel,
        held_out=held_out,
        args=training,
        callbacks=callbacks,
    )
    divided = "ZeRO 3" if is_deepspeed_zero3_enabled() else "FSDP" if trainer.sharded else None
    require_whole_model(callbacks, divided=divided)
    if trainer.accelerator.num_processes != processes():
        # The Trainer would let every rank train alone, without a word.
        raise ConfigError(
            f"{processes()} processes were launched and the Trainer sees {trainer.accelerator.num_processes}: "
            "set --use_cpu on machines without GPUs, or launch as many processes as there are GPUs."
        )
    return trainer


def say(text: str) -> None:
    """Tell the user, once a job."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
