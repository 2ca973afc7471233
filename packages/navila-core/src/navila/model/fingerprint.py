"""What tells one checkpoint from another: digests of configs, tokenizer, tensor names and shapes, and values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from navila.errors import NavilaError
from navila.model.headers import StoredTensor, stored_tensors

#: Bytes of a tensor that are read from each of this many evenly spaced places; smaller tensors are read whole.
_CHUNK, _CHUNKS = 4096, 16


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 digests of a checkpoint's files, by what they describe, and of all of them (`all`).

    `PART.config` is the JSON of a part whatever its formatting, `PART.shapes` names, types and shapes of its tensors,
    and `PART.values` samples of their values: all of a tensor up to 64 KiB, of a larger one 16 pieces of 4 KiB. There
    are no values of files that are no safetensors. `tokenizer` is `tokenizer.json`.
    """
    digests = {"config": _json(folder / "config.json")}
    for part in ("llm", "vision_tower", "mm_projector"):
        digests[f"{part}.config"] = _json(folder / part / "config.json")
        try:
            tensors = stored_tensors(folder / part)
        except NavilaError:
            continue
        described = [[t.name, t.dtype, list(t.shape)] for t in tensors]
        digests[f"{part}.shapes"] = _digest(json.dumps(described).encode())
        if all(tensor.start is not None for tensor in tensors):
            digests[f"{part}.values"] = _values(tensors)
    digests["preprocessor"] = _json(folder / "vision_tower" / "preprocessor_config.json")
    digests["tokenizer"] = _json(folder / "llm" / "tokenizer.json")
    known = {name: digest for name, digest in digests.items() if digest}
    return {**known, "all": _digest(json.dumps(known, sort_keys=True).encode())}


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """What two fingerprints disagree about, among what both know."""
    return sorted(name for name in first.keys() & second.keys() if name != "all" and first[name] != second[name])


def _values(tensors: list[StoredTensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        with tensor.file.open("rb") as file:
            for offset in _places(tensor.size):
                file.seek((tensor.start or 0) + offset)
                digest.update(file.read(min(_CHUNK, tensor.size - offset)))
    return digest.hexdigest()


def _places(size: int) -> list[int]:
    """Where in a tensor of `size` bytes the pieces begin."""
    if size <= _CHUNK * _CHUNKS:
        return list(range(0, size, _CHUNK))
    return [(size - _CHUNK) * piece // (_CHUNKS - 1) for piece in range(_CHUNKS)]


def _json(path: Path) -> str:
    """Digest of a JSON file's content; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return _digest(json.dumps(content, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
