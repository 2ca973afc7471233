"""Entry point of the plugin: says what it offers, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from navila import hookimpl
from navila.specs import SimulatorSpec


@hookimpl
def navila_simulators() -> Iterator[SimulatorSpec]:
    yield SimulatorSpec(
        name="graph",
        target="navila_sim_graph.simulator:GraphSimulator",
        summary="Matterport3D's connectivity graphs, walked along their edges; wire-frame images, no scans",
        requires=("numpy", "scipy", "PIL=pillow"),
        scenes=("connectivity",),
    )
