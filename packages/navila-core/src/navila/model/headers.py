"""What weight files hold, read from their headers: names, types and shapes of tensors, and none of their values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navila.errors import CheckpointError, reason
from navila.model.weights import weight_files

#: Types of safetensors by torch's names; others keep their own, in lower case.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
#: Longest header that safetensors itself accepts, in bytes.
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of a weight file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int | None
    """Where its bytes begin in the file; None in a `.bin`."""
    size: int
    """Bytes."""

    @property
    def count(self) -> int:
        """Values."""
        return math.prod(self.shape)


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """The tensors of a component's folder, sorted by name; takes milliseconds and no memory whatever their size.

    Raises:
        CheckpointError: a file is missing, cut off or no file of tensors.
    """
    found: list[StoredTensor] = []
    for path in weight_files(folder):
        found += tensors_in(path)
    return sorted(found, key=lambda tensor: tensor.name)


def tensors_in(path: Path) -> list[StoredTensor]:
    """The tensors of one weight file; raises as `stored_tensors`."""
    return _safetensors(path) if path.suffix == ".safetensors" else _bin(path)


def _safetensors(path: Path) -> list[StoredTensor]:
    """The format: length of the header (8 bytes, little-endian), header (JSON), values."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > min(size, _LONGEST_HEADER):
            raise CheckpointError(f"{path} is corrupt (it has no header): fetch the file again.")
        header = file.read(length)
    try:
        entries: dict[str, Any] = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = [_entry(path, name, entry, 8 + length) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is corrupt (its header cannot be read): fetch the file again.") from None
    end = max((t.start + t.size for t in tensors if t.start is not None), default=8 + length)
    if end != size:
        raise CheckpointError(f"{path} is corrupt ({size} bytes where {end} are due): fetch the file again.")
    return tensors


def _entry(path: Path, name: str, entry: Any, values: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    kind = str(entry["dtype"])
    return StoredTensor(
        name=name,
        dtype=_DTYPES.get(kind, kind.lower()),
        shape=tuple(entry["shape"]),
        file=path,
        start=values + start,
        size=end - start,
    )


def _bin(path: Path) -> list[StoredTensor]:
    """A file of `torch.save`, mapped into memory instead of read."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return [
            StoredTensor(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                file=path,
                start=None,
                size=tensor.nbytes,
            )
            for name, tensor in state.items()
        ]
    except Exception as error:
        raise CheckpointError(
            f"{path} does not tell its tensors ({reason(error)}): they are unknown until it is loaded."
        ) from error
