"""Components of one kind by name: described without an import, imported when used."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from navila.catalogue import distribution_offering
from navila.errors import (
    AmbiguousComponentError,
    MissingDependencyError,
    NavilaError,
    PluginError,
    UnknownComponentError,
)
from navila.kinds import Kind
from navila.specs import ComponentSpec

SpecT = TypeVar("SpecT", bound=ComponentSpec)
ComponentT = TypeVar("ComponentT")

_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*")
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a component comes from."""

    dist: str
    """Distribution, or the file's stem for a local plugin."""
    version: str
    plugin: str
    """Name of the entry point."""
    source: str = ""
    """What `--plugin` takes to bring this plugin alone: its module, or its file."""

    def __str__(self) -> str:
        return f"{self.dist} {self.version}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[SpecT]):
    """A description and where it comes from."""

    spec: SpecT
    origin: Origin

    @property
    def full_name(self) -> str:
        """`dist/name`, which is never ambiguous."""
        return f"{self.origin.dist}/{self.spec.name}"


class Registry(Generic[SpecT, ComponentT]):
    """All components of one kind that the installed plugins offer."""

    def __init__(
        self, kind: Kind, entries: Iterable[Entry[SpecT]], absent: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Take the entries of one kind; `absent` says why an installed distribution has none, for errors."""
        self.kind = kind
        self.entries: tuple[Entry[SpecT], ...] = tuple(entries)
        self._absent = absent
        # A plugin may bring hundreds.
        self._by_name: dict[str, list[Entry[SpecT]]] = {}
        self._by_alias: dict[str, list[Entry[SpecT]]] = {}
        for entry in self.entries:
            self._by_name.setdefault(entry.spec.name, []).append(entry)
            for alias in dict.fromkeys(entry.spec.aliases):
                self._by_alias.setdefault(alias, []).append(entry)

    def specs(self) -> list[SpecT]:
        """Every description, in the order the plugins gave them."""
        return [entry.spec for entry in self.entries]

    def names(self) -> list[str]:
        """The name each component is used by: the bare one, or `dist/name` where several plugins claim it."""
        return [e.spec.name if len(self._by_name[e.spec.name]) == 1 else e.full_name for e in self.entries]

    def __contains__(self, name: str) -> bool:
        return bool(self._matches(name))

    def spec(self, name: str) -> SpecT:
        """The description of a component.

        Raises:
            UnknownComponentError: nobody offers it.
            AmbiguousComponentError: several distributions do.
        """
        return self.entry(name).spec

    def origin(self, name: str) -> Origin:
        """Plugin, distribution and version that offer a component; raises as `spec` does."""
        return self.entry(name).origin

    def entry(self, name: str) -> Entry[SpecT]:
        """Description and origin by name, alias or `dist/name`; raises as `spec` does."""
        matches = self._matches(name)
        if not matches:
            raise self.unknown(name)
        if len(matches) > 1:
            owners = " and ".join(str(entry.origin) for entry in matches)
            choices = " or ".join(repr(entry.full_name) for entry in matches)
            raise AmbiguousComponentError(
                f"The {self.kind.label} {name!r} is offered by {owners}: use {choices}, or leave one out with "
                f"--plugin no:{matches[-1].origin.dist}."
            )
        return matches[0]

    def load(self, name: str) -> ComponentT:
        """Import a component's target: the one place where a component's code comes in.

        Raises:
            UnknownComponentError, AmbiguousComponentError: as `spec`.
            MissingDependencyError: a package the component requires is not installed.
            PluginError: the target cannot be imported.
        """
        entry = self.entry(name)
        spec, what = entry.spec, f"{self.kind.label} {entry.spec.name!r} of {entry.origin}"
        missing = missing_requirements(spec)
        if missing:
            line = " ".join(f"'{dist}'" if "[" in dist else dist for dist in missing)
            raise MissingDependencyError(
                f"The {what} needs {_listed(missing)}, not installed here: run `pip install {line}`."
            )
        if spec.deprecated:
            import warnings

            warnings.warn(f"The {what} is deprecated: {spec.deprecated}", FutureWarning, stacklevel=2)
        return import_target(spec.target, what)

    def unknown(self, name: str) -> UnknownComponentError:
        """The error for a name nobody offers: with close matches, and the pip line when a known package has it."""
        owner, _, bare = name.partition("/")
        dist = distribution_offering(self.kind.name, name)
        if distribution_offering(self.kind.name, bare) == owner:
            dist = owner
        if dist and not any(entry.origin.dist == dist for entry in self.entries):
            if dist in self._absent:
                return UnknownComponentError(f"The {self.kind.label} {name!r} of {dist} {self._absent[dist]}.")
            return UnknownComponentError(f"No {self.kind.label} {name!r} is installed: run `pip install {dist}`.")
        known = sorted({n for e in self.entries for n in (e.spec.name, *e.spec.aliases)})
        advice = suggestion(name, known) or f"`navila {self.kind.command} list` shows what is installed."
        return UnknownComponentError(f"No installed plugin offers a {self.kind.label} {name!r}; {advice}")

    def _matches(self, name: str) -> list[Entry[SpecT]]:
        """Entries by exact name, else by alias, else by `dist/name`."""
        matches = self._by_name.get(name) or self._by_alias.get(name, [])
        if matches or "/" not in name:
            return matches
        dist, _, bare = name.partition("/")
        own = [entry for entry in self.entries if normalise(entry.origin.dist) == normalise(dist)]
        return [e for e in own if e.spec.name == bare] or [e for e in own if bare in e.spec.aliases]


def import_target(target: str, what: str) -> Any:
    """Import `"pkg.module:Attribute"`; `what` names the component in the error.

    Raises:
        PluginError: the module cannot be imported or lacks the attribute.
    """
    module_name, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except NavilaError:
        raise
    except Exception as error:
        raise PluginError(f"The {what} cannot be imported from {target!r} ({one_line(error)}).") from error
    return found


def missing_requirements(spec: ComponentSpec) -> tuple[str, ...]:
    """Distributions to install before the component can be imported; looks only, imports nothing."""
    missing = []
    for requirement in spec.requires:
        module, _, dist = requirement.partition("=")
        # Only the top-level package: looking below it would import it.
        top = module.partition(".")[0]
        try:
            found = importlib.util.find_spec(top) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            missing.append(dist or top)
    return tuple(missing)


def check_spec(spec: object, spec_type: type[ComponentSpec]) -> str | None:
    """What is wrong with what a hook yielded, or None."""
    if not isinstance(spec, spec_type):
        return f"expected a {spec_type.__name__}, got {type(spec).__name__}"
    if not isinstance(spec.name, str) or not _NAME.fullmatch(spec.name):
        return f"name {spec.name!r} must be lower-case letters, digits and . _ + -, starting with a letter or digit"
    if not isinstance(spec.target, str) or not _TARGET.fullmatch(spec.target):
        return f"target {spec.target!r} of {spec.name!r} must read 'package.module:Attribute'"
    if not isinstance(spec.summary, str) or not spec.summary.strip():
        return f"summary of {spec.name!r} must say in a line what it is"
    for field in ("aliases", "requires"):
        value = getattr(spec, field)
        if not isinstance(value, tuple) or not all(isinstance(v, str) and v and not re.search(r"\s", v) for v in value):
            return f"{field} of {spec.name!r} must be a tuple of words, got {value!r}"
    return None


def suggestion(name: str, known: Sequence[str], most: int = 3) -> str:
    """`did you mean …?` from close matches, or an empty string."""
    import difflib

    close: dict[str, str] = {}
    for word in difflib.get_close_matches(name.lower(), known, n=2 * most, cutoff=0.6):
        # A name and its alias often differ in their dashes alone: the closer one is enough.
        close.setdefault(normalise(word), word)
    listed = list(close.values())[:most]
    return f"did you mean {' or '.join(map(repr, listed))}?" if listed else ""


def normalise(dist: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", dist).lower()


def one_line(error: BaseException) -> str:
    """`Type: message` of an error, on one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = "its message cannot be shown"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
