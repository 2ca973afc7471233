"""A Trainer that stops in order, keeps only whole checkpoints, leaves bad steps out and tells who holds it up."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from navila.errors import CheckpointError, ConfigError, reason
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from navila_train import checkpoint_files
from navila_train.agreement import from_first, gather_objects, gather_rows, wait_for_all
from navila_train.checkpoints import STATE
from navila_train.guard import BadSteps, StepGuard, named
from navila_train.parse import TrainingArguments
from navila_train.stopping import Stopper, StopSignals, find_deadline
from navila_train.watchdog import Stragglers, Watchdog, clear_beats

#: In a checkpoint: what was counted of bad steps, and the losses since the last log line.
SAFETY = "safety.json"
#: Folder of heartbeats below `output_dir`.
HEARTBEATS = "heartbeats"


@dataclass(frozen=True, kw_only=True)
class Safety:
    """What watches over a training."""

    stopper: Stopper
    guard: StepGuard
    watchdog: Watchdog
    stragglers: tuple[Stragglers, Stragglers]
    """By the time until a process begins to compute, and until it has a loss: where the processes meet in between, all
    wait for the slowest."""

    @classmethod
    def of(cls, training: TrainingArguments, signals: StopSignals, started: float) -> Safety:
        """As the arguments ask for, of a process that began at `started`; all processes call this.

        Raises:
            ConfigError: one of them makes no sense.
        """
        for name in ("time_margin", "hang_timeout", "straggler_factor"):
            if not getattr(training, name) >= 0:
                raise ConfigError(f"--{name} is {getattr(training, name)}: give 0 or more.")
        guard = StepGuard(max_bad_steps=training.max_bad_steps, spike_factor=training.spike_factor)
        deadline = from_first(lambda: find_deadline(training.time_limit, started=started, environment=os.environ))
        hosts = gather_objects(socket.gethostname())
        heartbeats = Path(training.output_dir or "") / HEARTBEATS
        from_first(lambda: clear_beats(heartbeats))
        return cls(
            stopper=Stopper(signals, deadline, margin=training.time_margin),
            guard=guard,
            watchdog=Watchdog(heartbeats, rank=training.process_index, timeout=training.hang_timeout),
            stragglers=(
                Stragglers(hosts, "until it begins a step", factor=training.straggler_factor),
                Stragglers(hosts, "until it has a step's loss", factor=training.straggler_factor),
            ),
        )


class SafeTrainer(transformers.Trainer):
    """See the module. Subclasses say which samples a step had, and write what else belongs into a checkpoint."""

    def __init__(self, *, safety: Safety, **options: Any) -> None:
        """`safety` watches; the rest is as in `transformers.Trainer`."""
        super().__init__(**options)
        self.safety = safety
        self.add_callback(safety.stopper)
        self._writing: Path | None = None
        self._met = time.monotonic()
        """When the processes last waited for each other."""
        self._idle = 0.0
        self._step_losses: list[Tensor] = []
        self._losses: list[float] = []
        self._bad = ""
        self._without_loss = 0
        self._logged_at = 0
        self._unlogged: Mapping[str, Any] | None = None

    # What subclasses know.

    def step_samples(self) -> list[str]:
        """Names of the samples of the step under way, of this process."""
        return []

    def step_figure(self) -> float:
        """A number that all processes are to hear of at every step."""
        return 0.0

    def judge_figures(self, figures: Sequence[float]) -> None:
        """Take note of the `step_figure` of every process, in the order of ranks; what is raised, all raise."""

    def save_beside(self, folder: Path) -> None:
        """Write more into a checkpoint, before the Trainer does; every process calls this."""

    def note_bad_step(self, facts: Mapping[str, Any]) -> None:
        """Put a step that was left out on record; the main process calls this."""

    # Steps.

    def train(self, *args: Any, **options: Any) -> Any:
        """As in the Trainer, with heartbeats."""
        with self.safety.watchdog:
            return super().train(*args, **options)

    def get_batch_samples(self, *args: Any, **options: Any) -> tuple[list[Any], Any]:
        """As in the Trainer."""
        self._restore_unlogged()
        self._beat("waiting for data")
        return super().get_batch_samples(*args, **options)

    def _get_num_items_in_batch(self, *args: Any, **options: Any) -> Any:
        self._beat("beginning")
        return super()._get_num_items_in_batch(*args, **options)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """As in the Trainer; a step that is to be left out has no gradient that is a number."""
        self._beat("forward")
        if model.training and not self._step_losses:
            self._idle = time.monotonic() - self._met
        loss: Any = super().compute_loss(model, inputs, *args, **options)
        if not model.training:
            return loss
        self._step_losses.append(loss.detach().float().mean())
        if self.accelerator.sync_gradients:
            self._agree()
            if self._bad:
                # Engines that take the step inside of backward find this, and leave the step out, too.
                loss = loss * math.nan
        self._beat("backward")
        return loss

    def _agree(self) -> None:
        """Tell all processes of this step's loss, and hear what they want; once a step, before its last backward."""
        loss, request = float(torch.stack(self._step_losses).sum()), float(self.safety.stopper.request())
        seconds = (self._idle, time.monotonic() - self._met)
        rows = gather_rows([loss, request, self.step_figure(), *seconds], self.args.device)
        self._losses, requests, figures, *needed = ([row[column] for row in rows] for column in range(5))
        self.judge_figures(figures)
        self.safety.stopper.agree(requests)
        for stragglers, each in zip(self.safety.stragglers, needed, strict=True):
            for text in stragglers.note(each):
                self._tell(f"step {self.state.global_step + 1}: {text}")
        self._bad = self.safety.guard.judge_loss(self._losses)

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """As in the Trainer; what is returned is a number, and that of a step without a loss adds up to 0."""
        loss = super().training_step(*args, **options)
        finite = [torch.nan_to_num(each, nan=0.0, posinf=0.0, neginf=0.0) for each in self._step_losses]
        loss = torch.where(torch.isfinite(loss), loss, finite[-1].to(loss.dtype))
        if not self.accelerator.sync_gradients:
            return loss
        self._step_losses = []
        if all(math.isfinite(each) for each in self._losses):
            return loss
        self._without_loss += 1
        return -sum(finite[:-1], torch.zeros_like(loss))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """As in the Trainer; a step that would spoil the weights loses its gradients here."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._beat("optimizer")
        # Gradients that are too large for half precision are the business of its loss scaler.
        scaled = self.accelerator.mixed_precision == "fp16"
        if not self._bad and norm is not None and not scaled and not math.isfinite(norm):
            self._bad = f"gradient norm {float(norm)}"
        self.safety.guard.note(self._bad, self._losses)
        if self._bad:
            self._leave_out(model)
        self._met = time.monotonic()
        return norm

    def _leave_out(self, model: Any) -> None:
        """Keep a step from changing the weights, and say which; every process calls this.

        Raises:
            BadSteps: there were too many, or this one cannot be kept out.
        """
        step = self.state.global_step + 1
        suspected = not all(math.isfinite(loss) for loss in self._losses)
        mine = self.step_samples() if not suspected or not math.isfinite(self._losses[self.args.process_index]) else []
        samples = list(dict.fromkeys(name for names in gather_objects(mine) for name in names))
        if self.is_deepspeed_enabled:
            if not self.accelerator.optimizer_step_was_skipped:
                raise BadSteps(
                    f"Training stopped at step {step}: {self._bad}, and this configuration of DeepSpeed has spoilt the "
                    f"weights with it (samples {named(samples)}); use ZeRO 1, 2 or 3 with bf16.check_grad_overflow, "
                    "and go on from the last checkpoint by the same command."
                )
        else:
            model.zero_grad(set_to_none=True)
        self._tell(f"step {step} was left out: {self._bad}; its samples: {named(samples)}")
        if self.is_world_process_zero():
            self.note_bad_step({"step": step, "left_out": self._bad, "samples": samples})
        self.safety.guard.require_good(self._bad, step, samples)

    def _evaluate(self, *args: Any, **options: Any) -> Any:
        self._beat("evaluating", timed=False)
        metrics = super()._evaluate(*args, **options)
        self._beat("after the evaluation")
        self._met = time.monotonic()
        return metrics

    # Log.

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in the Trainer; the loss is the mean over the steps that had one."""
        if "loss" in logs:
            steps, self._logged_at = self.state.global_step - self._logged_at, self.state.global_step
            if self._without_loss:
                left = steps - self._without_loss
                logs = {**logs, "loss": logs["loss"] * steps / left if left else math.nan}
                self._without_loss = 0
        if self.safety.guard.left_out:
            logs = {**logs, "steps_left_out": self.safety.guard.left_out}
        super().log(logs, start_time)

    # Checkpoints.

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As in the Trainer, under another name, until every process has written and all of it was checked.

        Raises:
            CheckpointError: it could not be written; earlier ones are untouched.
        """
        began = time.monotonic()
        self._beat("saving")
        step, output = self.state.global_step, Path(self._get_output_dir(trial))
        self._writing = checkpoint_files.temporary(output, step)
        folder = self._writing / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        try:
            self._write_checkpoint(model, trial, folder, output)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} could not be written ({reason(error)}): make room or mend the disk, and run the same "
                "command to go on from the checkpoint before."
            ) from error
        finally:
            self._writing = None
        self.safety.stopper.saved(time.monotonic() - began)
        self._beat("after saving")
        self._met = time.monotonic()

    def _write_checkpoint(self, model: Any, trial: Any, folder: Path, output: Path) -> None:
        args, state = self.args, self.state
        if args.should_save:
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
        losses = [loss for (loss,) in gather_rows([float(self._tr_loss)], args.device)]
        if args.should_save:
            unlogged = {"since": self._logged_at, "losses": losses, "without_loss": self._without_loss}
            facts = {"guard": self.safety.guard.state(), "unlogged": unlogged}
            (folder / SAFETY).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        self.save_beside(folder)
        super()._save_checkpoint(model, trial)
        if state.best_global_step == state.global_step and state.best_model_checkpoint:
            state.best_model_checkpoint = str(output / folder.name)
            if args.should_save:
                state.save_to_json(str(folder / STATE))
        wait_for_all()
        leads = args.local_process_index == 0
        if leads:
            checkpoint_files.to_disk(folder)
        views = gather_objects(checkpoint_files.sizes(folder) if leads else {})
        if args.should_save:
            mine = [views[args.process_index]] if args.save_on_each_node else views
            checkpoint_files.publish(
                folder,
                {name: size for view in mine for name, size in view.items()},
                step=state.global_step,
                required=self._required_files(),
                resumable=not args.save_only_model,
            )
            checkpoint_files.rotate(output, args.save_total_limit, best=state.best_model_checkpoint)
        wait_for_all()

    def _required_files(self) -> tuple[str, ...]:
        args = self.args
        if args.save_only_model or args.save_on_each_node:
            return (STATE,)
        random_states = [f"rng_state_{rank}.pth" for rank in range(args.world_size)]
        return (STATE, *(random_states if args.world_size > 1 else ["rng_state.pth"]))

    def restore(self, checkpoint: Path) -> None:
        """Remember what a checkpoint's training had counted; before `train`."""
        facts = json.loads((checkpoint / SAFETY).read_text(encoding="utf-8"))
        self.safety.guard.restore(facts["guard"])
        self._unlogged = facts["unlogged"]

    def _restore_unlogged(self) -> None:
        """The next log line counts the steps since the last one, also those before an interruption."""
        if self._unlogged is None:
            return
        losses, rank = self._unlogged["losses"], self.args.process_index
        same = len(losses) == self.args.world_size
        self._tr_loss += losses[rank] if same else sum(losses) / len(losses)
        self._logged_at = self._globalstep_last_logged = int(self._unlogged["since"])
        self._without_loss = int(self._unlogged["without_loss"])
        self._unlogged = None

    def _finalize_training(self, *args: Any, **options: Any) -> Any:
        """As in the Trainer, but a stopped training's last checkpoint is not deleted in favour of the best one."""
        if self.safety.stopper.reason:
            self.state.best_model_checkpoint = None
        return super()._finalize_training(*args, **options)

    def _beat(self, doing: str, *, timed: bool = True) -> None:
        self.safety.watchdog.beat(self.state.global_step + 1, doing, timed=timed)

    def _tell(self, text: str) -> None:
        if self.is_world_process_zero():
            print(text, file=sys.stderr, flush=True)
