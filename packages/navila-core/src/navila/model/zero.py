"""Weights out of the folders that DeepSpeed's ZeRO leaves, without DeepSpeed and without running code from them.

A folder `global_stepN` holds a file of model states (stage 3: one a process) and one of optimizer states a process:

* `param_shapes` (model states): for each group of the optimizer the names and shapes of its parameters, in their order;
* `single_partition_of_fp32_groups` (optimizer states, stages 1 and 2): for each group this process's piece of one
  vector, in which the group's parameters follow each other, with `param_alignment_paddings` between them;
* `fp32_flat_groups` (stage 3): this process's pieces of all parameters, each of the same length ceil(size / processes);
* `base_optimizer_state` (stages 1 and 2), `optimizer_state_dict` (stage 3): for each group what the optimizer keeps, in
  vectors of the same layout, and the number of its steps;
* `module` (model states): everything, in the type it was computed in (stages 1 and 2), or buffers alone (stage 3);
* `frozen_param_fragments` (model states, stage 3): each process's piece of what was not trained;
* `shared_params` (model states): second names of parameters.

The vectors are in float32 whatever the training computed in. Files are mapped into memory: of the moments of Adam, two
thirds of them, nothing is read where weights alone are asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from navila.errors import CheckpointError, reason

#: Name of the weights among what an optimizer needs.
MASTER = "fp32"
MODEL_STATES, OPTIMIZER_STATES = "*_model_states.pt", "*_optim_states.pt"


class _Ignored:
    """Stands in for DeepSpeed's objects among the tensors, of which nothing is needed."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _Stage(int):
    """Stands in for DeepSpeed's enumeration of stages."""


#: Classes that these files name besides tensors; what names any other is refused.
_STAND_INS = [
    (_Stage, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    *(
        (_Ignored, f"deepspeed.{name}")
        for name in (
            "runtime.fp16.loss_scaler.LossScaler",
            "runtime.fp16.loss_scaler.DynamicLossScaler",
            "utils.tensor_fragment.fragment_address",
        )
    ),
]


def zero_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all parameters (float32 where trained) and buffers of a `global_stepN` folder.

    Raises:
        CheckpointError: a file is missing, corrupt or holds more than it should, or the files do not belong together.
    """
    models, optimizers = _open(folder)
    with _laid_out(folder):
        yield from _weights(models, optimizers, folder)


def zero_optimizer(folder: Path) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
    """Names of all trained parameters of a `global_stepN` folder, and what an optimizer needs to go on with each.

    That is tensors of the parameter's shape (the weights as `fp32`, and of Adam `exp_avg` and `exp_avg_sq`), and
    numbers (`step`).

    Raises:
        CheckpointError: as `zero_weights`.
    """
    models, optimizers = _open(folder)
    with _laid_out(folder):
        states = [_optimizer_state(optimizer) for optimizer in optimizers]
        kept = {kind: torch.as_tensor(value) for kind, value in states[0][0].items()}
        vectors = [MASTER, *(kind for kind, value in kept.items() if value.ndim)]
        numbers = {kind: value for kind, value in kept.items() if not value.ndim}
        walks = [_trained(models, optimizers, folder, kind) for kind in vectors]
        for entries in zip(*walks, strict=True):
            yield entries[0][0], {kind: value for kind, (_, value) in zip(vectors, entries, strict=True)}, numbers


def zero_progress(folder: Path) -> dict[str, int]:
    """What DeepSpeed counted until a `global_stepN` folder was written: `global_steps`, `global_samples` and others.

    Raises:
        CheckpointError: as `zero_weights`.
    """
    model = _read(_ranked(folder, MODEL_STATES)[0])
    return {name: int(model[name]) for name in ("global_steps", "global_samples", "skipped_steps") if name in model}


def zero_layout(folder: Path) -> tuple[int, bool]:
    """How many processes a `global_stepN` folder was divided among, and whether the weights were too (stage 3)."""
    models, optimizers = list(folder.glob(MODEL_STATES)), list(folder.glob(OPTIMIZER_STATES))
    return len(optimizers), any(path.name.startswith("zero_pp_rank") for path in models)


def _open(folder: Path) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]]]:
    """Model states and optimizer states of all processes."""
    model_files, optimizer_files = _ranked(folder, MODEL_STATES), _ranked(folder, OPTIMIZER_STATES)
    for files, pattern in ((model_files, MODEL_STATES), (optimizer_files, OPTIMIZER_STATES)):
        if not files:
            raise CheckpointError(
                f"{folder} has no {pattern}: it is no ZeRO checkpoint, or was not written to its end."
            )
    models = [_read(path) for path in model_files]
    return models, [_part(_read(path), "optimizer_state_dict", path) for path in optimizer_files]


@contextmanager
def _laid_out(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{folder} is not laid out as checkpoints of ZeRO are ({reason(error)}).") from error


def _weights(
    models: Sequence[Mapping[str, Any]], optimizers: Sequence[Mapping[str, Any]], folder: Path
) -> Iterator[tuple[str, Tensor]]:
    first = models[0]
    second_names = {original: alias for alias, original in dict(first.get("shared_params") or {}).items()}
    found: set[str] = set()
    for name, tensor in _trained(models, optimizers, folder, MASTER):
        for known_as in (name, second_names.get(name)):
            if known_as is not None:
                found.add(known_as)
                yield known_as, tensor
    if int(optimizers[0]["zero_stage"]) == 3:
        for name, shape in dict(first.get("frozen_param_shapes") or {}).items():
            yield name, _shaped(torch.cat([model["frozen_param_fragments"][name].flatten() for model in models]), shape)
        for name in first["buffer_names"]:
            yield name, first["module"][name]
    else:
        yield from ((name, tensor) for name, tensor in first["module"].items() if name not in found)


def _trained(
    models: Sequence[Mapping[str, Any]], optimizers: Sequence[Mapping[str, Any]], folder: Path, kind: str
) -> Iterator[tuple[str, Tensor]]:
    """Weights (`MASTER`), or another vector of the optimizer, of all trained parameters."""
    stage, count = int(optimizers[0]["zero_stage"]), optimizers[0]["partition_count"]
    world = max(count) if isinstance(count, list) else int(count)
    if len(optimizers) != world or (stage == 3 and len(models) != world):
        few, pattern = (optimizers, OPTIMIZER_STATES) if len(optimizers) != world else (models, MODEL_STATES)
        raise CheckpointError(
            f"{folder} has {len(few)} files {pattern} of the {world} that the training's processes wrote: fetch all."
        )
    if kind != MASTER:
        ranks = [[group[kind] for group in _optimizer_state(optimizer)] for optimizer in optimizers]
    else:
        name = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
        ranks = [optimizer[name] for optimizer in optimizers]
    if stage == 3:
        return _stage3(models[0], ranks, folder)
    return _stage12(models[0], ranks, optimizers[0].get("param_alignment_paddings"), folder)


def _optimizer_state(optimizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a process's optimizer keeps for each group."""
    state = optimizer["base_optimizer_state" if "base_optimizer_state" in optimizer else "optimizer_state_dict"][
        "state"
    ]
    return [state[group] for group in sorted(state)]


def _stage12(
    model: Mapping[str, Any], ranks: Sequence[Sequence[Tensor]], paddings: Any, folder: Path
) -> Iterator[tuple[str, Tensor]]:
    for group, shapes in enumerate(model["param_shapes"]):
        pieces = [groups[group] for groups in ranks]
        start = 0
        for index, (name, shape) in enumerate(shapes.items()):
            yield name, _shaped(_span(pieces, start, math.prod(shape)), shape)
            start += math.prod(shape) + (paddings[group][index] if paddings else 0)
        # The vector is filled up so that its pieces are of one, even length.
        unit, size = 2 * len(ranks), sum(piece.numel() for piece in pieces)
        if -(-start // unit) != -(-size // unit):
            raise CheckpointError(f"{folder} has {size} values in group {group} where {start} are due: fetch it again.")


def _stage3(model: Mapping[str, Any], ranks: Sequence[Sequence[Tensor]], folder: Path) -> Iterator[tuple[str, Tensor]]:
    start = 0
    for shapes in model["param_shapes"]:
        for name, shape in shapes.items():
            length = -(-math.prod(shape) // len(ranks))
            yield name, _shaped(torch.cat([_span(pieces, start, length) for pieces in ranks]), shape)
            start += length
    size = sum(piece.numel() for piece in ranks[0])
    if start != size:
        raise CheckpointError(f"{folder} has {size} values a process where {start} are due: fetch it again.")


def _span(pieces: Sequence[Tensor], start: int, length: int) -> Tensor:
    """Values `start` to `start + length` of vectors laid end to end."""
    found = []
    for piece in pieces:
        inside = piece[max(start, 0) : max(start + length, 0)]
        if inside.numel():
            found.append(inside)
        start -= piece.numel()
    return torch.cat(found) if found else torch.empty(0)


def _shaped(values: Tensor, shape: Sequence[int]) -> Tensor:
    return values[: math.prod(shape)].reshape(tuple(shape))


def _ranked(folder: Path, pattern: str) -> list[Path]:
    """Files of all processes in their order.

    Raises:
        CheckpointError: the model itself was divided among processes.
    """
    files = sorted(folder.glob(pattern), key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    divided = next((path for path in files if not re.search(r"mp_rank_0+_", path.name)), None)
    if divided is not None:
        raise CheckpointError(f"{divided} is of tensor-, pipeline- or expert-parallel training: only ZeRO is read.")
    return files


def _read(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # The long explanation of how to load it all the same is not for a file of unknown origin.
        why = reason(error).partition("WeightsUnpickler error: ")[2] or reason(error)
        raise CheckpointError(
            f"{path} is corrupt or holds more than a ZeRO checkpoint does ({why.partition(' Please ')[0]}): it is not "
            "loaded."
        ) from error


def _part(state: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = state.get(key)
    if not isinstance(value, Mapping) or "zero_stage" not in value:
        raise CheckpointError(f"{path} has no {key} of ZeRO: the training did not divide its optimizer.")
    return value
