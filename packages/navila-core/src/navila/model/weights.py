"""Tensors of a checkpoint folder: safetensors, sharded or not, and old `.bin` files; every error names the file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from navila.errors import CheckpointError
from navila.model.location import read_json

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, keys sorted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a component's tensors, every shard that the index lists.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (BIN, BIN_INDEX)):
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map", {})
            shards = sorted({folder / name for name in weight_map.values()})
            missing = [shard for shard in shards if not shard.is_file()]
            if missing or not shards:
                what = f"lists {missing[0].name}, which is missing" if missing else "lists no weight files"
                raise CheckpointError(f"{folder / index} {what}: fetch the checkpoint again.")
            return shards
        if (folder / single).is_file():
            return [folder / single]
    raise CheckpointError(f"{folder} holds no weights ({SAFETENSORS} or {BIN}): the checkpoint is partial.")


def read_state_dict(folder: Path) -> dict[str, Tensor]:
    """All tensors of a component's folder, on the CPU.

    Raises:
        CheckpointError: a file is missing or corrupt.
    """
    state: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                state.update(load_file(path))
            else:
                state.update(torch.load(path, map_location="cpu", weights_only=True))
        except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
            raise CheckpointError(f"{path} is corrupt ({_first_line(error)}): fetch the file again.") from error
        except Exception as error:
            # torch.load's refusal of anything but tensors comes as pickle's own error types.
            raise CheckpointError(f"{path} is not a file of tensors only ({_first_line(error)}).") from error
    return state


def write_state_dict(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write `model.safetensors`; nothing when there are no tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    if state:
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
        save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})


def load_into(module: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Copy tensors into a module whose names they carry, all of them and of equal shape.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise CheckpointError(f"{folder} lacks the tensor {name!r}: the checkpoint is partial or of another model.")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{folder} has {name!r} of shape {tuple(state[name].shape)} where its config.json asks for "
                f"{tuple(tensor.shape)}: the two do not belong together."
            )
    module.load_state_dict({name: state[name] for name in own})


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Give all parameters a floating-point type, and leave buffers alone: rotary frequencies stay in float32."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@contextmanager
def without_init() -> Iterator[None]:
    """Build modules without drawing random weights, because a file's are about to replace them."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files take their place in `folder` when the block ends well.

    A checkpoint can so be saved over the one it was loaded from, whose files are still mapped into memory, and a run
    that dies while saving leaves the old one whole. Weight files of an earlier save, not written again, are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        yield scratch
        written = sorted(file.relative_to(scratch) for file in scratch.rglob("*") if file.is_file())
        for file in written:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (scratch / file).replace(folder / file)
        for part in {file.parent for file in written if file.suffix == ".safetensors"}:
            for pattern in ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*"):
                for stale in (folder / part).glob(pattern):
                    if stale.relative_to(folder) not in written:
                        stale.unlink()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def merged_config(raw: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """A config to write: what the model has now, and every key of the file that the model does not know."""
    return {**raw, **live}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
