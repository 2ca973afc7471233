"""Entry point of the plugin: says what it offers, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from navila import hookimpl
from navila.specs import CommandSpec, SimulatorSpec


@hookimpl
def navila_simulators() -> Iterator[SimulatorSpec]:
    """The simulator at the other end of a connection."""
    yield SimulatorSpec(
        name="remote",
        aliases=("habitat", "isaac"),
        target="navila_sim_remote.simulator:RemoteSimulator",
        summary="A simulator in another process, Python or machine: habitat, or anything with reset and step",
        requires=("numpy", "msgpack", "PIL=pillow"),
        scenes=("whatever the server loads",),
        sensors=("rgb", "depth"),
    )


@hookimpl
def navila_commands() -> Iterator[CommandSpec]:
    """Servers of simulators and of models."""
    yield CommandSpec(
        name="sim-remote",
        target="navila_sim_remote.command:sim_remote",
        summary="Serve a simulator, ask one what it can do, or write the server's file for another Python",
    )
    yield CommandSpec(
        name="serve",
        target="navila_sim_remote.command:serve",
        summary="Let NaVILA-Bench's simulator ask a model for its actions",
    )
