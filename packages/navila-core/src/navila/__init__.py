"""Compose, load and drive vision-language navigation models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from navila.hookspecs import hookimpl

if TYPE_CHECKING:
    from navila import actions, conversation, episodes, frames, model, prompts, simulation
    from navila.model.chat import Chat
    from navila.model.load import load
    from navila.navigator import Navigator
    from navila.video import Video

__version__ = "0.1.0"
__all__ = [
    "Chat",
    "Navigator",
    "Video",
    "__version__",
    "actions",
    "conversation",
    "episodes",
    "frames",
    "hookimpl",
    "load",
    "model",
    "prompts",
    "simulation",
]

_LAZY = {
    "Chat": "navila.model.chat",
    "Navigator": "navila.navigator",
    "Video": "navila.video",
    "load": "navila.model.load",
}
_LAZY_MODULES = ("actions", "conversation", "episodes", "frames", "model", "prompts", "simulation")


def __getattr__(name: str) -> Any:
    """Import heavy names and public modules on first use, so that `import navila` stays light (PEP 562).

    Raises:
        MissingDependencyError: navila-core was installed without its extra `[torch]`.
    """
    import importlib

    if name in _LAZY_MODULES:
        return importlib.import_module(f"navila.{name}")
    if name in _LAZY:
        try:
            return getattr(importlib.import_module(_LAZY[name]), name)
        except ModuleNotFoundError as error:
            from navila.errors import missing_extra

            raise (missing_extra(error, f"navila.{name}") or error) from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
