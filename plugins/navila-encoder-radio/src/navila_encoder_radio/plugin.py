"""RADIO and C-RADIO in their published sizes."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import VisionEncoderSpec

TARGET = "navila_encoder_radio.encoder:RadioEncoder"
MODEL_TYPES = ("radio",)
URL = "https://arxiv.org/abs/2412.07679"


@hookimpl
def navila_vision_encoders() -> Iterable[VisionEncoderSpec]:
    """Any RADIO by its checkpoint, and the published sizes by name."""
    yield VisionEncoderSpec(
        name="radio",
        target=TARGET,
        summary="RADIO or C-RADIO; the checkpoint decides on the size",
        model_types=MODEL_TYPES,
        url=URL,
    )
    for name, size, patch, width in (
        ("radio-v2.5-b", 768, 16, 768),
        ("radio-v2.5-l", 768, 16, 1024),
        ("radio-v2.5-h", 768, 16, 1280),
        ("radio-v2.5-g", 896, 14, 1536),
        ("c-radio-v3-b", 512, 16, 768),
        ("c-radio-v3-l", 512, 16, 1024),
        ("c-radio-v3-h", 512, 16, 1280),
        ("c-radio-v3-g", 512, 16, 1536),
        ("c-radio-v4-so400m", 512, 16, 1152),
        ("c-radio-v4-h", 512, 16, 1280),
    ):
        family, _, letter = name.rpartition("-")
        yield VisionEncoderSpec(
            name=name,
            target=TARGET,
            summary=f"{family.upper().replace('-V', 'v')} {letter} at {size} px",
            model_types=MODEL_TYPES,
            image_size=size,
            patch_size=patch,
            num_tokens=(size // patch) ** 2,
            hidden_size=width,
            url=URL,
        )
