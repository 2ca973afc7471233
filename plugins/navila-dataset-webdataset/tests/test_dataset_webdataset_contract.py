"""Tar shards keep the contract of datasets."""

from navila.testing import DatasetContract


class TestWebDataset(DatasetContract):
    name = "webdataset"
