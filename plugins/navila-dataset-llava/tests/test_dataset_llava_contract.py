"""The conversation dataset keeps the contract of datasets."""

from navila.testing import DatasetContract


class TestLlava(DatasetContract):
    name = "llava"
