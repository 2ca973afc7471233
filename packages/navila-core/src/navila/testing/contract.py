"""What the contracts of all kinds share."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from navila.checks import heavy_imports, interface_problem
from navila.kinds import KINDS, KindName
from navila.plugins import default_host
from navila.registry import Entry, Registry, check_spec


class ComponentContract:
    """Tests for a component of any kind; use the contract of its kind."""

    kind: ClassVar[KindName]
    name: ClassVar[str] = ""
    """The component's registered name."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a class that replaces one of the contract's tests: the contract is passed whole."""
        super().__init_subclass__(**options)
        if cls.__module__.startswith("navila.testing."):
            return
        for base in cls.__mro__:
            if base.__module__.startswith("navila.testing."):
                replaced = sorted(
                    n for n in vars(base) if n.startswith("test_") and getattr(cls, n) is not vars(base)[n]
                )
                if replaced:
                    raise TypeError(
                        f"{cls.__name__} replaces {', '.join(replaced)} of {base.__name__}: a contract is passed "
                        "whole, so mend the component, or override a fixture."
                    )

    @pytest.fixture
    def registry(self) -> Registry[Any, Any]:
        """The components of this kind."""
        return default_host().registry(self.kind)

    @pytest.fixture
    def entry(self, registry: Registry[Any, Any]) -> Entry[Any]:
        """Description and origin of the component."""
        assert self.name, f"set {type(self).__name__}.name to the component's registered name"
        return registry.entry(self.name)

    @pytest.fixture
    def spec(self, entry: Entry[Any]) -> Any:
        """Description of the component."""
        return entry.spec

    @pytest.fixture
    def component(self, registry: Registry[Any, Any], entry: Entry[Any]) -> Any:
        """The loaded component."""
        return registry.load(entry.full_name)

    @pytest.fixture
    def tiny(self, component: Any) -> Iterator[Any]:
        """A small instance, the same in every run, built without a network; closed afterwards where it can be."""
        seed_everything(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "connect", _no_network)
            patch.setenv("HF_HUB_OFFLINE", "1")
            instance = component.tiny()
        yield instance
        if hasattr(instance, "close"):
            instance.close()

    def test_listing_it_imports_nothing_heavy(self, entry: Entry[Any]) -> None:
        assert heavy_imports([entry.origin.source]) == ()

    def test_description_is_well_formed(self, spec: Any) -> None:
        assert check_spec(spec, KINDS[self.kind].spec) is None
        assert "\n" not in spec.summary

    def test_every_name_leads_to_it(self, registry: Registry[Any, Any], entry: Entry[Any]) -> None:
        for name in (entry.spec.name, *entry.spec.aliases, entry.full_name):
            assert registry.entry(name) == entry

    def test_target_implements_the_interface(self, component: Any) -> None:
        assert interface_problem(KINDS[self.kind], component) is None


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch, as far as they are loaded."""
    import sys

    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _no_network(self: socket.socket, address: object) -> None:
    if self.family == getattr(socket, "AF_UNIX", None):
        raise AssertionError(f"tiny() connects to the socket {address!r}: build it without a server")
    raise AssertionError(f"tiny() connects to {address!r}: build it without a network")
