"""The Hugging Face Trainer, told of our batches, parts and checkpoint layout."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import navila
import torch
from navila.errors import ConfigError
from navila.model import NavilaForCausalLM
from navila.model.adapters import has_adapter, read_adapter, save_adapter
from navila_data.failures import FailureLog
from navila_data.stream import RankBatches
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState

from navila_train import fsdp
from navila_train.checkpoints import mark_position
from navila_train.engine_trainer import EngineTrainer
from navila_train.evaluation import HeldOut, as_in_evaluation, callback_scores, held_out_loss
from navila_train.feed import Feed, failures_of_all
from navila_train.parse import TrainingArguments
from navila_train.safe_trainer import SafeTrainer
from navila_train.sequence_parallel import SequenceParallel
from navila_train.stopping import ignore_stop_signals
from navila_train.throughput import Throughput

LOG = "train_log.jsonl"


class NavilaTrainer(SafeTrainer, EngineTrainer):
    """A Trainer of `NavilaForCausalLM`."""

    args: TrainingArguments

    def __init__(
        self,
        model: NavilaForCausalLM,
        *,
        feed: Feed,
        sequence_parallel: SequenceParallel | None = None,
        held_out: HeldOut | None = None,
        **options: Any,
    ) -> None:
        """`feed` gives the batches, `sequence_parallel` divides them; the rest is as in `SafeTrainer`."""
        # What is evaluated is no dataset to the Trainer: `evaluate` knows it.
        options |= {"train_dataset": feed.dataset, "eval_dataset": [], "data_collator": feed.collator}
        super().__init__(model=model, **options)
        self.held_out = held_out
        self.feed = feed
        self.sequence_parallel = sequence_parallel
        self.throughput = Throughput(model)
        self.loss_sum: torch.Tensor | float = 0.0
        """Over all micro-batches, also those before an interruption; the Trainer knows only those since."""
        # To the Trainer the whole training is one pass, over a stream whose epochs may differ in length.
        self.args.max_steps = -(-len(feed.batches) // self.args.gradient_accumulation_steps)
        self.add_callback(StreamEpochs(feed.batches, self.args.gradient_accumulation_steps))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's batches; not handed to accelerate, which would deal them out once more."""
        args = self.args
        workers: dict[str, Any] = {}
        if args.dataloader_num_workers:
            workers = {
                "persistent_workers": args.dataloader_persistent_workers,
                "prefetch_factor": args.dataloader_prefetch_factor,
            }
        return DataLoader(
            self.feed.dataset,
            batch_sampler=self.feed.batches,
            collate_fn=self.feed.collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            worker_init_fn=ignore_stop_signals,
            **workers,
        )

    def get_batch_samples(self, epoch_iterator: Any, *args: Any, **options: Any) -> tuple[list[Any], Any]:
        """The batches of an optimizer step and their number of labels; what was wrong with samples is noted here."""
        batches, count = super().get_batch_samples(self.throughput.waiting(epoch_iterator), *args, **options)
        for batch in batches:
            self.feed.failures.count(batch.pop("notes"))
            self.throughput.count(batch)
        if count is not None:
            # A step whose samples are all broken has no labels, and a loss of 0 that is divided by their number.
            count = torch.as_tensor(count).clamp(min=1)
        if self.sequence_parallel is not None and count is not None:
            # Every process of a group has counted the same labels.
            count = count / self.sequence_parallel.size
        return batches, count

    def all_failures(self) -> FailureLog:
        """What became of the samples of all processes; every process calls this."""
        return failures_of_all(self.feed.failures, self.sequence_parallel)

    def step_figure(self) -> float:
        """How many samples of this process were broken; infinite where none may be."""
        failures = self.feed.failures
        return math.inf if failures.refused else len(failures.failures)

    def judge_figures(self, figures: Sequence[float]) -> None:
        """Raises DataError when the samples of all processes, of a sequence group those of one, are too broken."""
        failures = self.feed.failures
        alone = 1 if self.sequence_parallel is None else self.sequence_parallel.size
        if sum(figures[::alone]) > failures.bound * failures.total:
            self.all_failures().require_few()

    def save_beside(self, folder: Path) -> None:
        """Write the position in the data into a checkpoint; every process calls this."""
        failures = self.all_failures()
        if self.args.should_save:
            done = self.feed.batches.position(self.state.global_step * self.args.gradient_accumulation_steps).batches
            counted = {"loss": float(self.loss_sum), "data": failures.to_dict()}
            mark_position(folder, batches=done, data=self.feed.identity, counted=counted)

    def step_samples(self) -> list[str]:
        """Names of the samples of the step under way, of this process."""
        accumulated = self.args.gradient_accumulation_steps
        first = self.state.global_step * accumulated
        batches = self.feed.batches.between(first, first + accumulated)
        return [self.feed.dataset[item].where for batch in batches for item in batch]

    def note_bad_step(self, facts: Mapping[str, Any]) -> None:
        """Put a step that was left out into the log file."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, LogFile):
                callback.write(facts)

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """As in the Trainer; the loss is added up."""
        loss = super().training_step(*args, **options)
        self.loss_sum = self.loss_sum + loss.detach()
        return loss

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """The model's loss; logits are computed only where there are labels."""
        parallel = self.sequence_parallel
        more: dict[str, Any] = {"supervised_logits_only": True} if parallel is None else {"sequence_parallel": parallel}
        if "pixel_values" not in inputs and self.args.world_size > 1:
            # Where parameters are divided, all processes gather those of the vision encoder together.
            more |= blank_image(self.whole)
        return super().compute_loss(model, {**inputs, **more}, *args, **options)

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Loss on held-out data and figures of callbacks, logged as `eval_…`; leaves the training as it was."""
        began = time.perf_counter()
        scores: dict[str, float | None] = {}
        wrapped: Any = self.model_wrapped
        whole: Any = self.accelerator.unwrap_model(wrapped)
        with as_in_evaluation(wrapped), self.compute_loss_context_manager():
            if self.held_out is not None:
                failures = FailureLog(
                    self.feed.failures.policy, total=len(self.held_out.dataset), bound=self.feed.failures.bound
                )
                scores |= held_out_loss(
                    wrapped,
                    self.held_out,
                    loader=self._held_out_batches(self.held_out),
                    failures=failures,
                    parallel=self.sequence_parallel,
                    device=self.args.device,
                )
            scores |= callback_scores(
                whole,
                self.callback_handler.callbacks,
                step=self.state.global_step,
                output_dir=Path(self.args.output_dir or ""),
            )
        seconds = time.perf_counter() - began
        self.throughput.since += seconds
        metrics = {f"eval_{name}": math.nan if value is None else float(value) for name, value in scores.items()}
        metrics["eval_runtime"] = round(seconds, 3)
        self.log({name: value for name, value in metrics.items() if math.isfinite(value)})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _held_out_batches(self, held_out: HeldOut) -> Iterator[Mapping[str, Any]]:
        """The batches on the model's device, with progress told."""
        args = self.args
        loader = held_out.loader(workers=args.dataloader_num_workers, prefetch=args.dataloader_prefetch_factor)
        self.callback_handler.eval_dataloader = loader  # type: ignore[assignment]
        for batch in loader:
            blank = {} if "pixel_values" in batch or args.world_size == 1 else blank_image(self.whole)
            yield self._prepare_inputs({**batch, **blank})
            self.control = self.callback_handler.on_prediction_step(args, self.state, self.control)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As in the Trainer, with a sentence where the figure to go by is not there."""
        wanted = self.args.metric_for_best_model
        if wanted and f"eval_{wanted.removeprefix('eval_')}" not in metrics:
            names = ", ".join(name for name in metrics if name != "eval_runtime")
            raise ConfigError(f"--metric_for_best_model {wanted} is not among what is evaluated: {names}.")
        return super()._determine_best_metric(metrics, trial)

    def _load_best_model(self) -> None:
        """Read the best checkpoint's weights, which lie in the released layout."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Not counted: transformers' estimate ignores images and walks over all parameters at every step."""
        return 0

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW (or what `--optim` says) with a learning rate a part; norms and biases without weight decay."""
        if self.optimizer is None:
            target: Any = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(target))
            rates = {"mm_projector": self.args.mm_projector_lr, "vision_tower": self.args.vision_tower_lr}
            groups: dict[tuple[float | None, bool], list[nn.Parameter]] = {}
            for name, parameter in target.named_parameters():
                if parameter.requires_grad:
                    rate = rates.get(name.partition(".")[0])
                    groups.setdefault((rate, name in decayed), []).append(parameter)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, target)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                        **({} if rate is None else {"lr": rate}),
                    }
                    for (rate, decay), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with what was done in a second since the last line."""
        if "loss" in logs:
            logs = {**logs, **self.throughput.rates(self.feed.batches.world, self.args.world_size)}
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the released layout, or an adapter: no pickled arguments, no tokenizer beside `llm/`."""
        if self.args.should_save:
            model: Any = self.accelerator.unwrap_model(self.model)
            save = save_adapter if has_adapter(model) else type(model).save_pretrained
            save(model, str(output_dir or self.args.output_dir), state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Read the weights of a checkpoint in the released layout into the model."""
        target: Any = self.model if model is None else model
        if has_adapter(target):
            read_adapter(target, Path(resume_from_checkpoint))
            return
        saved = navila.load(resume_from_checkpoint, device="cpu", dtype=next(target.parameters()).dtype)
        put = fsdp.load_weights if self.is_distributed_loading_by_transformers else type(target).load_state_dict
        put(target, saved.state_dict())


def blank_image(model: NavilaForCausalLM) -> dict[str, torch.Tensor]:
    """Inputs with an image that no token shows, so that it takes no part in the loss."""
    side = model.vision_tower.input_size
    pixels = torch.zeros(1, 3, side, side, device=model.device)
    return {"pixel_values": pixels, "image_index": torch.zeros(0, dtype=torch.long, device=model.device)}


class StreamEpochs(TrainerCallback):
    """Tells the Trainer where the epochs of the stream end, and which part of one is done."""

    def __init__(self, batches: RankBatches, accumulation: int) -> None:
        self.batches = batches
        self.accumulation = accumulation

    def _epochs(self, step: int) -> float:
        return self.batches.stream.epochs_at(self.batches.position(step * self.accumulation).batches)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the epoch of log lines; log, save and evaluate at an epoch's end where that is the strategy."""
        epoch = self._epochs(state.global_step)
        state.epoch = round(epoch, 4)
        if int(epoch) > int(self._epochs(state.global_step - 1)) and state.global_step < state.max_steps:
            control.should_log |= args.logging_strategy == "epoch"
            control.should_save |= args.save_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch"


class LogFile(TrainerCallback):
    """Appends every log line to `train_log.jsonl`; on resuming, lines past the checkpoint are dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the lines of the steps that are not trained again."""
        if not state.is_world_process_zero:
            return
        kept = []
        if state.global_step and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    keep = json.loads(line)["step"] <= state.global_step
                except (ValueError, KeyError, TypeError):
                    # The line that a killed run was writing.
                    continue
                if keep:
                    kept.append(line + "\n")
        self.path.write_text("".join(kept), encoding="utf-8")

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Append one line."""
        if state.is_world_process_zero:
            self.write({"step": state.global_step, **(logs or {})})

    def write(self, facts: Mapping[str, Any]) -> None:
        """Append a line, which must tell its `step`; numbers that are none become null."""
        plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in facts.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
