"""The Trainer over engines that divide a model among processes, DeepSpeed's ZeRO and FSDP2: saving and resuming."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from navila.errors import ConfigError
from navila.model import NavilaForCausalLM
from navila.model.adapters import has_adapter
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from navila_train import fsdp, zero
from navila_train.parse import TrainingArguments

ENGINES = ("auto", fsdp.NAME)
#: Written by the Trainer.
SCHEDULER = "scheduler.pt"
OPTIMIZER = "optimizer.pt"


def check_engine(checkpoint: Path, training: TrainingArguments) -> None:
    """Make sure that the optimizer of a checkpoint is divided in a way that this training can go on with.

    Raises:
        ConfigError: it is of another engine.
    """
    engines = {"--deepspeed zero2 (or another)": zero.zero_folder(checkpoint) is not None}
    engines["--engine fsdp2"] = (checkpoint / fsdp.FOLDER).is_dir()
    engines["neither --deepspeed nor --engine fsdp2"] = (checkpoint / OPTIMIZER).is_file()
    wanted = 0 if training.deepspeed else 1 if training.engine == fsdp.NAME else 2
    was = next((name for name, found in engines.items() if found), None)
    if was is not None and was != list(engines)[wanted]:
        raise ConfigError(
            f"{checkpoint} was trained with {was}: go on in the same way, or from its weights with "
            "--model_name_or_path in a new --output_dir."
        )


def check_launch(training: TrainingArguments, *, world: int) -> None:
    """Make sure that an engine is there and can divide the model among so many processes.

    Raises:
        ConfigError: it is not, or cannot.
    """
    if training.engine not in ENGINES:
        raise ConfigError(f"--engine is {training.engine!r}: use {' or '.join(ENGINES)}.")
    if training.fsdp:
        raise ConfigError("--fsdp is transformers' own way, which CPUs ignore: use --engine fsdp2.")
    if training.deepspeed and "WORLD_SIZE" not in os.environ:
        raise ConfigError("--deepspeed needs a launcher, for one process too: navila run, or torchrun.")
    if training.engine != fsdp.NAME:
        return
    if training.deepspeed:
        raise ConfigError("--engine fsdp2 and --deepspeed both divide the model: leave one of them out.")
    fsdp.check_group_size(training.fsdp_group_size, world=world)


class EngineTrainer(transformers.Trainer):
    """A Trainer that can divide its model by FSDP2, and goes on with what any number of processes has left."""

    args: TrainingArguments

    @property
    def sharded(self) -> bool:
        """Whether the model is trained under FSDP2, which divides it where there are several processes."""
        return self.args.engine == fsdp.NAME

    @property
    def whole(self) -> NavilaForCausalLM:
        """The model that engines wrap; where they divide it, its parameters are of all processes."""
        return cast("NavilaForCausalLM", self.model)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        # Under FSDP2 the parts go there one by one.
        if not self.sharded or self.args.world_size == 1:
            super()._move_model_to_device(model, device)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[Any], resume_from_checkpoint: str | None
    ) -> Any:
        """Divide the model and read the checkpoint: its weights before, the optimizer after that."""
        resume = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        if self.sharded and self.args.world_size > 1:
            half = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
            fsdp.shard(self.whole, group_size=self.args.fsdp_group_size, half=half, device=self.args.device.type)
            # To the Trainer: wrap it in nothing.
            self.is_distributed_loading_by_transformers = True
        left = None if resume is None or not self.is_deepspeed_enabled else zero.zero_folder(resume)
        if left is None or resume is None or self._as_divided(left):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        zero.load_weights(self.whole, left)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        zero.load_optimizer(self.model_wrapped, left)
        self._load_scheduler(resume)
        return prepared

    def _as_divided(self, folder: Path) -> bool:
        """Whether DeepSpeed itself can go on with a folder of its own."""
        plugin: Any = self.accelerator.state.deepspeed_plugin
        # DeepSpeed looks for the frozen weights too, which checkpoints of adapters do not have.
        whole = not has_adapter(self.whole)
        return whole and not zero.divided_otherwise(folder, world=self.args.world_size, stage=plugin.zero_stage)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Sum gradients over the copies at the end of an optimizer step, and within a copy at once: it saves memory."""
        model: Any = self.model
        model.set_requires_all_reduce(False)
        try:
            yield
        finally:
            model.set_requires_all_reduce(True)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # Of gradients that are divided, each process knows a part.
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As in the Trainer; of a model with an adapter, DeepSpeed leaves the frozen weights out."""
        if self.sharded:
            fsdp.save_optimizer(self.whole, _bare(self.optimizer), Path(output_dir))
        elif self.is_deepspeed_enabled and has_adapter(self.whole):
            engine: Any = self.model_wrapped
            engine.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        else:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.args.should_save:
            scheduler: Any = self.lr_scheduler
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.sharded and checkpoint is not None:
            fsdp.load_optimizer(self.whole, _bare(self.optimizer), Path(checkpoint))
            self._load_scheduler(Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scheduler(self, checkpoint: Path) -> None:
        """Read the schedule, and set the rates of the next step."""
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(torch.load(checkpoint / SCHEDULER, weights_only=True))
        optimizer: Any = self.optimizer
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in the Trainer, in the released layout; of a model with an adapter only what was trained is gathered."""
        adapted = has_adapter(self.whole)
        if self.sharded:
            self._save(output_dir, state_dict=fsdp.whole_state(self.whole, trained_only=adapted))
        elif adapted and self.is_deepspeed_enabled:
            engine: Any = self.model_wrapped
            divided = engine.zero_optimization_stage() == 3
            gather = engine._zero3_consolidated_16bit_state_dict
            self._save(output_dir, state_dict=gather(exclude_frozen_parameters=True) if divided else None)
        else:
            super().save_model(output_dir, _internal_call)


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)
