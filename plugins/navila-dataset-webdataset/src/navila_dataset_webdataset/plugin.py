"""Registers tar shards."""

from __future__ import annotations

from collections.abc import Iterable

from navila.hookspecs import hookimpl
from navila.specs import DatasetSpec

TARGET = "navila_dataset_webdataset.dataset:WebDataset"
FILES = ("*.tar: shards, in folders of any depth", "wids-meta.json: their order (optional)")


@hookimpl
def navila_datasets() -> Iterable[DatasetSpec]:
    """Tar shards, by how their captions are learned and how their files belong together."""
    yield DatasetSpec(
        name="webdataset",
        target=TARGET,
        summary="Tar shards of captions, dialogues, interleaved documents or videos; captions learned as plain texts",
        kind="image",
        expected_files=FILES,
    )
    yield DatasetSpec(
        name="webdataset-chat",
        target=TARGET,
        summary="The same, captions learned as answers in the model's conversation format",
        kind="image",
        expected_files=FILES,
    )
    yield DatasetSpec(
        name="vila-webdataset",
        target=TARGET,
        summary="Tar shards whose files belong together up to the last dot, as VILA reads them",
        kind="image",
        expected_files=FILES,
    )
