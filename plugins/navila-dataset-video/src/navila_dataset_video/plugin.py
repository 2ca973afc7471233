"""Registers the video datasets."""

from __future__ import annotations

from collections.abc import Iterable

from navila.hookspecs import hookimpl
from navila.specs import DatasetSpec

TARGET = "navila_dataset_video.dataset:VideoDataset"


@hookimpl
def navila_datasets() -> Iterable[DatasetSpec]:
    """The video sources of NaVILA's training, and any folder of their format."""
    yield DatasetSpec(
        name="video_chatgpt",
        target=TARGET,
        summary="Questions about videos of Video-ChatGPT",
        kind="video",
        expected_files=("video_chatgpt/annotations.json: conversations", "video_chatgpt/videos/: videos"),
        url="https://huggingface.co/datasets/MBZUAI/VideoInstruct-100K",
    )
    yield DatasetSpec(
        name="sharegpt_video",
        target=TARGET,
        summary="Captions and questions about videos of ShareGPT4Video",
        kind="video",
        expected_files=("sharegpt_video/annotations.json: conversations", "sharegpt_video/videos/: videos"),
        url="https://huggingface.co/datasets/ShareGPT4Video/ShareGPT4Video",
    )
    yield DatasetSpec(
        name="scanqa",
        target=TARGET,
        summary="ScanQA's questions about videos of ScanNet rooms, of NaVILA-Dataset",
        kind="video",
        expected_files=(
            "ScanQA/annotations/ScanQA_v1.0_train_reformat.json: questions and answers",
            "ScanQA/videos/: videos",
        ),
        url="https://huggingface.co/datasets/a8cheng/NaVILA-Dataset",
    )
    yield DatasetSpec(
        name="video",
        target=TARGET,
        summary="Dialogues, questions or captions about videos, in a folder of these formats",
        kind="video",
        expected_files=(
            "annotations.json or annotations.jsonl: conversations, q and a, or captions",
            "videos, at the paths the records name, in videos/ or beside the annotations",
        ),
    )
