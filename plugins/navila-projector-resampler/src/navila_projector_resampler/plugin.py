"""The Perceiver resampler."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import ProjectorSpec


@hookimpl
def navila_projectors() -> Iterable[ProjectorSpec]:
    """Learned queries that read the features of an image."""
    yield ProjectorSpec(
        name="resampler",
        target="navila_projector_resampler.projector:ResamplerProjector",
        summary="Perceiver resampler: any number of patches to a fixed number of tokens",
        url="https://arxiv.org/abs/2204.14198",
    )
