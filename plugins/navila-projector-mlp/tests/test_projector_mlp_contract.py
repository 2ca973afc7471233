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


class TestDownsample2x2Fix(ProjectorContract):
    name = "mlp-downsample-2x2-fix"


class TestDownsample3x3Fix(ProjectorContract):
    name = "mlp-downsample-3x3-fix"


class TestDownsample3x3S2(ProjectorContract):
    name = "mlp-downsample-3x3-s2"


class TestDownsample3x3S2New(ProjectorContract):
    name = "mlp-downsample-3x3-s2-new"
