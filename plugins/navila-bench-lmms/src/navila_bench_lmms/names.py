"""Names of lmms-eval's tasks and their metrics, read from its YAML files without importing it. Light."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

#: Of each task, group and tag the metrics its file names.
Names = Mapping[str, list[str]]

_FIELD = re.compile(r"^(task|group|tag)[ \t]*:[ \t]*([^#\n]*)", re.MULTILINE)
#: Others, such as lists of tags, cannot be asked for by name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_METRIC = re.compile(r"^[ \t]*-[ \t]+metric[ \t]*:[ \t]*([^#\n]+)", re.MULTILINE)


def installed_names() -> Names:
    """All tasks of the installed lmms-eval; none where it is not installed.

    It has some two thousand files: what was found in them is kept in the user's cache for that installation.
    """
    try:
        found = importlib.util.find_spec("lmms_eval")
    except (ImportError, ValueError):
        return {}
    if found is None or not found.submodule_search_locations:
        return {}
    folder = Path(found.submodule_search_locations[0]) / "tasks"
    if not folder.is_dir():
        return {}
    return _kept(folder)


def _kept(folder: Path) -> Names:
    # Whoever has no lmms-eval does not wait for these.
    import json

    from navila.files import write_atomically

    version = next((item.stem for item in sorted(folder.parent.parent.glob("lmms_eval-*.dist-info"))), "")
    key = f"{folder} {version} {folder.stat().st_mtime_ns}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "navila" / "lmms-eval-tasks.json"
    try:
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["names"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    names = dict(sorted(read_names(folder)))
    # Where it cannot be written they are read each time.
    with contextlib.suppress(OSError):
        write_atomically(cache, json.dumps({"key": key, "names": names}))
    return names


def read_names(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each task, group and tag that a YAML file below a folder declares, with the metrics named in that file."""
    for path in folder.rglob("*.yaml"):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        fields = {key: value.strip().strip("\"'") for key, value in _FIELD.findall(text)}
        metrics = list(dict.fromkeys(name.strip().strip("\"'") for name in _METRIC.findall(text)))
        for name, named in (
            (fields.get("task", ""), metrics),
            (fields.get("group", ""), []),
            (fields.get("tag", ""), []),
        ):
            if _NAME.fullmatch(name):
                yield name, named
