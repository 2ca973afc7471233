"""Entry point of the plugin: says what it offers, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from navila import hookimpl
from navila.specs import SimulatorSpec


@hookimpl
def navila_simulators() -> Iterator[SimulatorSpec]:
    yield SimulatorSpec(
        name="mesh",
        aliases=("houses",),
        target="navila_sim_mesh.simulator:MeshSimulator",
        summary="Seeded procedural houses and any GLB, PLY or OBJ scan, ray-cast on the CPU",
        requires=("numpy", "scipy", "trimesh", "embreex", "PIL=pillow"),
        scenes=("procedural", "glb", "gltf", "ply", "obj"),
        sensors=("rgb", "depth"),
    )
