"""The mean of all patches, then one linear layer."""

from typing import Self

from navila.model.projector import Projector
from torch import Tensor, nn


class AverageProjector(Projector):
    """(B, N, C) vision features to (B, 1, D): one token an image."""

    def build(self) -> nn.Module:
        """One linear layer."""
        return nn.Linear(self.in_features, self.out_features)

    def num_tokens(self, num_patches: int) -> int:
        """One, however many patches there are."""
        return 1

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, C) to (B, 1, D)."""
        return self.layers(features.mean(1, keepdim=True))

    @classmethod
    def tiny(cls) -> Self:
        """8 to 16 channels."""
        return cls({"mm_projector_type": "average", "mm_hidden_size": 8, "hidden_size": 16})
