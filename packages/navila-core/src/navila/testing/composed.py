"""A language model behind a vision side of nothing but shapes, so that its contract needs no other plugin."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from navila.model.config import NavilaConfig
from navila.model.modeling import NavilaForCausalLM
from navila.model.projector import Projector
from navila.model.vision import VisionEncoder

TOKENS = 3
"""Positions an image takes."""


def composed(llm: Any) -> NavilaForCausalLM:
    """The language model as training and navigation drive it; images are given to it as `image_features` (N, 3, D)."""
    width = llm.get_input_embeddings().embedding_dim
    sizes = {"mm_projector_type": "none", "mm_hidden_size": width, "hidden_size": width}
    return NavilaForCausalLM(
        NavilaConfig(hidden_size=width), llm=llm, vision_tower=NoEncoder({"width": width}), mm_projector=Through(sizes)
    ).eval()


class NoEncoder(VisionEncoder):
    """An encoder that is never run."""

    def build(self, attn_implementation: str | None) -> nn.Module:
        """One parameter, for a dtype and a device."""
        return nn.Linear(1, 1)

    @property
    def num_layers(self) -> int:
        """One, never run."""
        return 1

    @property
    def image_size(self) -> int:
        """Of no image."""
        return 14

    @property
    def num_patches(self) -> int:
        """Features of an image."""
        return TOKENS

    @property
    def hidden_size(self) -> int:
        """As wide as the language model."""
        return self.config["width"]

    def hidden_states(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        """None: features are given."""
        raise NotImplementedError("give image_features")

    def unused_modules(self) -> list[nn.Module]:
        """None."""
        return []

    @classmethod
    def tiny(cls) -> Self:
        """As wide as a tiny language model."""
        return cls({"width": 64})


class Through(Projector):
    """A projector that changes nothing."""

    def build(self) -> nn.Module:
        """Nothing to learn."""
        return nn.Identity()

    @classmethod
    def tiny(cls) -> Self:
        """As wide as a tiny language model."""
        return cls({"mm_projector_type": "none", "mm_hidden_size": 64, "hidden_size": 64})
