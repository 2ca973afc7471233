"""Registers the LLaVA conversation format."""

from __future__ import annotations

from collections.abc import Iterable

from navila.hookspecs import hookimpl
from navila.specs import DatasetSpec


@hookimpl
def navila_datasets() -> Iterable[DatasetSpec]:
    """Conversations about one image, several, or none."""
    yield DatasetSpec(
        name="llava",
        target="navila_dataset_llava.dataset:LlavaDataset",
        summary="Conversations about one image, several or none, in LLaVA's JSON format",
        kind="image",
        expected_files=(
            "annotations.json or annotations.jsonl: conversations",
            "images, at the paths the records name",
        ),
    )
    yield DatasetSpec(
        name="sharegpt4v_sft",
        target="navila_dataset_llava.dataset:LlavaDataset",
        summary="Conversations about images of ShareGPT4V, as NaVILA was tuned on",
        kind="image",
        expected_files=(
            "sharegpt4v_sft/annotations.json: conversations",
            "sharegpt4v_sft/images/ or videos/: images",
        ),
        url="https://huggingface.co/datasets/Lin-Chen/ShareGPT4V",
    )
