"""The CLIP encoders keep the contract of vision encoders."""

from navila.testing import VisionEncoderContract


class TestClip(VisionEncoderContract):
    name = "clip"


class TestClipBase32(VisionEncoderContract):
    name = "clip-base-32"


class TestClipBase16(VisionEncoderContract):
    name = "clip-base-16"


class TestClipLarge14(VisionEncoderContract):
    name = "clip-large-14"


class TestClipLarge14At336(VisionEncoderContract):
    name = "clip-large-14-336"
