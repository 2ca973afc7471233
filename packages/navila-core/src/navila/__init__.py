"""Compose, load and drive vision-language navigation models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from navila.hookspecs import hookimpl

if TYPE_CHECKING:
    from navila.model.load import load
    from navila.navigator import Navigator

__version__ = "0.1.0"
__all__ = ["Navigator", "__version__", "hookimpl", "load"]

_LAZY = {"load": "navila.model.load", "Navigator": "navila.navigator"}


def __getattr__(name: str) -> Any:
    """Import the heavy names on first use, so that `import navila` stays light (PEP 562)."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
