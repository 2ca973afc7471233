"""A checkpoint as its difference from another: to publish what a base's licence does not let one publish whole.

A delta is a folder:

* `delta.json`, written last: for each weight file of the target its header, its SHA-256 and how each tensor is kept,
  and the names of the other files;
* `weights/…`: for each of these files the tensors that differ from the base's;
* `files/…`: the target's other files (configs, tokenizer).

A floating-point difference cannot be added back exactly, so a tensor is kept as the exclusive or of its bits and those
of the base's tensor of that name. Where the target has more rows (a grown vocabulary) the base's are followed by zero
bits, where it has fewer they are cut off. Equal tensors are left out; tensors that the base lacks, or has in another
type or with other sizes, are kept whole. Weight files are restored byte for byte. Tensors are read and written in
pieces, whatever their size. (NaVILA's scripts subtracted in float16, which restores values only nearly.)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from navila.errors import CheckpointError
from navila.model.headers import StoredTensor, stored_tensors, tensors_in
from navila.model.location import read_json
from navila.model.weights import (
    BIN,
    BIN_INDEX,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    read_tensors,
    replacing,
    weight_files,
    write_json,
)

MANIFEST = "delta.json"
FORMAT = "navila-delta-1"
EQUAL, XOR, WHOLE = "equal", "xor", "whole"
#: Folders of a checkpoint that may hold weights; "" is the top, for a single model.
_FOLDERS = ("", "llm", "vision_tower", "mm_projector")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_PIECE = 1 << 26
"""Bytes handled at a time."""

Bytes = NDArray[np.uint8]


def make_delta(target: Path, base: Path, output: Path, report: Callable[[str], None] = lambda _: None) -> None:
    """Write the difference of a checkpoint from its base.

    Args:
        target, base: folders of checkpoints; the base may also be a bare language model.
        output: the delta's folder.
        report: called with a line for each file.

    Raises:
        CheckpointError: a checkpoint has no weights or a broken file, the target's are not safetensors, or the two have
            no tensor in common.
    """
    known = {folder: _by_name(base / folder) for folder in _FOLDERS if _has_weights(base / folder)}
    if not known:
        raise CheckpointError(f"{base} holds no weights: give the folder of the base.")
    files: dict[str, Any] = {}
    with replacing(output) as new:
        for folder in (f for f in _FOLDERS if _has_weights(target / f)):
            # A bare language model is the base of a composed model's.
            of_base = known.get(folder, known[""] if folder == "llm" and "" in known else {})
            for path in weight_files(target / folder):
                if path.suffix != ".safetensors":
                    raise CheckpointError(f"{path} is no safetensors file: load and save the target with navila first.")
                relative = path.relative_to(target).as_posix()
                files[relative] = _encode(path, tensors_in(path), of_base, new / "weights" / relative)
                report(f"{relative}: {_summary(files[relative]['tensors'])}")
        if not files:
            raise CheckpointError(f"{target} holds no weights: give the folder of a checkpoint.")
        if all(fact["how"] == WHOLE for file in files.values() for fact in file["tensors"].values()):
            raise CheckpointError(f"{target} and {base} have no tensor in common: give the base it was trained from.")
        others = [path.relative_to(target).as_posix() for path in _other_files(target)]
        _copy(others, target, new / "files")
        write_json(new / MANIFEST, {"format": FORMAT, "files": files, "others": others})


def apply_delta(delta: Path, base: Path, output: Path, report: Callable[[str], None] = lambda _: None) -> None:
    """Restore the checkpoint that a delta was made of, byte for byte.

    Raises:
        CheckpointError: the folder is no delta or broken, or the base is not the one it was made with.
    """
    manifest = _read_manifest(delta)
    known = {folder: _by_name(base / folder) for folder in _FOLDERS if _has_weights(base / folder)}
    with replacing(output) as new:
        for relative, facts in manifest["files"].items():
            folder = PurePosixPath(relative).parent.as_posix().removeprefix(".")
            of_base = known.get(folder, known[""] if folder == "llm" and "" in known else {})
            (new / relative).parent.mkdir(parents=True, exist_ok=True)
            _decode(delta / "weights" / relative, facts, of_base, base, new / relative)
            report(f"{relative}: restored")
        _copy(manifest["others"], delta / "files", new)


# -- one weight file --------------------------------------------------------------------------------------------------


def _encode(path: Path, tensors: list[StoredTensor], base: Mapping[str, StoredTensor], output: Path) -> dict[str, Any]:
    """Write the tensors of a file that differ from the base's; the facts that restore it."""
    facts: dict[str, Any] = {}
    for tensor in tensors:
        under = base.get(tensor.name)
        if under is None or not _comparable(tensor, under):
            facts[tensor.name] = {"how": WHOLE}
            continue
        equal = tensor.shape == under.shape and all(
            np.array_equal(a, b) for a, b in zip(_pieces(_values(tensor)), _pieces(_values(under)), strict=True)
        )
        facts[tensor.name] = {"how": EQUAL if equal else XOR, "base_sha256": _sha256(_values(under))}
    kept = [tensor for tensor in tensors if facts[tensor.name]["how"] != EQUAL]
    source, header, position = json.loads(_header(path)), {}, 0
    for tensor in kept:
        header[tensor.name] = {**source[tensor.name], "data_offsets": [position, position + tensor.size]}
        position += tensor.size
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:
        text = json.dumps(header).encode()
        _write_header(file, text + b" " * (-len(text) % 8))
        for tensor in kept:
            under = _values(base[tensor.name]) if facts[tensor.name]["how"] == XOR else None
            for piece in _xored(_values(tensor), under):
                file.write(piece)
    return {"header": _header(path).decode(), "sha256": _file_sha256(path), "tensors": facts}


def _decode(delta: Path, facts: Mapping[str, Any], base: Mapping[str, StoredTensor], where: Path, output: Path) -> None:
    """Write a file of the target."""
    kept = {tensor.name: tensor for tensor in tensors_in(delta)}
    digest = hashlib.sha256()
    with output.open("wb") as file:
        header = facts["header"].encode()
        digest.update(_write_header(file, header))
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            fact = facts["tensors"][name]
            under = None if fact["how"] == WHOLE else _under(base, name, fact["base_sha256"], where)
            start, end = entry["data_offsets"]
            if fact["how"] == EQUAL:
                pieces = _pieces(_values(base[name]))
            elif name in kept and kept[name].size == end - start:
                pieces = _xored(_values(kept[name]), under)
            else:
                raise CheckpointError(f"{delta} lacks the tensor {name!r}: fetch the delta again.")
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
    if digest.hexdigest() != facts["sha256"]:
        raise CheckpointError(f"{delta} is corrupt: it does not restore what it was made of; fetch the delta again.")


def _under(base: Mapping[str, StoredTensor], name: str, sha256: str, where: Path) -> Bytes:
    """A tensor of the base, made sure to be the one that the delta was made with."""
    if name not in base:
        raise CheckpointError(f"{where} has no tensor {name!r}: it is not the base that this delta was made with.")
    values = _values(base[name])
    if _sha256(values) != sha256:
        raise CheckpointError(
            f"{base[name].file} has {name!r} with other values: it is not the base that this delta was made with."
        )
    return values


def _comparable(tensor: StoredTensor, under: StoredTensor) -> bool:
    """Whether one's bits can be told as a difference from the other's: type and all sizes but the rows are the same."""
    a, b = tensor.shape, under.shape
    return tensor.dtype == under.dtype and len(a) == len(b) and a[1:] == b[1:]


def _xored(values: Bytes, under: Bytes | None) -> Iterator[bytes]:
    """The bytes of `values`, exclusive-or'ed with `under` as far as it reaches."""
    for start in range(0, len(values), _PIECE):
        piece = np.array(values[start : start + _PIECE])
        if under is not None:
            other = under[start : start + len(piece)]
            piece[: len(other)] ^= other
        yield piece.tobytes()


def _pieces(values: Bytes) -> Iterator[bytes]:
    return (values[start : start + _PIECE].tobytes() for start in range(0, len(values), _PIECE))


# -- bytes ------------------------------------------------------------------------------------------------------------


def _values(tensor: StoredTensor) -> Bytes:
    """A tensor's bytes, mapped into memory."""
    if tensor.start is None:
        import torch

        return read_tensors(tensor.file)[tensor.name].contiguous().flatten().view(torch.uint8).numpy()
    if not tensor.size:
        return np.empty(0, np.uint8)
    return np.memmap(tensor.file, np.uint8, "r", offset=tensor.start, shape=(tensor.size,))


def _sha256(values: Bytes) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(values):
        digest.update(piece)
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(path: Path) -> bytes:
    """The header of a safetensors file, its padding included."""
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def _write_header(file: BinaryIO, header: bytes) -> bytes:
    start = len(header).to_bytes(8, "little") + header
    file.write(start)
    return start


# -- folders ----------------------------------------------------------------------------------------------------------


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SAFETENSORS, SAFETENSORS_INDEX, BIN, BIN_INDEX))


def _by_name(folder: Path) -> dict[str, StoredTensor]:
    return {tensor.name: tensor for tensor in stored_tensors(folder)}


def _other_files(target: Path) -> Iterator[Path]:
    """Files of a checkpoint that hold no weights; those of the optimizer and of hidden folders are none of it."""
    for folder in _FOLDERS:
        yield from (
            path
            for path in sorted((target / folder).glob("*"))
            if path.is_file() and path.suffix not in _WEIGHT_SUFFIXES and not path.name.startswith(".")
        )


def _copy(names: Iterable[str], source: Path, output: Path) -> None:
    for name in names:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source / name, output / name)
        except FileNotFoundError:
            raise CheckpointError(f"{source / name} is missing: fetch the delta again.") from None


def _read_manifest(delta: Path) -> dict[str, Any]:
    """What the files are restored from.

    Raises:
        CheckpointError: there is no manifest, it is malformed or of another version, or names a place outside.
    """
    path = delta / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{delta} has no {MANIFEST}: it is no delta, or was not written to its end.")
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} has the format {manifest.get('format')!r}; this navila reads {FORMAT!r}.")
    files, others = manifest.get("files"), manifest.get("others")
    if not (
        isinstance(files, dict)
        and isinstance(others, list)
        and all(_inside(name) for name in (*files, *others))
        and all(_well_formed(facts) for facts in files.values())
    ):
        raise CheckpointError(f"{path} is malformed: fetch the delta again.")
    return manifest


def _inside(name: Any) -> bool:
    """Whether it is the name of a file that lies in the folder it is relative to."""
    return isinstance(name, str) and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def _well_formed(facts: Any) -> bool:
    if not isinstance(facts, dict):
        return False
    tensors, header = facts.get("tensors"), facts.get("header")
    if not isinstance(tensors, dict) or not isinstance(header, str) or not isinstance(facts.get("sha256"), str):
        return False
    try:
        entries = json.loads(header)
        named = {key for key in entries if key != "__metadata__"}
        spans = [entries[key]["data_offsets"] for key in named]
    except (ValueError, KeyError, TypeError):
        return False
    known = all(
        isinstance(fact, dict)
        and (fact.get("how") == WHOLE or (fact.get("how") in (EQUAL, XOR) and "base_sha256" in fact))
        for fact in tensors.values()
    )
    return known and named == tensors.keys() and all(len(span) == 2 for span in spans)


def _summary(tensors: Mapping[str, Any]) -> str:
    kinds = [fact["how"] for fact in tensors.values()]
    return f"{kinds.count(XOR)} tensors differ, {kinds.count(EQUAL)} are equal, {kinds.count(WHOLE)} are new"
