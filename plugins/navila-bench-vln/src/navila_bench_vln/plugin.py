"""What navila-bench-vln offers: closed-loop navigation tasks."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import BenchmarkSpec, MetricSpec

_METRICS = (
    MetricSpec(name="sr", summary="success rate: stopped within the success distance of the goal", scale="0-1"),
    MetricSpec(name="spl", summary="success weighted by path length", scale="0-1"),
    MetricSpec(name="os", summary="oracle success: came within the success distance at any time", scale="0-1"),
    MetricSpec(
        name="ne",
        summary="navigation error: geodesic distance to the goal at the end",
        higher_is_better=False,
        scale="m",
    ),
    MetricSpec(name="ndtw", summary="agreement with the expert's path (fastdtw, radius 1, as published)", scale="0-1"),
    MetricSpec(name="ndtw_exact", summary="the same with exact dynamic time warping", scale="0-1"),
    MetricSpec(name="sdtw", summary="nDTW of successful episodes, 0 for others", scale="0-1"),
    MetricSpec(name="cls", summary="coverage of the expert's path, weighted by length", scale="0-1"),
    MetricSpec(name="pl", summary="path length", higher_is_better=False, scale="m"),
    MetricSpec(name="steps", summary="primitives executed, the stop included", higher_is_better=False, scale="steps"),
    MetricSpec(name="collisions", summary="primitives that ran into something", higher_is_better=False, scale="count"),
)


#: Splits of RxR-CE by role and language; those without one have all languages.
_LANGUAGES = ("_en", "", "_en_us", "_en_in", "_hi", "_te")
_RXR_SPLITS = tuple(
    f"{base}_{role}{language}"
    for base in ("val_unseen", "val_seen", "train", "test_challenge")
    for role in ("guide", "follower")
    for language in _LANGUAGES
    if (base, role) != ("test_challenge", "follower")
)
_TAGS = ("navigation", "continuous")


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """Navigation in procedural houses, in Matterport3D, and in scans of one's own."""
    yield BenchmarkSpec(
        name="houses",
        target="navila_bench_vln.houses:Houses",
        summary="Go to the landmark an instruction names, in houses made by seed; no data to download",
        tags=("navigation", "local"),
        splits=("level0", "level1", "level2", "level3"),
        default_split="level0",
        metrics=_METRICS,
        simulator="mesh",
    )
    yield BenchmarkSpec(
        name="r2r-ce",
        aliases=("r2r",),
        target="navila_bench_vln.vln_ce:R2rCe",
        summary="Room-to-Room in continuous environments (VLN-CE); -o simulator=graph walks R2R without scans",
        tags=_TAGS,
        splits=("val_unseen", "val_seen", "train", "test"),
        default_split="val_unseen",
        metrics=_METRICS,
        data=("datasets/R2R_VLNCE_v1-3_preprocessed", "scene_datasets/mp3d"),
        simulator="mesh",
    )
    yield BenchmarkSpec(
        name="rxr-ce",
        aliases=("rxr",),
        target="navila_bench_vln.vln_ce:RxrCe",
        summary="Room-across-Room in continuous environments: long ways, English, Hindi and Telugu",
        tags=_TAGS,
        splits=_RXR_SPLITS,
        default_split="val_unseen_guide_en",
        metrics=_METRICS,
        data=("datasets/RxR_VLNCE_v0", "scene_datasets/mp3d"),
        simulator="mesh",
    )
    yield BenchmarkSpec(
        name="envdrop",
        target="navila_bench_vln.vln_ce:EnvDrop",
        summary="R2R's training scenes under instructions of a speaker model (EnvDrop's augmentation)",
        tags=_TAGS,
        splits=("envdrop", "joint_train_envdrop"),
        default_split="envdrop",
        metrics=_METRICS,
        data=("datasets/R2R_VLNCE_v1-3_preprocessed/envdrop", "scene_datasets/mp3d"),
        simulator="mesh",
    )
    yield BenchmarkSpec(
        name="scan",
        target="navila_bench_vln.scan:Scan",
        summary="Your instructions in your scan: -o scene=building.glb -o instructions=walks.json",
        tags=("navigation", "continuous", "own"),
        splits=("walks",),
        default_split="walks",
        metrics=_METRICS,
        simulator="mesh",
    )
