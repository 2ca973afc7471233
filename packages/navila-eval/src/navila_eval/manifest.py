"""What produced a result: versions, plugins, checkpoint, data."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import inspect
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from navila.plugins import default_host
from navila.simulation import Episode

from navila_eval.jsonl import dumps

#: Files of a checkpoint whose content decides what it answers.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
#: Bytes hashed at either end of a weight file: enough to tell two trainings apart without reading gigabytes.
_SAMPLE = 1 << 20


def environment() -> dict[str, Any]:
    """Versions, plugins, machine and time of this process."""
    versions = {"python": platform.python_version()}
    for dist in ("torch", "transformers", "numpy", "fastdtw", "pillow"):
        try:
            versions[dist] = metadata.version(dist)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "plugins": default_host().provenance(),
        "platform": platform.platform(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def options_of(benchmark: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a benchmark, those left to their defaults too: whose prompt, rules and figures a result has."""
    options = {}
    for name, parameter in inspect.signature(type(benchmark)).parameters.items():
        if parameter.default is not parameter.empty:
            # A benchmark keeps what it made of an option under its name, such as the first profile for None.
            kept = getattr(benchmark, name, None)
            plain = isinstance(kept, str | int | float | list)
            options[name] = kept if plain else given.get(name, parameter.default)
    return options


def checkpoint_digest(path: str | Path) -> str | None:
    """SHA-256 over a checkpoint's files: small ones whole, weights by size and both ends; None when it is no folder."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        digest.update(f"{file.relative_to(folder).as_posix()}:{file.stat().st_size}\n".encode())
        if file.suffix in _WEIGHTS:
            with file.open("rb") as stream:
                digest.update(stream.read(_SAMPLE))
                stream.seek(max(0, file.stat().st_size - _SAMPLE))
                digest.update(stream.read(_SAMPLE))
        elif file.stat().st_size <= 64 * _SAMPLE:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def episodes_digest(episodes: Iterable[Episode]) -> str:
    """SHA-256 over the content of episodes, in order."""
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(dumps(dataclasses.asdict(episode)).encode() + b"\n")
    return digest.hexdigest()
