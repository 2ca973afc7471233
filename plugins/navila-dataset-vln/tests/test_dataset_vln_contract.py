"""The navigation datasets keep the contract of datasets."""

from navila.testing import DatasetContract


class TestVLN(DatasetContract):
    name = "vln"


class TestR2R(DatasetContract):
    name = "r2r"
