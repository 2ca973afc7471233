"""Keep navigation meshes that took long to make, below `$NAVILA_CACHE`, else `~/.cache/navila`."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from navila.simulation import Embodiment
from numpy.typing import NDArray

from navila_sim_mesh.navmesh import NavMesh, Portals

#: A mesh made faster than this is made anew each time, seconds.
WORTH_KEEPING = 2.0
#: Changes whenever equal scenes would give another mesh.
_VERSION = 2
_ARRAYS = ("corners", "first", "triangles", "first_triangle", "one_way")
_PORTALS = ("polygons", "edges", "ends")


def cached_navmesh(
    triangles: NDArray[np.float32], body: Embodiment, build: Callable[[], NavMesh], worth_keeping: float = WORTH_KEEPING
) -> NavMesh:
    """What `build` makes of a scene's triangles for a body, from an earlier time where it has been kept."""
    content = hashlib.blake2b(np.ascontiguousarray(triangles).data, digest_size=20)
    content.update(repr((_VERSION, body.agent_radius, body.agent_height)).encode())
    root = Path(os.environ.get("NAVILA_CACHE") or Path.home() / ".cache" / "navila")
    place = root / "navmeshes" / f"{content.hexdigest()}.npz"
    kept = _read(place)
    if kept is not None:
        return kept
    started = time.monotonic()
    mesh = build()
    if time.monotonic() - started >= worth_keeping:
        _write(place, mesh)
    return mesh


def _read(place: Path) -> NavMesh | None:
    try:
        with np.load(place, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in _ARRAYS}
            portals = Portals(**{name: kept[name] for name in _PORTALS})
            return NavMesh(**arrays, portals=portals, climb=float(kept["climb"]))
    # Cut off, or another program's: it is made anew and put in its place.
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(place: Path, mesh: NavMesh) -> None:
    part = place.with_suffix(f".{os.getpid()}.part")
    arrays = {name: getattr(mesh, name) for name in _ARRAYS}
    arrays |= {name: getattr(mesh.portals, name) for name in _PORTALS}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as out:
            np.savez(out, climb=np.array(mesh.climb), **arrays)
        part.replace(place)
    # A cache that cannot be written costs time alone.
    except OSError:
        part.unlink(missing_ok=True)
