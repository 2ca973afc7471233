"""SigLIP in its published sizes."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import VisionEncoderSpec

TARGET = "navila_encoder_siglip.encoder:SiglipEncoder"
#: SigLIP2 of a fixed size is `siglip` to transformers; `siglip2` is NaFlex, which the encoder refuses in words.
MODEL_TYPES = ("siglip_vision_model", "siglip", "siglip2_vision_model", "siglip2")


@hookimpl
def navila_vision_encoders() -> Iterable[VisionEncoderSpec]:
    """Any SigLIP by its checkpoint, and the published sizes by name."""
    yield VisionEncoderSpec(
        name="siglip",
        target=TARGET,
        summary="SigLIP or SigLIP2; the checkpoint decides on the size",
        model_types=MODEL_TYPES,
        url="https://arxiv.org/abs/2303.15343",
    )
    for name, size, patch, width in (
        ("siglip-base-224", 224, 16, 768),
        ("siglip-base-384", 384, 16, 768),
        ("siglip-large-256", 256, 16, 1024),
        ("siglip-large-384", 384, 16, 1024),
        ("siglip-so400m-224", 224, 14, 1152),
        ("siglip-so400m-384", 384, 14, 1152),
    ):
        yield VisionEncoderSpec(
            name=name,
            target=TARGET,
            summary=f"SigLIP {name.split('-')[1]} at {size} px",
            model_types=MODEL_TYPES,
            image_size=size,
            patch_size=patch,
            num_tokens=(size // patch) ** 2,
            hidden_size=width,
            url="https://arxiv.org/abs/2303.15343",
        )
