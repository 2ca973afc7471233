"""The SigLIP encoders keep the contract of vision encoders."""

from navila.testing import VisionEncoderContract


class TestSiglip(VisionEncoderContract):
    name = "siglip"


class TestSiglipBase224(VisionEncoderContract):
    name = "siglip-base-224"


class TestSiglipBase384(VisionEncoderContract):
    name = "siglip-base-384"


class TestSiglipLarge256(VisionEncoderContract):
    name = "siglip-large-256"


class TestSiglipLarge384(VisionEncoderContract):
    name = "siglip-large-384"


class TestSiglipSo400m224(VisionEncoderContract):
    name = "siglip-so400m-224"


class TestSiglipSo400m384(VisionEncoderContract):
    name = "siglip-so400m-384"
