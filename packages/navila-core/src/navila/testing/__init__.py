"""Contracts: one class a kind of component, with the tests every component of that kind passes.

A plugin's author subclasses one and names the component; pytest finds the tests::

    from navila.testing import SimulatorContract


    class TestMesh(SimulatorContract):
        name = "mesh"

A subclass may add tests and override fixtures, not tests.
"""

import pytest

pytest.register_assert_rewrite(
    "navila.testing.contract",
    "navila.testing.data",
    "navila.testing.language",
    "navila.testing.running",
    "navila.testing.simulator",
    "navila.testing.vision",
)

from navila.testing.contract import ComponentContract  # noqa: E402 (after the registration)
from navila.testing.data import BenchmarkContract, DatasetContract  # noqa: E402
from navila.testing.language import ConversationContract, LLMContract  # noqa: E402
from navila.testing.running import CallbackContract, CommandContract  # noqa: E402
from navila.testing.simulator import SimulatorContract  # noqa: E402
from navila.testing.vision import ProjectorContract, VisionEncoderContract  # noqa: E402

__all__ = [
    "BenchmarkContract",
    "CallbackContract",
    "CommandContract",
    "ComponentContract",
    "ConversationContract",
    "DatasetContract",
    "LLMContract",
    "ProjectorContract",
    "SimulatorContract",
    "VisionEncoderContract",
]
