"""Going on with a ZeRO checkpoint of another number of processes, or of another stage: DeepSpeed itself refuses.

The weights are put into the model before DeepSpeed divides it; then each process fills its part of the masters and of
the optimizer's vectors from the old parts, which is exact. Which part is whose, DeepSpeed says: `_hp_mapping` of each
parameter (stages 1 and 2), `ds_tensor` and the `safe_set_local` functions (stage 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from navila.errors import CheckpointError
from navila.model import NavilaForCausalLM
from navila.model.zero import MASTER, zero_layout, zero_optimizer, zero_progress, zero_weights
from torch import Tensor, nn


@contextmanager
def whole_parameters() -> Iterator[None]:
    """Build and load models undivided although ZeRO-3 is asked for: transformers would divide some parts at once.

    Rows for new tokens, adapters and parts from elsewhere need the parameters themselves.
    """
    from transformers.integrations import deepspeed as integration

    reference = integration._hf_deepspeed_config_weak_ref
    config = None if reference is None else reference()
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            integration.set_hf_deepspeed_config(config)


def zero_folder(checkpoint: Path) -> Path | None:
    """The folder of DeepSpeed's files in a checkpoint; None where it was trained without DeepSpeed."""
    try:
        return checkpoint / (checkpoint / "latest").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def divided_otherwise(folder: Path, *, world: int, stage: int) -> bool:
    """Whether a ZeRO checkpoint is of another number of processes or another way to divide than this training."""
    return zero_layout(folder) != (world, stage == 3)


def load_weights(model: NavilaForCausalLM, folder: Path) -> None:
    """Put the weights of a ZeRO checkpoint into a model that is not divided yet.

    Raises:
        CheckpointError: they are not of this model, or not complete.
    """
    state = dict(zero_weights(folder))
    strange = sorted(state.keys() - model.state_dict().keys())
    if strange:
        raise CheckpointError(f"{folder} holds {strange[0]!r}, which this model does not have: give the same parts.")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} is of another model: {' '.join(str(error).split())}") from None


def load_optimizer(engine: Any, folder: Path) -> None:
    """Fill the masters and the optimizer of a DeepSpeed engine that has not taken a step from a ZeRO checkpoint.

    Raises:
        CheckpointError: the trained parameters are others, or it is not complete.
    """
    parameters = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    put = _put_stage3 if engine.zero_optimization_stage() == 3 else _put_stage12
    loaded = set[str]()
    for name, vectors, numbers in zero_optimizer(folder):
        if name not in parameters:
            raise CheckpointError(f"{folder} has trained {name!r}, which is not trained now: train the same parts.")
        put(engine.optimizer, parameters[name], vectors, numbers)
        loaded.add(name)
    if missing := sorted(parameters.keys() - loaded):
        raise CheckpointError(f"{folder} has not trained {missing[0]!r}, which is trained now: train the same parts.")
    for name, value in zero_progress(folder).items():
        setattr(engine, name, value)


def _put_stage12(zero: Any, parameter: Any, vectors: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> None:
    """This process's fragment of a parameter, within the vector of its group."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return
    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    mine, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
    kept = _kept(zero.optimizer, flat, vectors, numbers)
    for kind, value in vectors.items():
        target = flat.data if kind == MASTER else kept[kind]
        target.narrow(0, mine.start, mine.numel).copy_(value.reshape(-1).narrow(0, whole.start, whole.numel))


def _put_stage3(zero: Any, parameter: Any, vectors: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> None:
    """This process's piece of a parameter; the last pieces are filled up with zeros."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    length, rank = parameter.ds_tensor.numel(), zero._get_param_partition_rank(parameter)
    group, _, _ = zero.grad_position[zero.get_param_id(parameter)]
    _kept(zero.optimizer, zero.fp32_partitioned_groups_flat[group], vectors, numbers)
    for kind, value in vectors.items():
        piece = value.reshape(-1)[rank * length : (rank + 1) * length]
        piece = nn.functional.pad(piece, (0, length - piece.numel()))
        if kind == MASTER:
            safe_set_local_fp32_param(parameter, piece)
        else:
            safe_set_local_optimizer_state(parameter, piece, kind)


def _kept(
    optimizer: Any, flat: nn.Parameter, vectors: Mapping[str, Tensor], numbers: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What the optimizer keeps for a group's vector: before its first step, zeros and the numbers given."""
    kept = optimizer.state[flat]
    if not kept:
        kept |= {kind: torch.zeros_like(flat.data) for kind in vectors if kind != MASTER}
        # DeepSpeed's own optimizers count in plain numbers.
        torchs = type(optimizer).__module__.startswith("torch.")
        kept |= {kind: number.clone() if torchs else number.item() for kind, number in numbers.items()}
    return kept
