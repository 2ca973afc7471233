"""The mesh simulator keeps the contract of simulators."""

from navila.testing import SimulatorContract


class TestMesh(SimulatorContract):
    name = "mesh"
