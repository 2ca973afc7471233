"""Any open_clip model whose vision tower has patch tokens."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import VisionEncoderSpec


@hookimpl
def navila_vision_encoders() -> Iterable[VisionEncoderSpec]:
    """One encoder; the config or checkpoint names or describes open_clip's architecture."""
    yield VisionEncoderSpec(
        name="openclip",
        target="navila_encoder_openclip.encoder:OpenClipEncoder",
        summary="Any vision transformer of open_clip; its config names the architecture",
        model_types=("open_clip",),
        requires=("open_clip", "timm"),
        url="https://github.com/mlfoundations/open_clip",
    )
