"""Find the component that a config asks for: by its `model_type` or registered name, never by part of a path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from navila.errors import AmbiguousComponentError
from navila.plugins import default_host
from navila.specs import ComponentSpec, LLMSpec, ProjectorSpec, VisionEncoderSpec

if TYPE_CHECKING:
    from navila.model.llm import LLMBackend
    from navila.model.projector import Projector
    from navila.model.vision import VisionEncoder

SpecT = TypeVar("SpecT", bound=ComponentSpec)


def llm_backend(model_type: str) -> type[LLMBackend]:
    """The backend that loads language models of this `model_type`, or of this registered name."""
    return default_host().registry("llm").load(llm_spec(model_type).name)


def vision_encoder(model_type: str) -> type[VisionEncoder]:
    """The class that loads vision encoders of this `model_type`, or of this registered name."""
    return default_host().registry("vision-encoder").load(vision_encoder_spec(model_type).name)


def projector(projector_type: str) -> type[Projector]:
    """The class that builds projectors of this type string, e.g. `mlp_downsample` or `mlp2x_gelu`."""
    return default_host().registry("projector").load(projector_spec(projector_type).name)


def llm_spec(model_type: str) -> LLMSpec:
    """Facts of the backend for a `model_type` or name."""
    registry = default_host().registry("llm")
    if model_type in registry:
        return registry.spec(model_type)
    return _only([s for s in registry.specs() if model_type in s.model_types], "llm", model_type)


def vision_encoder_spec(model_type: str) -> VisionEncoderSpec:
    """Facts of the encoder for a `model_type` or name."""
    registry = default_host().registry("vision-encoder")
    if model_type in registry:
        return registry.spec(model_type)
    return _only([s for s in registry.specs() if model_type in s.model_types], "vision-encoder", model_type)


def projector_spec(projector_type: str) -> ProjectorSpec:
    """Facts of the projector for a type string or name."""
    registry = default_host().registry("projector")
    if projector_type in registry:
        return registry.spec(projector_type)
    fitting = [s for s in registry.specs() if s.pattern and re.fullmatch(s.pattern, projector_type)]
    return _only(fitting, "projector", projector_type)


def _only(fitting: list[SpecT], kind: str, wanted: str) -> SpecT:
    """The one fitting description; several of one target (sizes of the same encoder) are one."""
    if not fitting:
        raise default_host().registry(kind).unknown(wanted)
    if len({spec.target for spec in fitting}) > 1:
        names = " or ".join(repr(spec.name) for spec in fitting)
        raise AmbiguousComponentError(f"Several {kind} components load {wanted!r}: leave out all but one of {names}.")
    return fitting[0]
