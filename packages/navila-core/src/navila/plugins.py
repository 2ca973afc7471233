"""The plugin host: finds plugins, keeps them apart, and turns what breaks into data."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import pluggy

from navila.discovery import PLUGINS_VARIABLE, Candidate, InstalledPlugin, candidates_of, installed_plugins
from navila.errors import ConfigError, PluginError
from navila.hookspecs import PROJECT, NavilaHooks
from navila.kinds import KINDS
from navila.registry import Entry, Origin, Registry, check_spec, one_line, suggestion

if TYPE_CHECKING:
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

#: Set to 1 to raise on the first broken plugin instead of going on without it.
STRICT_VARIABLE = "NAVILA_STRICT"

__all__ = [
    "InstalledPlugin",
    "Plugin",
    "PluginFailure",
    "PluginHost",
    "default_host",
    "installed_plugins",
]

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
class Plugin:
    """A plugin that has been imported and registered."""

    origin: Origin
    module: ModuleType


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
        candidates, self._left_out = candidates_of(self.choices)
        for candidate in candidates:
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

    def _load(self, candidate: Candidate) -> Plugin | None:
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
