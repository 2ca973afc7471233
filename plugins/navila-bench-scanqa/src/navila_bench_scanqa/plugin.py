"""What navila-bench-scanqa offers: the task `scanqa`."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import BenchmarkSpec, MetricSpec

_METRICS = (
    MetricSpec(name="cider", summary="CIDEr: agreement with the answers, rare words count more", scale="0-1000"),
    *(MetricSpec(name=f"bleu_{n}", summary=f"BLEU-{n} of all answers together", scale="0-100") for n in range(1, 5)),
    MetricSpec(name="meteor", summary="METEOR 1.5; n/a without its Java program", scale="0-100"),
    MetricSpec(name="rouge_l", summary="ROUGE-L: longest common subsequence", scale="0-100"),
    MetricSpec(name="em", summary="exact match with one of the answers", scale="0-100"),
    MetricSpec(name="em_refined", summary="exact match, or one is within the other", scale="0-100"),
)


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """ScanQA's validation and training questions."""
    yield BenchmarkSpec(
        name="scanqa",
        target="navila_bench_scanqa.benchmark:ScanQA",
        summary="Questions about scanned rooms, shown as videos",
        tags=("video", "3d", "local"),
        splits=("val", "train"),
        default_split="val",
        metrics=_METRICS,
        data=("scanqa/ScanQA_v1.0_val.json", "scanqa/videos"),
        url="https://github.com/ATR-DBI/ScanQA",
    )
