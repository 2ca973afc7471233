"""What navila-bench-video offers: tasks about videos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from navila import hookimpl
from navila.specs import BenchmarkSpec, MetricSpec

from navila_bench_video.categories import (
    ACTIVITYNET,
    CINEPILE,
    NEXTQA,
    PERCEPTION_AREAS,
    PERCEPTION_REASONING,
    QUESTION_WORDS,
    VIDEO_CHATGPT,
    VIDEOMME,
)


def _percent(name: str, summary: str) -> MetricSpec:
    return MetricSpec(name=name, summary=summary, scale="0-100")


def _parts(names: Mapping[str, str], of: str) -> tuple[MetricSpec, ...]:
    return tuple(_percent(name, f"{of}: {summary}") for name, summary in names.items())


_ACCURACY = _percent("accuracy", "share of right answers")


def _open(
    name: str, target: str, title: str, url: str, kinds: Iterable[str], splits: tuple[str, ...] = ("test",)
) -> BenchmarkSpec:
    """A task of open answers that a judge calls right or wrong."""
    return BenchmarkSpec(
        name=name,
        target=f"navila_bench_video.open_questions:{target}",
        summary=f"{title}: short open answers, judged",
        tags=("video", "judge", "openai"),
        splits=splits,
        default_split="test",
        metrics=(
            _percent("accuracy", "answers that the judge calls right; without a judgement wrong"),
            MetricSpec(name="score", summary="the judge's score; without a judgement 0", scale="0-5"),
            _percent("accuracy_judged", "accuracy of those judged, as the published script prints it"),
            MetricSpec(name="score_judged", summary="score of those judged, as published", scale="0-5"),
            _percent("exact_match", "answers equal to the truth, case and punctuation apart"),
            *_parts({kind: kind for kind in kinds}, "accuracy"),
        ),
        data=(f"{name}/test_q.json", f"{name}/test_a.json", f"{name}/videos"),
        url=url,
    )


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """Questions about videos, with options and without."""
    zero_shot = "https://github.com/mbzuai-oryx/Video-ChatGPT"
    yield _open("msvd-qa", "MSVDQA", "MSVD-QA", zero_shot, QUESTION_WORDS)
    yield _open("msrvtt-qa", "MSRVTTQA", "MSR-VTT-QA", zero_shot, QUESTION_WORDS)
    yield _open(
        "activitynet-qa",
        "ActivityNetQA",
        "ActivityNet-QA",
        "https://github.com/MILVLG/activitynet-qa",
        ACTIVITYNET.values(),
        ("test", "val", "train"),
    )
    yield BenchmarkSpec(
        name="video-chatgpt",
        target="navila_bench_video.video_chatgpt:VideoChatGPT",
        summary="Video-ChatGPT's benchmark: long answers, five aspects judged",
        tags=("video", "judge", "openai"),
        splits=("all", "generic", "temporal", "consistency"),
        default_split="all",
        metrics=(
            *(MetricSpec(name=name, summary=summary, scale="0-5") for name, summary in VIDEO_CHATGPT.items()),
            MetricSpec(name="average", summary="mean of the five", scale="0-5"),
        ),
        data=(
            *(f"video-chatgpt/{name}_qa.json" for name in ("generic", "temporal", "consistency")),
            "video-chatgpt/videos",
        ),
        url=zero_shot,
    )
    yield BenchmarkSpec(
        name="nextqa",
        aliases=("nextqa-oe",),
        target="navila_bench_video.nextqa:NextQA",
        summary="NExT-QA: open answers about causes and order, by WUPS",
        tags=("video", "local"),
        splits=("test", "val"),
        default_split="test",
        metrics=(_percent("wups", "WUPS at 0: likeness of words by WordNet"), *_parts(NEXTQA, "WUPS")),
        data=("nextqa/oe/test.csv", "nextqa/videos"),
        url="https://github.com/doc-doc/NExT-OE",
    )
    yield BenchmarkSpec(
        name="nextqa-mc",
        target="navila_bench_video.nextqa:NextQAChoice",
        summary="NExT-QA: five options about causes and order",
        tags=("video", "local"),
        splits=("test", "val"),
        default_split="test",
        metrics=(_ACCURACY, *_parts(NEXTQA, "accuracy")),
        data=("nextqa/mc/test.csv", "nextqa/videos"),
        url="https://github.com/doc-doc/NExT-QA",
    )
    for name, split, tag, which in (
        ("egoschema", "subset", "local", "those with public answers"),
        ("egoschema_full", "full", "submission", "all, for the server"),
    ):
        yield BenchmarkSpec(
            name=name,
            target="navila_bench_video.egoschema:EgoSchema",
            summary=f"EgoSchema: five options about three minutes, {which}",
            tags=("video", tag),
            splits=(split,),
            default_split=split,
            metrics=(_percent("accuracy", "share of right answers among those that are public"),),
            data=("egoschema/questions.json", "egoschema/subset_answers.json", "egoschema/videos"),
            url="https://github.com/egoschema/EgoSchema",
        )
    for name, aliases, target, told in (
        ("videomme", (), "VideoMME", "without subtitles"),
        ("videomme-subtitles", ("videomme_w_subtitle",), "VideoMMESubtitles", "with subtitles"),
    ):
        yield BenchmarkSpec(
            name=name,
            target=f"navila_bench_video.videomme:{target}",
            aliases=aliases,
            summary=f"Video-MME: four options about short to long videos, {told}",
            tags=("video", "local"),
            splits=("test",),
            default_split="test",
            metrics=(
                _percent("accuracy_all", "share of right answers; without a letter wrong"),
                _percent("accuracy_answered", "of those with a letter, as its script prints it"),
                *_parts({name: category.lower() for category, name in VIDEOMME.items()}, "accuracy"),
            ),
            data=("videomme", "videomme/data", *(("videomme/subtitle",) if told == "with subtitles" else ())),
            url="https://github.com/MME-Benchmarks/Video-MME",
        )
    yield BenchmarkSpec(
        name="perception-test",
        target="navila_bench_video.perception_test:PerceptionTest",
        summary="Perception Test: three options about what a video shows",
        tags=("video", "local", "submission"),
        splits=("valid", "test"),
        default_split="valid",
        metrics=(
            _ACCURACY,
            *_parts({name: name for name in (*PERCEPTION_AREAS, *PERCEPTION_REASONING)}, "accuracy"),
        ),
        data=("perception-test/mc_question_valid.json", "perception-test/videos"),
        url="https://github.com/google-deepmind/perception_test",
    )
    yield BenchmarkSpec(
        name="cinepile",
        target="navila_bench_video.cinepile:CinePile",
        summary="CinePile: five options about a scene of a film, with its subtitles",
        tags=("video", "local"),
        splits=("test",),
        default_split="test",
        metrics=(_ACCURACY, *_parts(CINEPILE, "accuracy")),
        data=("cinepile", "cinepile/videos"),
        url="https://huggingface.co/datasets/tomg-group-umd/cinepile",
    )
