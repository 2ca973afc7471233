"""Weights out of a sharded checkpoint of `torch.distributed.checkpoint` (FSDP), without running code from it.

Its `.metadata` is a pickle that says in which file, and where in it, each piece of each tensor is. It is read as
`torch.load(weights_only=True)` reads pickles: only the classes that torch writes there are made, which hold numbers and
names. The pieces are files of `torch.save` within files.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from navila.errors import CheckpointError, reason

METADATA = ".metadata"
#: What `.metadata` may name, by module.
_MODULES = {
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo", "StorageInfo"),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
    "collections": ("OrderedDict",),
}


class _Unpickler(pickle.Unpickler):
    """Makes objects of the classes above, of `torch.Size` and of torch's types, and refuses any other."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "pathlib" and name in _MODULES["pathlib"]:
            return PurePath
        value = getattr(torch, name, None) if module == "torch" else None
        if value is torch.Size or isinstance(value, torch.dtype):
            return value
        if name in _MODULES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def dcp_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all tensors of a sharded checkpoint.

    Raises:
        CheckpointError: a file is missing, corrupt or holds more than it should.
    """
    tensors, places = _index(folder)
    for name, facts in tensors.items():
        whole = torch.empty(tuple(facts.size), dtype=facts.properties.dtype)
        filled = 0
        for chunk in facts.chunks:
            piece = _piece(folder, places.get((name, tuple(chunk.offsets))), name, tuple(chunk.sizes))
            where = tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))
            whole[where] = piece
            filled += piece.numel()
        if filled != whole.numel():
            raise CheckpointError(f"{folder} lacks a piece of the tensor {name!r}: fetch the checkpoint again.")
        yield name, whole


def dcp_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a sharded checkpoint; raises as `dcp_weights`."""
    return {name: tuple(facts.size) for name, facts in _index(folder)[0].items()}


def _index(folder: Path) -> tuple[dict[str, Any], dict[tuple[str, tuple[int, ...]], Any]]:
    """What `.metadata` says: facts of each tensor, and where each of its pieces is."""
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            metadata = _Unpickler(file).load()
        tensors = {name: facts for name, facts in metadata.state_dict_metadata.items() if hasattr(facts, "chunks")}
        places = {(index.fqn, tuple(index.offset or ())): info for index, info in metadata.storage_data.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the sharded checkpoint was not written to its end.") from None
    except Exception as error:
        raise CheckpointError(
            f"{path} is corrupt or no metadata of torch ({reason(error)}): it is not loaded."
        ) from error
    return tensors, places


def _piece(folder: Path, place: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    if place is None or PurePath(place.relative_path).name != place.relative_path:
        raise CheckpointError(f"{folder / METADATA} does not tell where the tensor {name!r} is: fetch it again.")
    path = folder / place.relative_path
    try:
        with path.open("rb") as file:
            file.seek(place.offset)
            piece = torch.load(io.BytesIO(file.read(place.length)), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: fetch the rest of the checkpoint.") from None
    except Exception as error:
        raise CheckpointError(f"{path} is corrupt at {name!r} ({reason(error)}): fetch the file again.") from error
    if not isinstance(piece, Tensor) or tuple(piece.shape) != shape:
        raise CheckpointError(f"{path} has something else where {name!r} is due: fetch the file again.")
    return piece
