"""What navila-bench-lmms offers: the tasks `lmms-*`, each run by lmms-eval itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from navila import hookimpl
from navila.specs import BenchmarkSpec, MetricSpec

#: The tasks that VILA's registry has, with its tags, and where it looks for which figure.
_VILA: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "ai2d": (["local"], {"accuracy": "ai2d/exact_match,flexible-extract"}),
    "chartqa": (
        ["local"],
        {
            "overall": "chartqa/relaxed_overall,none",
            "human": "chartqa/relaxed_human_split,none",
            "augmented": "chartqa/relaxed_augmented_split,none",
        },
    ),
    "docvqa_test": (["submission"], {}),
    "docvqa_val": (["local"], {"accuracy": "docvqa_val/anls,none"}),
    "gqa": (["local", "regression"], {"accuracy": "gqa/exact_match,none"}),
    "llava_in_the_wild": (["openai"], {}),
    "mmbench": (["submission"], {}),
    "mme": (
        ["local", "regression"],
        # As lmms-eval spelt it until 0.2.
        {"cognition": "mme/mme_cognition_score,none", "perception": "mme/mme_percetion_score,none"},
    ),
    "mmmu_test": (["submission"], {}),
    "mmmu_val": (["local", "regression"], {"accuracy": "mmmu_val/mmmu_acc,none"}),
    "mmvet": (["openai"], {}),
    "ocrbench": (["local"], {"accuracy": "ocrbench/ocrbench_accuracy,none"}),
    "pope": (
        ["local", "regression"],
        {
            "accuracy": "pope/pope_accuracy,none",
            "precision": "pope/pope_precision,none",
            "recall": "pope/pope_recall,none",
            "f1": "pope/pope_f1_score,none",
        },
    ),
    "realworldqa": (["local"], {"accuracy": "realworldqa/exact_match,flexible-extract"}),
    "scienceqa_full": (
        ["local", "regression"],
        {"full": "scienceqa/exact_match,none", "image": "scienceqa_img/exact_match,none"},
    ),
    "seedbench": (
        ["local", "regression"],
        {"all": "seedbench/seed_all,none", "image": "seedbench/seed_image,none", "video": "seedbench/seed_video,none"},
    ),
    "vizwiz_vqa_test": (["submission"], {}),
    "vizwiz_vqa_val": (["local"], {"accuracy": "vizwiz_vqa_val/exact_match,none"}),
    "vqav2_test": (["submission"], {}),
    "vqav2_val": (["local"], {}),
}
_ALIASES = {"llava_in_the_wild": ("lmms-llava-in-the-wild",)}


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """The tasks of VILA's registry, and all others of lmms-eval where it is installed."""
    for name, (tags, paths) in _VILA.items():
        metrics = [
            MetricSpec(name=m, summary=f"lmms-eval's {path}", path=f"results/{path}") for m, path in paths.items()
        ]
        yield _spec(name, ("lmms", *tags), metrics, _ALIASES.get(name, ()), requires=("lmms_eval=lmms-eval",))
    yield from _others(set(_VILA))


def _others(seen: set[str]) -> Iterator[BenchmarkSpec]:
    from navila_bench_lmms.names import installed_names  # only lists of tasks wait for it

    for name, metrics in installed_names().items():
        plain = name.lower()
        if plain in seen:
            continue
        seen.add(plain)
        figures = [
            MetricSpec(name=m, summary=f"lmms-eval's {m}", path=f"results/{name}/{m},none")
            for m in metrics
            if "/" not in m
        ]
        yield _spec(name, ("lmms", "more"), figures, () if plain == name else (f"lmms-{name}",))


def _spec(
    name: str,
    tags: Sequence[str],
    metrics: Sequence[MetricSpec],
    aliases: Sequence[str],
    requires: tuple[str, ...] = (),
) -> BenchmarkSpec:
    return BenchmarkSpec(
        name=f"lmms-{name.lower()}",
        aliases=tuple(aliases),
        target="navila_bench_lmms.bridge:LmmsTask",
        summary=f"{name} of lmms-eval",
        tags=tuple(tags),
        # lmms-eval's tasks have a split each; their names take its place.
        splits=(name,),
        default_split=name,
        metrics=tuple(metrics),
        requires=requires,
        url="https://github.com/EvolvingLMMs-Lab/lmms-eval",
    )
