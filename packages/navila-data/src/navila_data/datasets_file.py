"""`datasets.yaml`: a user's own names for data, beside those that plugins register."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navila.errors import ConfigError
from navila.files import write_atomically

#: Variable that names files to read instead of the usual ones, separated as in PATH.
VARIABLE = "NAVILA_DATASETS"
FILE = "datasets.yaml"


@dataclass(frozen=True, kw_only=True)
class NamedDataset:
    """Data under a name: a folder of a format, or a mixture of other names."""

    name: str
    file: Path
    """Where the name is defined."""
    format: str = ""
    folder: Path | None = None
    annotations: Path | None = None
    """Annotation file, where it is not the format's usual one."""
    media: Path | None = None
    """Folder that the records' media paths are relative to, where it is not the format's usual one."""
    mixture: str = ""


def files() -> list[Path]:
    """The files in use: those of `$NAVILA_DATASETS`, else `./datasets.yaml` and the user's own, where they exist.

    Raises:
        ConfigError: the variable names a file that does not exist.
    """
    if named := os.environ.get(VARIABLE):
        paths = [Path(name).expanduser() for name in named.split(os.pathsep) if name]
        for path in paths:
            if not path.is_file():
                raise ConfigError(f"{VARIABLE} names {path}, which does not exist: mend the variable.")
        return paths
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [path for path in (Path(FILE), config / "navila" / FILE) if path.is_file()]


def named_datasets(paths: Sequence[Path] | None = None) -> dict[str, NamedDataset]:
    """What the files define, by name; where two define one name, the first holds.

    Raises:
        ConfigError: a file is malformed.
    """
    found: dict[str, NamedDataset] = {}
    for path in files() if paths is None else paths:
        for name, entry in _read(path).items():
            found.setdefault(name, _named(name, entry, path))
    return found


def add(path: Path, name: str, entry: str | Mapping[str, str]) -> NamedDataset:
    """Define a name in a file, which is made where there is none; what stands in it stays as it is.

    Raises:
        ConfigError: the file is malformed, it defines the name already, or the entry is none.
    """
    import yaml

    entries = _read(path) if path.exists() else {}
    if name in entries:
        raise ConfigError(f"{path} defines {name!r} already: choose another name, or edit the file.")
    made = _named(name, entry if isinstance(entry, str) else dict(entry), path)
    told = {name: entry if isinstance(entry, str) else dict(entry)}
    line = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
    before = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    content = before + ("" if not before or before.endswith("\n") else "\n") + line
    try:
        whole = yaml.safe_load(content) == entries | told
    except yaml.YAMLError:
        whole = False
    # Names in braces take no line more: they are written anew.
    written = content if whole else yaml.safe_dump(entries | told, sort_keys=False, allow_unicode=True)
    write_atomically(path, written)
    return made


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as YAML ({reason}): mend it.") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"{path} must map names to datasets, e.g. `night: {{format: vln, folder: runs/night}}`.")
    return content


def _named(name: str, entry: Any, path: Path) -> NamedDataset:
    if not name or set(name) & set("+*:[]/ "):
        raise ConfigError(
            f"{path}: {name!r} cannot name a dataset, as + * : [ ] / and blanks have a meaning in mixtures."
        )
    if isinstance(entry, str):
        return NamedDataset(name=name, file=path, mixture=entry)
    known = {"format", "folder", "annotations", "media"}
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise ConfigError(f"{path}: {name!r} must be a mixture (a text), or texts at {', '.join(sorted(known))}.")
    if strange := sorted(set(entry) - known):
        raise ConfigError(f"{path}: {name!r} has the unknown key {strange[0]!r}: use {', '.join(sorted(known))}.")
    if "format" not in entry or "folder" not in entry:
        raise ConfigError(f"{path}: {name!r} needs a format and a folder, e.g. `format: vln`, `folder: runs/night`.")
    # Paths are relative to the file: it can be shared and used from anywhere.
    folder = path.parent / Path(entry["folder"]).expanduser()
    annotations, media = (
        folder / Path(entry[key]).expanduser() if key in entry else None for key in ("annotations", "media")
    )
    return NamedDataset(
        name=name, file=path, format=entry["format"], folder=folder, annotations=annotations, media=media
    )
