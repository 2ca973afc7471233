"""The plugin host: finds plugins, keeps them apart, and turns what breaks into data."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import pluggy

from navila.catalogue import CATALOGUE
from navila.errors import ConfigError, PluginError
from navila.hookspecs import PROJECT, NavilaHooks
from navila.kinds import KINDS
from navila.registry import Entry, Origin, Registry, check_spec, normalise, one_line, suggestion

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    import click

    from navila.conversation import ConversationTemplate
    from navila.model.llm import LLMBackend
    from navila.model.projector import Projector
    from navila.model.vision import VisionEncoder
    from navila.simulation import Simulator
    from navila.specs import (
        BenchmarkSpec,
        CallbackSpec,
        CommandSpec,
        ConversationSpec,
        DatasetSpec,
        LLMSpec,
        ProjectorSpec,
        SimulatorSpec,
        VisionEncoderSpec,
    )

#: Comma-separated plugin choices, in the syntax of `--plugin`; the command line adds its own to it, so that worker
#: processes see the same plugins.
PLUGINS_VARIABLE = "NAVILA_PLUGINS"
#: Set to 1 to raise on the first broken plugin instead of going on without it.
STRICT_VARIABLE = "NAVILA_STRICT"
#: The choice `--no-plugins` stands for.
NO_PLUGINS = "no:*"
#: Entry-point group of every plugin.
GROUP = "navila"

Stage = Literal["import", "register", "call", "iterate"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PluginFailure:
    """One thing that broke in one plugin; everything else goes on without it."""

    dist: str
    version: str
    plugin: str
    stage: Stage
    error: str
    """`Type: message`, one line."""
    traceback: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        deed = {
            "import": "cannot be imported",
            "register": "cannot be registered",
            "call": "failed when asked for its components",
            "iterate": "failed while listing its components",
        }[self.stage]
        return f"plugin {self.plugin!r} of {self.dist} {self.version}".rstrip() + f" {deed}: {self.error}"


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
class Plugin:
    """A plugin that has been imported and registered."""

    origin: Origin
    module: ModuleType


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A plugin to import, installed or local."""

    origin: Origin
    load: Callable[[], ModuleType]


class PluginHost:
    """Plugins, each imported, registered, called and iterated alone.

    `choices` are `NAME`, `no:NAME`, `./file.py` or `pkg.mod`, applied in order to the set of all installed plugins,
    where NAME is a plugin's or a distribution's name; `no:*` empties the set. With `strict`, the first broken plugin
    raises PluginError; without, it becomes a `PluginFailure`, one line through `report`, and the rest goes on.

    A hook that raises half-way through its list keeps the descriptions it gave before: each is complete in itself.
    """

    def __init__(
        self,
        choices: Sequence[str] = (),
        *,
        strict: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.choices = tuple(choices)
        self.strict = strict
        self._report = _print_line if report is None else report
        self._failures: list[PluginFailure] = []
        self._left_out: tuple[Origin, ...] = ()
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(NavilaHooks)
        self._registries: dict[str, Registry[Any, Any]] = {}

    @functools.cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        """Core's own plugin, then every chosen one that could be imported and registered.

        Raises:
            ConfigError: a plugin was asked for by name that is not there.
        """
        plugins: list[Plugin] = []
        for candidate in self._candidates():
            plugin = self._load(candidate)
            if plugin is not None:
                plugins.append(plugin)
        return tuple(plugins)

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """Everything that broke; asks every plugin for every kind first."""
        for kind in KINDS:
            self._registry(kind)
        return tuple(self._failures)

    @property
    def left_out(self) -> tuple[Origin, ...]:
        """Installed plugins that the choices exclude."""
        return self._left_out if self.plugins else ()

    def provenance(self) -> dict[str, str]:
        """`{distribution: version}` of every plugin in use, to be written into checkpoints and results."""
        return {plugin.origin.dist: plugin.origin.version for plugin in self.plugins}

    @overload
    def registry(self, kind: Literal["llm"]) -> Registry[LLMSpec, type[LLMBackend]]: ...
    @overload
    def registry(self, kind: Literal["vision-encoder"]) -> Registry[VisionEncoderSpec, type[VisionEncoder]]: ...
    @overload
    def registry(self, kind: Literal["projector"]) -> Registry[ProjectorSpec, type[Projector]]: ...
    @overload
    def registry(self, kind: Literal["conversation"]) -> Registry[ConversationSpec, ConversationTemplate]: ...
    @overload
    def registry(self, kind: Literal["dataset"]) -> Registry[DatasetSpec, Any]: ...
    @overload
    def registry(self, kind: Literal["benchmark"]) -> Registry[BenchmarkSpec, Any]: ...
    @overload
    def registry(self, kind: Literal["simulator"]) -> Registry[SimulatorSpec, type[Simulator]]: ...
    @overload
    def registry(self, kind: Literal["callback"]) -> Registry[CallbackSpec, Any]: ...
    @overload
    def registry(self, kind: Literal["command"]) -> Registry[CommandSpec, click.Command]: ...
    @overload
    def registry(self, kind: str) -> Registry[Any, Any]: ...

    def registry(self, kind: str) -> Registry[Any, Any]:
        """The components of one kind; a key of `navila.kinds.KINDS`."""
        return self._registry(kind)

    def _registry(self, kind: str) -> Registry[Any, Any]:
        if kind not in KINDS:
            raise ConfigError(f"There is no component kind {kind!r}: the kinds are {', '.join(KINDS)}.")
        if kind not in self._registries:
            entries = [entry for plugin in self.plugins for entry in self._collect(plugin, kind)]
            left_out = {p.dist: "is left out (--plugin, --no-plugins or NAVILA_PLUGINS)" for p in self._left_out}
            broken = {f.dist: "is broken: see `navila plugins doctor`" for f in self._failures}
            self._registries[kind] = Registry(KINDS[kind], entries, absent=left_out | broken)
        return self._registries[kind]

    def _candidates(self) -> list[_Candidate]:
        """Apply the choices to what is installed."""
        unreadable: list[_Candidate] = []
        installed = installed_plugins(
            on_error=lambda dist, error: unreadable.append(_unreadable_candidate(dist, error))
        )
        candidates = [
            _Candidate(origin=p.origin, load=functools.partial(importlib.import_module, p.module)) for p in installed
        ]
        chosen = {f"{c.origin.dist}:{c.origin.plugin}": c for c in [*candidates, *unreadable]}
        everything = dict(chosen)
        for choice in self.choices:
            if choice == NO_PLUGINS:
                chosen.clear()
            elif choice.startswith("no:"):
                for key in [key for key, c in chosen.items() if _is_called(c.origin, choice[3:])]:
                    del chosen[key]
            elif any(_is_called(c.origin, choice) for c in everything.values()):
                chosen.update({key: c for key, c in everything.items() if _is_called(c.origin, choice)})
            else:
                known = sorted({name for p in installed for name in (p.name, p.dist)})
                chosen[choice] = everything[choice] = _local_candidate(choice, known)
        self._left_out = tuple(candidate.origin for key, candidate in everything.items() if key not in chosen)
        return [_core_candidate(), *chosen.values()]

    def _load(self, candidate: _Candidate) -> Plugin | None:
        """Import and register one plugin."""
        origin = candidate.origin
        module = self._attempt(origin, "import", candidate.load)
        if module is not None and self._manager.is_registered(module):
            # `--plugin its.module` for a plugin that is installed too.
            return None
        if module is None or not self._attempt(origin, "register", functools.partial(self._register, origin, module)):
            return None
        # A hook under a wrong name is reported, and the plugin's other hooks stay in use.
        for mistake in _misspelt_hooks(module):
            self._failed(origin, "register", AttributeError(mistake))
        return Plugin(origin=origin, module=module)

    def _register(self, origin: Origin, module: ModuleType) -> bool:
        try:
            self._manager.register(module, f"{origin.dist}:{origin.plugin}")
        except BaseException:
            # pluggy may have taken some hooks before it found the wrong one.
            if self._manager.is_registered(module):
                self._manager.unregister(module)
            raise
        return True

    def _collect(self, plugin: Plugin, kind: str) -> Iterator[Entry[Any]]:
        """The descriptions of one kind that one plugin yields, without the malformed ones."""
        seen: set[str] = set()
        for spec in self._yielded(plugin, KINDS[kind].hook):
            problem = check_spec(spec, KINDS[kind].spec)
            if problem is None and spec.name in seen:
                problem = f"{spec.name!r} is declared twice"
            if problem is not None:
                self._failed(plugin.origin, "iterate", TypeError(problem))
                continue
            seen.add(spec.name)
            yield Entry(spec=spec, origin=plugin.origin)

    def _yielded(self, plugin: Plugin, hook: str) -> Iterator[Any]:
        """What one plugin's implementations of one hook give, up to where they break."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin.module:
                continue
            result = self._attempt(plugin.origin, "call", implementation.function, otherwise=())
            if result is None:
                error = TypeError(f"{hook} returned nothing: yield descriptions, or return ()")
                self._failed(plugin.origin, "call", error)
                continue
            specs = self._attempt(plugin.origin, "iterate", functools.partial(iter, result))
            while specs is not None:
                spec = self._attempt(plugin.origin, "iterate", functools.partial(next, specs, _END), otherwise=_END)
                if spec is _END:
                    break
                yield spec

    def _attempt(self, origin: Origin, stage: Stage, action: Callable[[], T], otherwise: T | None = None) -> T | None:
        """Run one step of one plugin; what it raises becomes a failure, what it prints goes to stderr."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return action()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit() at import must not end the host either
            self._failed(origin, stage, error)
            return otherwise

    def _failed(self, origin: Origin, stage: Stage, error: BaseException) -> None:
        import traceback

        failure = PluginFailure(
            dist=origin.dist,
            version=origin.version,
            plugin=origin.plugin,
            stage=stage,
            error=one_line(error),
            # Without the host's own frame; empty for what the host itself found wrong.
            traceback="".join(traceback.format_tb(error.__traceback__.tb_next)) if error.__traceback__ else "",
        )
        if self.strict:
            raise PluginError(f"The {failure} ({STRICT_VARIABLE}=1).") from error
        self._failures.append(failure)
        self._report(f"navila: {failure} (see `navila plugins doctor`; --plugin no:{origin.plugin} leaves it out)")


_END: Any = object()


def default_host() -> PluginHost:
    """The host of this process, as `NAVILA_PLUGINS` and `NAVILA_STRICT` say; made once for each of their values."""
    return _host(os.environ.get(PLUGINS_VARIABLE, ""), os.environ.get(STRICT_VARIABLE, "") not in ("", "0"))


@functools.cache
def _host(choices: str, strict: bool) -> PluginHost:
    return PluginHost([c.strip() for c in choices.split(",") if c.strip()], strict=strict)


def installed_plugins(*, on_error: Callable[[str, Exception], None] | None = None) -> tuple[InstalledPlugin, ...]:
    """Every plugin that some distribution's metadata name, sorted; imports none of them.

    A distribution whose metadata cannot be read is handed to `on_error` and left out.
    """
    from importlib import metadata

    found: dict[tuple[str, str], InstalledPlugin] = {}
    for dist in metadata.distributions():
        text = dist.read_text("entry_points.txt") or ""
        if f"[{GROUP}]" not in text:
            continue
        try:
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


def _core_candidate() -> _Candidate:
    from navila import __version__

    origin = Origin(dist="navila-core", version=__version__, plugin="builtin", source="navila.builtin")
    return _Candidate(origin=origin, load=functools.partial(importlib.import_module, "navila.builtin"))


def _unreadable_candidate(dist: str, error: Exception) -> _Candidate:
    def load() -> ModuleType:
        raise ImportError(f"the metadata of {dist} cannot be read ({one_line(error)}): reinstall it") from error

    return _Candidate(origin=Origin(dist=dist, version="", plugin=dist.removeprefix("navila-")), load=load)


def _local_candidate(choice: str, known: Sequence[str]) -> _Candidate:
    """A plugin that no distribution names: a file, or an importable module."""
    if choice.endswith(".py") or "/" in choice or os.sep in choice:
        path = Path(choice)
        if not path.is_file():
            raise ConfigError(f"There is no plugin file {choice!r} (--plugin or {PLUGINS_VARIABLE}).")
        return _file_candidate(path.resolve())
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
    return _Candidate(
        origin=Origin(dist=top, version=_version_of(top), plugin=choice, source=choice),
        load=functools.partial(importlib.import_module, choice),
    )


def _file_candidate(path: Path) -> _Candidate:
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

    return _Candidate(origin=Origin(dist=path.stem, version=version, plugin=path.stem, source=str(path)), load=load)


def _version_of(module: str) -> str:
    """Version of the distribution that has a module of that name, or `local`."""
    from importlib import metadata

    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return "local"


def _is_called(origin: Origin, name: str) -> bool:
    return name == origin.plugin or normalise(name) == normalise(origin.dist)


def _misspelt_hooks(module: ModuleType) -> list[str]:
    """A sentence for each function that looks like a hook and is none."""
    hooks = [kind.hook for kind in KINDS.values()]
    marker = f"{PROJECT}_impl"
    mistakes = []
    for name, value in vars(module).items():
        marked = callable(value) and getattr(value, marker, None) is not None
        own_function = name.startswith(f"{PROJECT}_") and getattr(value, "__module__", None) == module.__name__
        if not callable(value) or not (marked or own_function):
            continue
        hook = (getattr(value, marker, None) or {}).get("specname") or name
        if hook not in hooks:
            mistakes.append(
                f"there is no hook {hook!r}; {suggestion(hook, hooks, most=1) or 'hooks are ' + ', '.join(hooks)}"
            )
        elif not marked:
            mistakes.append(f"{name} is not marked with @hookimpl (from navila import hookimpl)")
    return mistakes


def _print_line(line: str) -> None:
    print(line, file=sys.stderr)
