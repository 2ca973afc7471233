"""Tar shards as webdataset, img2dataset and VILA write them, for navila."""
