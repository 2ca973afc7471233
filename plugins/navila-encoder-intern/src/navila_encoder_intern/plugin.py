"""InternViT in its published sizes."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import VisionEncoderSpec

TARGET = "navila_encoder_intern.encoder:InternEncoder"
MODEL_TYPES = ("intern_vit_6b", "internvl_chat")
URL = "https://arxiv.org/abs/2312.14238"


@hookimpl
def navila_vision_encoders() -> Iterable[VisionEncoderSpec]:
    """Any InternViT by its checkpoint, and the published sizes by name."""
    yield VisionEncoderSpec(
        name="intern",
        target=TARGET,
        summary="InternViT; the checkpoint decides on the size",
        model_types=MODEL_TYPES,
        has_cls_token=True,
        url=URL,
    )
    for name, size, width in (
        ("intern-300m-448", 448, 1024),
        ("intern-6b-224", 224, 3200),
        ("intern-6b-448", 448, 3200),
    ):
        yield VisionEncoderSpec(
            name=name,
            target=TARGET,
            summary=f"InternViT {name.split('-')[1].upper()} at {size} px",
            model_types=MODEL_TYPES,
            image_size=size,
            patch_size=14,
            num_tokens=(size // 14) ** 2,
            hidden_size=width,
            has_cls_token=True,
            url=URL,
        )
