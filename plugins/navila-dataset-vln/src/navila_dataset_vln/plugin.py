"""Registers the navigation datasets."""

from __future__ import annotations

from collections.abc import Iterable

from navila.hookspecs import hookimpl
from navila.specs import DatasetSpec

TARGET = "navila_dataset_vln.dataset:VLNDataset"
URL = "https://huggingface.co/datasets/a8cheng/NaVILA-Dataset"


@hookimpl
def navila_datasets() -> Iterable[DatasetSpec]:
    """Navigation steps of R2R, RxR, human videos and recorded folders; trajectories of EnvDrop."""
    yield DatasetSpec(
        name="r2r",
        target=TARGET,
        summary="R2R-CE navigation steps of NaVILA-Dataset",
        kind="navigation",
        expected_files=("R2R/annotations.json: steps", "R2R/train/: frames"),
        url=URL,
    )
    yield DatasetSpec(
        name="rxr",
        target=TARGET,
        summary="RxR-CE navigation steps of NaVILA-Dataset",
        kind="navigation",
        expected_files=("RxR/annotations.json: steps", "RxR/train/: frames"),
        url=URL,
    )
    yield DatasetSpec(
        name="human",
        target=TARGET,
        summary="Navigation steps from human touring videos of NaVILA-Dataset",
        kind="navigation",
        expected_files=("Human/annotations.json: steps", "Human/raw_frames/: frames"),
        url=URL,
    )
    yield DatasetSpec(
        name="envdrop",
        target="navila_dataset_vln.trajectories:EnvDropDataset",
        summary="Trajectories of EnvDrop to be described, of NaVILA-Dataset",
        kind="trajectory",
        expected_files=("EnvDrop/annotations.json: instructions", "EnvDrop/videos/: videos"),
        url=URL,
    )
    yield DatasetSpec(
        name="vln",
        target=TARGET,
        summary="Navigation steps in a folder of NaVILA-Dataset's format, e.g. from `navila data record`",
        kind="navigation",
        expected_files=("annotations.json: steps", "train/: frames"),
    )
