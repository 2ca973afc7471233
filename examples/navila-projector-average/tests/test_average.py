"""The contract of projectors, and what is special about this one."""

import torch
from navila.testing import ProjectorContract
from navila_projector_average.projector import AverageProjector


class TestAverage(ProjectorContract):
    """Every test that a projector passes."""

    name = "average"

    def test_the_order_of_patches_does_not_matter(self, tiny: AverageProjector) -> None:
        features = torch.randn(1, 4, tiny.in_features)
        torch.testing.assert_close(tiny(features), tiny(features.flip(1)))
