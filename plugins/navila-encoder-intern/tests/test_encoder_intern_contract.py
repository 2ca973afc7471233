"""The InternViT encoders keep the contract of vision encoders."""

from navila.testing import VisionEncoderContract


class TestIntern(VisionEncoderContract):
    name = "intern"


class TestIntern300M(VisionEncoderContract):
    name = "intern-300m-448"


class TestIntern6BAt224(VisionEncoderContract):
    name = "intern-6b-224"


class TestIntern6BAt448(VisionEncoderContract):
    name = "intern-6b-448"
