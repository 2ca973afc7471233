"""What navila-bench-vln offers: closed-loop navigation tasks."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import BenchmarkSpec, MetricSpec

_METRICS = (
    MetricSpec(name="sr", summary="success rate: stopped within the success distance of the goal"),
    MetricSpec(name="spl", summary="success weighted by path length"),
    MetricSpec(name="os", summary="oracle success: came within the success distance at any time"),
    MetricSpec(
        name="ne",
        summary="navigation error: geodesic distance to the goal at the end",
        higher_is_better=False,
        scale="m",
    ),
    MetricSpec(name="ndtw", summary="agreement with the expert's path (fastdtw, radius 1, as published)"),
    MetricSpec(name="ndtw_exact", summary="the same with exact dynamic time warping"),
    MetricSpec(name="sdtw", summary="nDTW of successful episodes, 0 for others"),
    MetricSpec(name="cls", summary="coverage of the expert's path, weighted by length"),
    MetricSpec(name="pl", summary="path length", higher_is_better=False, scale="m"),
    MetricSpec(name="steps", summary="primitives executed, the stop included", higher_is_better=False, scale="steps"),
    MetricSpec(name="collisions", summary="primitives that ran into something", higher_is_better=False, scale="count"),
)


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """The task in procedural houses."""
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
