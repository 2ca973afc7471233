"""The projectors keep the contract of projectors."""

from navila.testing import ProjectorContract


class TestLinear(ProjectorContract):
    name = "linear"


class TestIdentity(ProjectorContract):
    name = "identity"


class TestMLP(ProjectorContract):
    name = "mlp"


class TestDownsample(ProjectorContract):
    name = "mlp-downsample"
