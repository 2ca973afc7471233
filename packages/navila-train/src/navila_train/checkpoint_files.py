"""Folders `checkpoint-N` that are whole or not there: written under another name, checked, listed and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from navila.errors import CheckpointError, reason
from navila.files import write_atomically
from safetensors import SafetensorError, safe_open

#: Lists the files of a `checkpoint-N` folder; written last of all.
MANIFEST = "manifest.json"
PREFIX = "checkpoint-"
#: A checkpoint that is being written or deleted has this before its name.
TEMPORARY = "tmp-"
#: Files up to this size are listed with their SHA-256; larger ones with their size alone, which costs nothing to check.
SMALL = 1 << 20
#: A shared disk shows other machines' files with a delay.
VISIBLE_WITHIN = 90.0


def numbered(output: Path) -> list[tuple[int, Path]]:
    """The `checkpoint-N` folders of a run, in the order of steps, whole or not."""
    found = ((folder.name.removeprefix(PREFIX), folder) for folder in output.glob(f"{PREFIX}*"))
    return sorted((int(number), folder) for number, folder in found if number.isdigit())


def temporary(output: Path, step: int) -> Path:
    """Where the checkpoint of a step is written, in a folder of its final name."""
    return output / f"{TEMPORARY}{PREFIX}{step}"


def clear_temporary(output: Path) -> None:
    """Delete what was being written or deleted when a run died; a checkpoint that lacks only its name gets it."""
    for folder in sorted(output.glob(f"{TEMPORARY}{PREFIX}*")):
        final = output / folder.name.removeprefix(TEMPORARY)
        if not final.exists() and not damage(folder / final.name):
            (folder / final.name).rename(final)
        shutil.rmtree(folder, ignore_errors=True)


def sizes(folder: Path) -> dict[str, int]:
    """The files of a folder and their sizes in bytes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def to_disk(folder: Path) -> None:
    """Return when a folder's files and names are on the disk, not in this machine's memory alone."""
    for path in (folder, *folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def publish(folder: Path, files: Mapping[str, int], *, step: int, required: tuple[str, ...], resumable: bool) -> Path:
    """Check a checkpoint that all processes have written, list its files and give it its name.

    `folder` is `temporary(output, step) / checkpoint-N`, `files` what the machines that wrote it found there.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    _wait_until_seen(folder, files)
    if absent := [name for name in required if name not in files]:
        raise CheckpointError(f"{folder} was written without {absent[0]}: look whether the disk is full or failing.")
    for name in files:
        if wrong := _unreadable(folder / name):
            raise CheckpointError(f"{folder / name} was just written and {wrong}: look whether the disk is failing.")
    listed = {name: _facts(folder / name) for name in files}
    facts = {"step": step, "resumable": resumable, "files": listed}
    write_atomically(folder / MANIFEST, json.dumps(facts, indent=1) + "\n")
    _sync(folder)
    final = folder.parent.parent / folder.name
    if final.exists():
        # Of an abandoned future, or damaged: training has come here from an earlier checkpoint.
        final.rename(folder.parent / "replaced")
    folder.rename(final)
    _sync(final.parent)
    shutil.rmtree(folder.parent, ignore_errors=True)
    return final


def damage(checkpoint: Path, *, thorough: bool = True) -> str:
    """What is wrong with a checkpoint, e.g. `optimizer.pt has 512 of 8192 bytes`; empty if nothing is.

    `thorough` reads small files too; otherwise only sizes are compared.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        listed = {str(name): (int(facts["size"]), facts.get("sha256")) for name, facts in manifest["files"].items()}
        step = manifest["step"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"it was not written to its end (it has no readable {MANIFEST})"
    if checkpoint.name != f"{PREFIX}{step}":
        return f"it is of step {step}"
    for name, (size, digest) in listed.items():
        try:
            found = (checkpoint / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if found != size:
            return f"{name} has {found} of {size} bytes"
        if thorough and digest is not None and _digest(checkpoint / name) != digest:
            return f"{name} has other contents than were written"
    return ""


def resumable(checkpoint: Path) -> bool:
    """Whether a whole checkpoint has the optimizer's state."""
    return bool(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")).get("resumable", True))


def rotate(output: Path, limit: int | None, *, best: str | None = None) -> list[Path]:
    """Delete what is older than the newest `limit` whole checkpoints, but never `best`; returns what was deleted.

    Damaged checkpoints do not count, so that the last good one stays however many of them there are.
    """
    if not limit or limit < 1:
        return []
    # By time and not by step: after going on from an earlier checkpoint the last steps are not the newest.
    whole = [folder for _, folder in numbered(output) if not damage(folder, thorough=False)]
    kept = sorted(whole, key=_written_at)[-limit:]
    if not kept:
        return []
    oldest = _written_at(kept[0])
    spared = {folder.resolve() for folder in kept} | ({Path(best).resolve()} if best else set())
    deleted = []
    for _, folder in numbered(output):
        if folder.resolve() not in spared and _written_at(folder) <= oldest:
            # Under another name first: what is left if this is interrupted is no checkpoint.
            doomed = output / f"{TEMPORARY}{folder.name}"
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
            deleted.append(folder)
    return deleted


def _written_at(checkpoint: Path) -> tuple[int, int]:
    manifest = checkpoint / MANIFEST
    at = (manifest if manifest.exists() else checkpoint).stat().st_mtime_ns
    return at, int(checkpoint.name.removeprefix(PREFIX))


def _wait_until_seen(folder: Path, files: Mapping[str, int]) -> None:
    until = time.monotonic() + VISIBLE_WITHIN
    while True:
        seen = sizes(folder) if folder.exists() else {}
        hidden = [name for name, size in files.items() if seen.get(name) != size]
        if not hidden:
            return
        if time.monotonic() > until:
            raise CheckpointError(
                f"{folder / hidden[0]} was written by another machine and is not seen here: --output_dir must be on a "
                "disk that all machines share."
            )
        time.sleep(0.5)


def _unreadable(path: Path) -> str:
    try:
        if path.suffix == ".safetensors":
            # Reads the header, and compares what it promises with the size of the file.
            with safe_open(path, framework="pt"):
                return ""
        if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
            return "has no end"
    except (SafetensorError, OSError) as error:
        return f"cannot be read ({reason(error)})"
    return ""


def _facts(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"size": size, **({"sha256": _digest(path)} if size <= SMALL else {})}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
