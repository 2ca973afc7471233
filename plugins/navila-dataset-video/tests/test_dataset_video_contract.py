"""The video datasets keep the contract of datasets."""

from navila.testing import DatasetContract


class TestVideo(DatasetContract):
    name = "video"


class TestScanQA(DatasetContract):
    name = "scanqa"
