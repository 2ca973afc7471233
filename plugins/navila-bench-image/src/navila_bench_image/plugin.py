"""What navila-bench-image offers: tasks of questions about images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from navila import hookimpl
from navila.specs import BenchmarkSpec, MetricSpec


def _metrics(scale: str = "0-1", **summaries: str) -> tuple[MetricSpec, ...]:
    return tuple(MetricSpec(name=name, summary=summary, scale=scale) for name, summary in summaries.items())


_ACCURACY = _metrics(accuracy="share of right answers")
_SOFT = _metrics(accuracy="answers that annotators gave too: of ten 1, 2, 3 or more count .3, .6, .9 or 1")
_POPE = _metrics(
    accuracy="share of right answers",
    precision="of the answers yes, those that are right",
    recall="of the objects that are there, those that are seen",
    f1="harmonic mean of precision and recall",
    yes_ratio="share of the answers yes",
    f1_random="F1 of objects drawn at random",
    f1_popular="F1 of frequent objects",
    f1_adversarial="F1 of objects that often occur beside those in the image",
    f1_mean="mean of the three",
)
_MME = (
    *_metrics("0-2000", perception="points of ten categories"),
    *_metrics("0-800", cognition="points of four categories"),
    *_metrics(
        "0-200",
        **dict.fromkeys(
            (
                *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork"),
                *("OCR", "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
            ),
            "points: right answers and images with both right, in percent",
        ),
    ),
    *_ACCURACY,
)
_OCRBENCH = (
    *_ACCURACY,
    *_metrics("0-1000", final="all points"),
    *_metrics("0-300", recognition="points of text recognition, six kinds"),
    *_metrics("0-200", scene_text="points of questions about text in scenes"),
    *_metrics("0-200", document="points of questions about documents"),
    *_metrics("0-200", key_information="points of extracted key information"),
    *_metrics("0-100", formula="points of handwritten formulas"),
)
_BOXES = _metrics(
    accuracy="share of boxes with an intersection over union of 0.5 or more",
    iou="mean intersection over union",
    center_accuracy="share of boxes whose middle is in the true one",
)


def _task(name: str, target: str, summary: str, *, tags: tuple[str, ...] = (), **facts: Any) -> BenchmarkSpec:
    return BenchmarkSpec(
        name=name, target=f"navila_bench_image.{target}", summary=summary, tags=("image", "local", *tags), **facts
    )


@hookimpl
def navila_benchmarks() -> Iterable[BenchmarkSpec]:
    """Questions about photographs, documents, charts and diagrams, and phrases to be found in images."""
    yield _task(
        "vqav2",
        "short_answers:VQAv2",
        "Questions about COCO images",
        splits=("val", "test-dev", "test"),
        metrics=(
            *_SOFT,
            *_metrics(
                accuracy_yes_no="of answers yes and no", accuracy_number="of numbers", accuracy_other="of others"
            ),
        ),
        data=(
            "coco/val2014",
            "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
            "vqav2/v2_mscoco_val2014_annotations.json",
        ),
        url="https://visualqa.org",
    )
    yield _task(
        "gqa",
        "short_answers:GQA",
        "Questions made from scene graphs",
        tags=("regression",),
        splits=("testdev", "val"),
        default_split="testdev",
        metrics=_ACCURACY,
        data=("gqa/testdev_balanced_questions.json", "gqa/images"),
        url="https://cs.stanford.edu/people/dorarad/gqa",
    )
    yield _task(
        "textvqa",
        "short_answers:TextVQA",
        "Questions about text in photographs",
        splits=("val", "test"),
        metrics=_SOFT,
        data=("textvqa/TextVQA_0.5.1_val.json", "textvqa/train_images"),
        url="https://textvqa.org",
    )
    yield _task(
        "textvqa-ocr",
        "short_answers:TextVQAWithTokens",
        "TextVQA with OCR tokens in the prompts, as LLaVA and NaVILA ask it",
        aliases=("textvqa@ocr",),
        metrics=_SOFT,
        data=(
            "textvqa/TextVQA_0.5.1_val.json",
            "textvqa/llava_textvqa_val_v051_ocr.jsonl",
            "textvqa/train_images",
        ),
        url="https://textvqa.org",
    )
    yield _task(
        "vizwiz",
        "short_answers:VizWiz",
        "Questions of blind people about their photographs",
        splits=("val", "test"),
        metrics=_SOFT,
        data=("vizwiz/val",),
        url="https://vizwiz.org",
    )
    yield _task(
        "docvqa",
        "documents:DocVQA",
        "Questions about scanned pages",
        splits=("val", "test"),
        metrics=_metrics(anls="likeness to an answer by edits, 0 under one half"),
        data=("docvqa/spdocvqa_qas/val_v1.0_withQT.json", "docvqa/spdocvqa_images"),
        url="https://www.docvqa.org",
    )
    yield _task(
        "chartqa",
        "documents:ChartQA",
        "Questions about charts",
        splits=("test", "val"),
        default_split="test",
        metrics=(
            *_metrics(accuracy="share of right answers, numbers within 5 %"),
            *_metrics(accuracy_human="of people's questions", accuracy_augmented="of a program's"),
        ),
        data=("chartqa/test/test_human.json", "chartqa/test/test_augmented.json", "chartqa/test/png"),
        url="https://github.com/vis-nlp/ChartQA",
    )
    yield _task(
        "ocrbench",
        "documents:OCRBench",
        "Text in images, of ten kinds",
        splits=("test",),
        default_split="test",
        metrics=_OCRBENCH,
        data=("ocrbench/OCRBench.json", "ocrbench/OCRBench_Images"),
        url="https://github.com/Yuliang-Liu/MultimodalOCR",
    )
    yield _task(
        "pope",
        "yes_no:POPE",
        "Is an object in the image?",
        tags=("regression",),
        splits=("test",),
        default_split="test",
        metrics=_POPE,
        data=("coco/val2014", *(f"pope/coco_pope_{name}.json" for name in ("random", "popular", "adversarial"))),
        url="https://github.com/AoiDragon/POPE",
    )
    yield _task(
        "mme",
        "yes_no:MME",
        "Two yes-or-no questions about each image, in 14 categories",
        tags=("regression",),
        splits=("test",),
        default_split="test",
        metrics=_MME,
        data=("mme/existence", "mme/code_reasoning"),
        url="https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models",
    )
    for name, target, splits in (
        ("refcoco", "RefCOCO", ("val", "testA", "testB", "test")),
        ("refcoco+", "RefCOCOPlus", ("val", "testA", "testB")),
        ("refcocog", "RefCOCOg", ("val", "test")),
    ):
        yield _task(
            name,
            f"boxes:{target}",
            "A box for a phrase in a COCO image",
            tags=("grounding",),
            splits=splits,
            metrics=_BOXES,
            data=(name,),
            url="https://github.com/lichengunc/refer",
        )
    yield _task(
        "ai2d",
        "choices:AI2D",
        "Questions about diagrams of science books",
        splits=("test",),
        default_split="test",
        metrics=_ACCURACY,
        data=("ai2d/data",),
        url="https://huggingface.co/datasets/lmms-lab/ai2d",
    )
    yield _task(
        "realworldqa",
        "choices:RealWorldQA",
        "Questions about places seen from a car or a hand",
        splits=("test",),
        default_split="test",
        metrics=_ACCURACY,
        data=("realworldqa/data",),
        url="https://huggingface.co/datasets/xai-org/RealworldQA",
    )
    yield _task(
        "seedbench",
        "choices:SeedBench",
        "Questions of twelve kinds about images and videos",
        tags=("video", "regression"),
        splits=("test",),
        default_split="test",
        metrics=(*_ACCURACY, *_metrics(accuracy_image="of images", accuracy_video="of videos")),
        data=("seedbench/SEED-Bench.json", "seedbench/SEED-Bench-image", "seedbench/v1_video"),
        url="https://huggingface.co/datasets/AILab-CVC/SEED-Bench",
    )
    yield _task(
        "scienceqa",
        "choices:ScienceQA",
        "Science questions of schools, with and without an image",
        tags=("regression",),
        splits=("test", "val"),
        default_split="test",
        metrics=(*_ACCURACY, *_metrics(accuracy_image="of questions with an image")),
        data=("scienceqa/problems.json", "scienceqa/pid_splits.json", "scienceqa/images/test"),
        url="https://scienceqa.github.io",
    )
