"""Find plugins: in the metadata of installed distributions, in files, in importable modules. Imports none of them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from navila.catalogue import CATALOGUE
from navila.errors import ConfigError
from navila.registry import Origin, normalise, one_line, suggestion

if TYPE_CHECKING:
    from importlib.metadata import Distribution

#: Entry-point group of every plugin.
GROUP = "navila"
#: Comma-separated plugin choices, in the syntax of `--plugin`; the command line adds its own to it, so that worker
#: processes see the same plugins.
PLUGINS_VARIABLE = "NAVILA_PLUGINS"
#: The choice `--no-plugins` stands for.
NO_PLUGINS = "no:*"


@dataclass(frozen=True, kw_only=True)
class InstalledPlugin:
    """A plugin as its distribution's metadata describe it; nothing of it has been imported."""

    name: str
    """Name of the entry point."""
    module: str
    dist: str
    version: str
    metadata: Distribution = field(repr=False, compare=False)

    @property
    def origin(self) -> Origin:
        return Origin(dist=self.dist, version=self.version, plugin=self.name, source=self.module)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plugin to import: core's, installed, or local."""

    origin: Origin
    load: Callable[[], ModuleType]


def installed_plugins(*, on_error: Callable[[str, Exception], None] | None = None) -> tuple[InstalledPlugin, ...]:
    """Every plugin that some distribution's metadata name, sorted; imports none of them.

    A distribution whose metadata cannot be read is handed to `on_error` and left out.
    """
    from importlib import metadata

    found: dict[tuple[str, str], InstalledPlugin] = {}
    for dist in metadata.distributions():
        try:
            if f"[{GROUP}]" not in (dist.read_text("entry_points.txt") or ""):
                continue
            name, version = dist.metadata["Name"], dist.version
            points = [point for point in dist.entry_points if point.group == GROUP]
            for point in points:
                plugin = InstalledPlugin(
                    name=point.name, module=point.module, dist=name, version=version, metadata=dist
                )
                # The first on sys.path is the one that imports.
                found.setdefault((normalise(name), point.name), plugin)
        except Exception as error:
            if on_error is not None:
                # Its name cannot be asked for: take it from the folder `name-version.dist-info`.
                folder = Path(str(getattr(dist, "_path", "unknown"))).name
                on_error(folder.partition("-")[0].replace("_", "-"), error)
    return tuple(found[key] for key in sorted(found))


def candidates_of(choices: Sequence[str]) -> tuple[list[Candidate], tuple[Origin, ...]]:
    """What to import: core's own plugin and what the choices leave of the installed ones, and what they leave out.

    Raises:
        ConfigError: a choice names a plugin that is not there.
    """
    unreadable: list[Candidate] = []
    installed = installed_plugins(on_error=lambda dist, error: unreadable.append(_unreadable(dist, error)))
    readable = [
        Candidate(origin=p.origin, load=functools.partial(importlib.import_module, p.module)) for p in installed
    ]
    everything = {f"{c.origin.dist}:{c.origin.plugin}": c for c in [*readable, *unreadable]}
    chosen = dict(everything)
    for choice in choices:
        if choice == NO_PLUGINS:
            chosen = {}
        elif choice.startswith("no:"):
            chosen = {key: c for key, c in chosen.items() if not _is_called(c.origin, choice.removeprefix("no:"))}
        elif named := {key: c for key, c in everything.items() if _is_called(c.origin, choice)}:
            chosen |= named
        else:
            known = sorted({name for p in installed for name in (p.name, p.dist)})
            chosen[choice] = everything[choice] = _local(choice, known)
    left_out = tuple(c.origin for key, c in everything.items() if key not in chosen)
    return [_core(), *chosen.values()], left_out


def _core() -> Candidate:
    from navila import __version__

    origin = Origin(dist="navila-core", version=__version__, plugin="builtin", source="navila.builtin")
    return Candidate(origin=origin, load=functools.partial(importlib.import_module, "navila.builtin"))


def _unreadable(dist: str, error: Exception) -> Candidate:
    def load() -> ModuleType:
        raise ImportError(f"the metadata of {dist} cannot be read ({one_line(error)}): reinstall it") from error

    return Candidate(origin=Origin(dist=dist, version="", plugin=dist.removeprefix("navila-")), load=load)


def _local(choice: str, known: Sequence[str]) -> Candidate:
    """A plugin that no distribution names: a file, or an importable module."""
    if choice.endswith(".py") or "/" in choice or os.sep in choice:
        path = Path(choice)
        if not path.is_file():
            raise ConfigError(f"There is no plugin file {choice!r} (--plugin or {PLUGINS_VARIABLE}).")
        return _file(path.resolve())
    try:
        found = importlib.util.find_spec(choice) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        dists = {entry.dist for entry in CATALOGUE}
        short = {dist.removeprefix("navila-"): dist for dist in dists} | {dist: dist for dist in dists}
        advice = f"run `pip install {short[choice]}`." if choice in short else suggestion(choice, known)
        raise ConfigError(
            f"There is no plugin {choice!r} (--plugin or {PLUGINS_VARIABLE}); "
            + (advice or "name an installed one, ./file.py or an importable module.")
        )
    top = choice.partition(".")[0]
    return Candidate(
        origin=Origin(dist=top, version=_version_of(top), plugin=choice, source=choice),
        load=functools.partial(importlib.import_module, choice),
    )


def _file(path: Path) -> Candidate:
    import hashlib

    version = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    name = f"navila_local_{path.stem}"

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        # Listed before it runs, so that its own target "navila_local_<stem>:Class" (f"{__name__}:Class") imports.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return Candidate(origin=Origin(dist=path.stem, version=version, plugin=path.stem, source=str(path)), load=load)


def _version_of(module: str) -> str:
    """Version of the distribution that has a module of that name, or `local`."""
    from importlib import metadata

    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return "local"


def _is_called(origin: Origin, name: str) -> bool:
    return name == origin.plugin or normalise(name) == normalise(origin.dist)
