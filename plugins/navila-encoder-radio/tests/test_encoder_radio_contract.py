"""The RADIO encoders keep the contract of vision encoders."""

from navila.testing import VisionEncoderContract


class TestRadio(VisionEncoderContract):
    name = "radio"


class TestRadioDinov2(VisionEncoderContract):
    name = "radio-v2.5-g"


class TestCRadio(VisionEncoderContract):
    name = "c-radio-v4-so400m"
