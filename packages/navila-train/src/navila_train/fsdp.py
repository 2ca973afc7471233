"""FSDP2: parameters, gradients and optimizer divided among processes by torch itself (`fully_shard`).

Layers are gathered one at a time. A checkpoint holds the whole model in the released layout, as any other, and the
optimizer's tensors under `fsdp/` as `torch.distributed.checkpoint` writes them, which any number of processes reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from navila.errors import CheckpointError, ConfigError
from navila.model.dcp import dcp_shapes
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

#: What `--engine` calls it.
NAME = "fsdp2"
#: Folder of the optimizer's tensors in a checkpoint.
FOLDER = "fsdp"


def check_group_size(size: int, *, world: int) -> None:
    """Check how many processes are to share a copy of the model.

    Raises:
        ConfigError: they do not divide the number of processes.
    """
    if size < 0 or (size and world % size):
        raise ConfigError(
            f"--fsdp_group_size is {size}, which does not divide the number of processes, {world}: choose a divisor, "
            "or 0 for all of them."
        )


def shard(model: nn.Module, *, group_size: int, half: torch.dtype | None, device: str) -> None:
    """Divide a model, the same on all processes, in place; its parameters become tensors of all of them.

    Args:
        group_size: processes that share a copy (HSDP: gradients are summed over the copies); 0 for all of them.
        half: type that parameters are gathered and computed in; their own when None. Gradients are summed in float32.
        device: `cpu` or `cuda`.
    """
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    mesh = _mesh(group_size, device)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def whole_state(model: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
    """All weights, or the trained ones, put together on the first process, while all call it; the others get none."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only)
    return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))


def load_weights(model: nn.Module, state: dict[str, Any]) -> None:
    """Put whole weights, the same on all processes, into a model that is divided."""
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))


def save_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Write what the optimizer keeps of each parameter, every process its part."""
    state = {
        f"{name}/{kind}": value
        for name, parameter in _trained(model)
        for kind, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }
    save(state, checkpoint_id=str(checkpoint / FOLDER))


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Read what `save_optimizer` wrote into an optimizer that has not taken a step, every process its part.

    Raises:
        CheckpointError: it is missing or corrupt, or other parameters were trained.
    """
    folder = checkpoint / FOLDER
    shapes = dcp_shapes(folder)
    kinds: dict[str, list[str]] = {}
    for key in shapes:
        name, _, kind = key.rpartition("/")
        kinds.setdefault(name, []).append(kind)
    parameters = dict(_trained(model))
    if strange := sorted(kinds.keys() ^ parameters.keys()):
        state = "is not trained now" if strange[0] in kinds else "was not"
        raise CheckpointError(f"{folder}: {strange[0]!r} {state}; train the same parts as before.")
    loaded: dict[str, Any] = {}
    for name, parameter in parameters.items():
        for kind in kinds[name]:
            shape = shapes[f"{name}/{kind}"]
            # Whatever has the parameter's shape is divided as it is; numbers are the same everywhere.
            same = shape == tuple(parameter.shape)
            loaded[f"{name}/{kind}"] = torch.zeros_like(parameter.data) if same else torch.zeros(shape)
    load(loaded, checkpoint_id=str(folder))
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {kind: loaded[f"{name}/{kind}"] for kind in kinds[name]}


def _mesh(group_size: int, device: str) -> DeviceMesh:
    world = dist.get_world_size()
    if group_size in (0, world):
        return init_device_mesh(device, (world,))
    return init_device_mesh(device, (world // group_size, group_size), mesh_dim_names=("replicate", "shard"))


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost repeated modules: the layers of language model and vision encoder."""
    done: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(done):
            done += (f"{name}.",)
            yield from module


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
