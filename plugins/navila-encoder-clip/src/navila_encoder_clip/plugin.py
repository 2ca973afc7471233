"""CLIP in its published sizes."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import VisionEncoderSpec

TARGET = "navila_encoder_clip.encoder:ClipEncoder"
MODEL_TYPES = ("clip_vision_model", "clip")
URL = "https://arxiv.org/abs/2103.00020"


@hookimpl
def navila_vision_encoders() -> Iterable[VisionEncoderSpec]:
    """Any CLIP by its checkpoint, and the published sizes by name."""
    yield VisionEncoderSpec(
        name="clip",
        target=TARGET,
        summary="CLIP; the checkpoint decides on the size",
        model_types=MODEL_TYPES,
        has_cls_token=True,
        url=URL,
    )
    for name, size, patch, width in (
        ("clip-base-32", 224, 32, 768),
        ("clip-base-16", 224, 16, 768),
        ("clip-large-14", 224, 14, 1024),
        ("clip-large-14-336", 336, 14, 1024),
    ):
        yield VisionEncoderSpec(
            name=name,
            target=TARGET,
            summary=f"CLIP {name.split('-')[1]} at {size} px, patches of {patch}",
            model_types=MODEL_TYPES,
            image_size=size,
            patch_size=patch,
            num_tokens=(size // patch) ** 2,
            hidden_size=width,
            has_cls_token=True,
            url=URL,
        )
