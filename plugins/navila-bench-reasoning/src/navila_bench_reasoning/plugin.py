"""What navila-bench-reasoning offers: the tasks `mathvista-*` and `mmmu-*`."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import BenchmarkSpec, MetricSpec

_MATHVISTA = (
    MetricSpec(name="accuracy", summary="right answers; nothing extracted is wrong", scale="0-100"),
    MetricSpec(
        name="accuracy_published", summary="by MathVista's own script, to which no float is right", scale="0-100"
    ),
)
_MMMU = (
    MetricSpec(name="accuracy", summary="right answers, letters read by MMMU's rules", scale="0-1"),
    MetricSpec(name="accuracy_strict", summary="the same, letters read by navila's own rule", scale="0-1"),
    MetricSpec(name="art_and_design", summary="accuracy of four subjects", scale="0-1"),
    MetricSpec(name="business", summary="accuracy of five subjects", scale="0-1"),
    MetricSpec(name="science", summary="accuracy of five subjects", scale="0-1"),
    MetricSpec(name="health_and_medicine", summary="accuracy of five subjects", scale="0-1"),
    MetricSpec(name="humanities_and_social_science", summary="accuracy of four subjects", scale="0-1"),
    MetricSpec(name="tech_and_engineering", summary="accuracy of seven subjects", scale="0-1"),
)


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """A task each for a split with and one without published answers."""
    for split, tag in (("testmini", "local"), ("test", "submission")):
        yield BenchmarkSpec(
            name=f"mathvista-{split}",
            aliases=("mathvista",) if tag == "local" else (),
            target="navila_bench_reasoning.mathvista:MathVista",
            summary=f"Mathematics in pictures, {split}",
            tags=("image", tag),
            splits=(split,),
            default_split=split,
            metrics=_MATHVISTA,
            data=("mathvista",),
            url="https://huggingface.co/datasets/AI4Math/MathVista",
        )
    for split, tag in (("validation", "local"), ("dev", "local"), ("test", "submission")):
        yield BenchmarkSpec(
            name=f"mmmu-{split}",
            aliases=("mmmu",) if split == "validation" else (),
            target="navila_bench_reasoning.mmmu:Mmmu",
            summary=f"College exams of 30 subjects with pictures, {split}",
            tags=("image", tag),
            splits=(split,),
            default_split=split,
            metrics=_MMMU,
            data=("mmmu",),
            url="https://huggingface.co/datasets/MMMU/MMMU",
        )
