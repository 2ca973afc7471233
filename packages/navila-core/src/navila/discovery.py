"""Find plugins: in the metadata of installed distributions, in files, in importable modules. Imports none of them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

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
    folder: Path = field(repr=False, compare=False)
    """Where the metadata are: `NAME-VERSION.dist-info`."""

    @property
    def metadata(self) -> Distribution:
        """All that they say."""
        from importlib import metadata

        return metadata.PathDistribution(self.folder)

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
    found: dict[tuple[str, str], InstalledPlugin] = {}
    for folder in _metadata_folders():
        try:
            for plugin in _plugins_of(folder):
                # The first on sys.path is the one that imports.
                found.setdefault((normalise(plugin.dist), plugin.name), plugin)
        except Exception as error:
            if on_error is not None:
                # Its name cannot be asked for: take it from the folder's.
                on_error(folder.name.partition("-")[0].replace("_", "-"), error)
    return tuple(found[key] for key in sorted(found))


# importlib.metadata says the same, but importing it and parsing whole METADATA files is a third of the cost of a list.


def _metadata_folders() -> Iterator[Path]:
    """The metadata of every distribution, in the order of sys.path."""
    for entry in dict.fromkeys(sys.path):
        try:
            root = Path(entry)
            if root.is_file():
                root = _archive(root)
            inside = [item for item in root.iterdir() if item.name.endswith((".dist-info", ".egg-info", "EGG-INFO"))]
        except Exception:  # no folder and no zip file: nothing is imported from there either
            continue
        yield from sorted(inside, key=lambda item: item.name)


def _archive(path: Path) -> Path:
    """A zip file as a folder."""
    import zipfile

    # It has of Path what is used here.
    return cast(Path, zipfile.Path(path))


def _plugins_of(folder: Path) -> Iterator[InstalledPlugin]:
    """The plugins that one distribution's metadata name.

    Raises:
        ValueError, OSError: the metadata are damaged.
    """
    try:
        points = (folder / "entry_points.txt").read_bytes()
    except OSError:  # it has none
        return
    if f"[{GROUP}]".encode() not in points:
        return
    dist, version = _name_and_version(folder)
    section = ""
    for line in map(str.strip, points.decode().splitlines()):
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == GROUP and line and not line.startswith("#"):
            # `name = module`, of which the format allows `name = module:attribute [extras]`.
            name, equals, target = line.partition("=")
            module = target.partition("[")[0].partition(":")[0].strip()
            if not equals or not module:
                raise ValueError(f"entry_points.txt has {line!r}, which is no entry point")
            yield InstalledPlugin(name=name.strip(), module=module, dist=dist, version=version, folder=folder)


def _name_and_version(folder: Path) -> tuple[str, str]:
    """Name and version of a distribution, from the first lines of its METADATA."""
    path = folder / ("METADATA" if folder.name.endswith(".dist-info") else "PKG-INFO")
    header = path.read_text(encoding="utf-8").partition("\n\n")[0]
    fields = {key: value.strip() for key, _, value in (line.partition(":") for line in header.splitlines()[::-1])}
    for key in ("Name", "Version"):
        if not fields.get(key):
            raise ValueError(f"{path.name} has no {key}")
    return fields["Name"], fields["Version"]


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
