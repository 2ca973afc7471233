"""Cheap checks of a plugin: what `navila plugins check` runs and the contract tests start with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from navila.errors import NavilaError
from navila.kinds import Kind
from navila.registry import Registry, import_target

#: Packages that nothing which merely lists components may import.
HEAVY = ("torch", "numpy", "PIL", "transformers", "scipy", "matplotlib", "trimesh", "cv2", "av")


def heavy_imports(plugins: Iterable[str]) -> tuple[str, ...]:
    """Heavy packages that importing these plugins (modules or files) and listing brings in, in a fresh interpreter.

    Raises:
        NavilaError: a plugin cannot be imported, or a hook fails.
    """
    choices = ["no:*", *plugins]
    program = (
        "import sys; from navila.kinds import KINDS; from navila.plugins import PluginHost; "
        f"host = PluginHost({choices!r}, strict=True); [host.registry(kind).specs() for kind in KINDS]; "
        f"print(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise NavilaError(f"Listing {', '.join(choices[1:])} fails: {done.stderr.strip().splitlines()[-1]}")
    return tuple(filter(None, done.stdout.strip().rpartition("\n")[2].split(",")))


def interface_problem(kind: Kind, component: Any) -> str | None:
    """Why a loaded component does not implement its kind's interface, or None."""
    interface = import_target(kind.interface, f"interface of a {kind.label}")
    if kind.name in ("conversation", "command"):
        if isinstance(component, interface):
            return None
        return f"is a {type(component).__name__}, not a {kind.interface.replace(':', '.')}"
    if not isinstance(component, type):
        return f"is a {type(component).__name__}, not a class"
    if not issubclass(component, interface):
        return f"does not subclass {kind.interface.replace(':', '.')}"
    abstract = sorted(getattr(component, "__abstractmethods__", ()))
    if abstract:
        return f"leaves {', '.join(abstract)} unimplemented"
    return None


def component_problems(registry: Registry[Any, Any], name: str) -> list[str]:
    """What is wrong with a component, short of building one; imports it."""
    try:
        component = registry.load(name)
    except NavilaError as error:
        return [str(error)]
    problem = interface_problem(registry.kind, component)
    problems = [problem] if problem else []
    if isinstance(component, type) and registry.kind.name != "callback" and not hasattr(component, "tiny"):
        problems.append("has no tiny() that builds a small one for tests")
    return problems
