"""What navila-bench-niah offers: the task `niah`."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import BenchmarkSpec, MetricSpec


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """Vision needle in a haystack, as LongVA asks for it."""
    yield BenchmarkSpec(
        name="niah",
        aliases=("vision-niah", "v-niah"),
        target="navila_bench_niah.needle:NeedleInHaystack",
        summary="Find one picture among many frames, at every depth",
        tags=("video", "local"),
        splits=("test",),
        default_split="test",
        metrics=(
            MetricSpec(name="score", summary="needles found, over all numbers of frames and depths", scale="0-1"),
            MetricSpec(name="score_anywhere", summary="the same, with the answer anywhere in the reply", scale="0-1"),
        ),
        url="https://arxiv.org/abs/2406.16852",
    )
