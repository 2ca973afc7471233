"""Any vision transformer of timm."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import VisionEncoderSpec


@hookimpl
def navila_vision_encoders() -> Iterable[VisionEncoderSpec]:
    """One encoder; the config or checkpoint names timm's architecture."""
    yield VisionEncoderSpec(
        name="timm",
        target="navila_encoder_timm.encoder:TimmEncoder",
        summary="Any vision transformer of timm; its config names the architecture",
        model_types=("timm",),
        requires=("timm",),
        url="https://github.com/huggingface/pytorch-image-models",
    )
