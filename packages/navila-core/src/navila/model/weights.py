"""Tensors of a checkpoint folder: safetensors, sharded or not, and old `.bin` files; every error names the file."""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from navila.errors import CheckpointError, reason
from navila.files import unprivate
from navila.model.location import read_json

_log = logging.getLogger(__name__)

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, keys sorted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def weight_files(folder: Path, prefix: str = "") -> list[Path]:
    """The files that hold a component's tensors, every shard that the index lists.

    With `prefix`, only the shards that hold tensors whose names begin with it.

    Raises:
        CheckpointError: there are none, the index is malformed, or a shard is missing.
    """
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (BIN, BIN_INDEX)):
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
                raise CheckpointError(f"{folder / index} has no weight_map of names: fetch the checkpoint again.")
            files = sorted({folder / name for name in weight_map.values()})
            missing = [shard for shard in files if not shard.is_file()]
            if missing or not files:
                what = f"lists {missing[0].name}, which is missing" if missing else "lists no weight files"
                raise CheckpointError(f"{folder / index} {what}: fetch the checkpoint again.")
            files = [file for file in files if not prefix or _holds(weight_map, file, prefix)]
        elif (folder / single).is_file():
            files = [folder / single]
        else:
            continue
        for file in files:
            if _is_pointer(file):
                raise CheckpointError(
                    f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder."
                )
        return files
    raise CheckpointError(f"{folder} holds no weights ({SAFETENSORS} or {BIN}): the checkpoint is partial.")


def read_state_dict(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a component's folder, on the CPU; with `prefix` those whose names begin with it, without it.

    Raises:
        CheckpointError: a file is missing or corrupt.
    """
    state: dict[str, Tensor] = {}
    for path in weight_files(folder, prefix):
        state.update(read_tensors(path, prefix))
    return state


def check_files(folder: Path) -> None:
    """Open the weight files of a folder, reading no tensor.

    Raises:
        CheckpointError: a file is missing, corrupt, or holds anything but tensors.
    """
    for path in weight_files(folder):
        read_tensors(path, names={"(?!)": ""})


def read_renamed(source: Path, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a folder or file whose names one of `names` (pattern to replacement) matches, under the new names.

    Raises:
        CheckpointError: a file is missing or corrupt.
    """
    state: dict[str, Tensor] = {}
    for path in [source] if source.is_file() else weight_files(source):
        state.update(read_tensors(path, names=names))
    return state


def read_tensors(path: Path, prefix: str = "", names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Tensors of one file, as `read_state_dict`, or those that one of `names` (pattern to replacement) renames.

    Raises:
        CheckpointError: it is corrupt, or holds anything but tensors.
    """
    patterns = names or {f"^{re.escape(prefix)}": ""}

    def renamed(stored: Iterable[str]) -> dict[str, str]:
        """The names wanted, and what they become; the first pattern that matches decides."""
        found = ((name, next((p for p in patterns if re.search(p, name)), None)) for name in stored)
        return {name: re.sub(pattern, patterns[pattern], name) for name, pattern in found if pattern is not None}

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                # Anything else in the file is not read.
                return {new: file.get_tensor(old) for old, new in renamed(file.keys()).items()}
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch's long explanation of how to load it all the same is not for a file of unknown origin.
        found = r".*(?:WeightsUnpickler error:|trusted source\.) (.*?)\.? (?:Check|Please)"
        why = re.search(found, reason(error, 10_000))
        raise CheckpointError(
            f"{path} is corrupt or holds more than tensors, which could run code, and is not loaded "
            f"({why[1] if why else reason(error)}): fetch it again, or save its tensors as safetensors."
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} is corrupt ({reason(error)}): fetch the file again.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is no table of tensors by name: save the model's state_dict instead.")
    return {new: state[old] for old, new in renamed(state).items()}


def _holds(weight_map: Mapping[str, str], file: Path, prefix: str) -> bool:
    return any(shard == file.name and name.startswith(prefix) for name, shard in weight_map.items())


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(34).startswith(b"version https://git-lfs")


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
    check_shapes(own, state, folder)
    warn_of_unused(state.keys() - own.keys(), folder)
    module.load_state_dict({name: state[name] for name in own})


def warn_of_unused(names: Iterable[str], folder: Path) -> None:
    """Log which tensors of a folder nothing takes: a config may ask for fewer layers than were trained."""
    # Older files hold numbers of positions, which are computed.
    unused = sorted(name for name in names if not name.endswith(("position_ids", "rotary_emb.inv_freq")))
    if unused:
        _log.warning(
            "%s holds %d tensors that its config.json does not ask for, the first being %r: they are left out.",
            folder,
            len(unused),
            unused[0],
        )


def check_shapes(wanted: Mapping[str, Any], saved: Mapping[str, Any], folder: Path) -> None:
    """Make sure that every tensor wanted is among those saved, in its shape; both are anything with a `shape`.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    for name, tensor in wanted.items():
        if name not in saved:
            raise CheckpointError(f"{folder} lacks the tensor {name!r}: the checkpoint is partial or of another model.")
        if tuple(saved[name].shape) != tuple(tensor.shape):
            raise CheckpointError(
                f"{folder} has {name!r} of shape {tuple(saved[name].shape)} where its config.json asks for "
                f"{tuple(tensor.shape)}: the two do not belong together."
            )


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
        # Configs last, the top one at the very end: readers look for it first.
        for file in sorted(written, key=lambda file: (file.suffix == ".json", -len(file.parts), file)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            # safetensors makes files that their owner alone can read.
            unprivate(scratch / file)
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
