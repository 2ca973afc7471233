"""Answers to questions about images are scored as the published scripts do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from navila_eval.scoring.boxes import (
    BoxFormat,
    center_hit,
    first_box,
    iou,
    refcoco_accuracy,
    refcoco_scores,
    thousandth_boxes,
)
from navila_eval.scoring.documents import anls, contains_answer, ocrbench_scores, relaxed_match
from navila_eval.scoring.text import means_by_group
from navila_eval.scoring.vqa import Profile, exact_match, normalise, one_of, soft_accuracy, textvqa_question
from navila_eval.scoring.yes_no import MmeAnswer, mme_scores, parse_mme, parse_pope, pope_scores

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def textvqa(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "K_metrics" / "textvqa.json").read_text())


@pytest.fixture(scope="module")
def refcoco(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "K_metrics" / "refcoco.json").read_text())


def test_normalised_answers_equal_the_golden_ones(textvqa: dict[str, Any]) -> None:
    assert {text: normalise(text) for text, _ in textvqa["answer_processor"]} == dict(textvqa["answer_processor"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000", "1000"),
        ("U.S.A.", "usa"),
        ("two-way", "2 way"),
        ("a/b", "b"),
        ("coca-cola!", "coca cola"),
        ("None", "0"),
        ("www.nokia.com", "wwwnokiacom"),
        ("3.5", "3.5"),
        ("The Dog's", "dog 's"),
        ("", ""),
        ("\u6905\u5b50 \U0001fa91", "\u6905\u5b50 \U0001fa91"),
        ("a." * 40, "a" * 32 + "a." * 7 + "a."),
    ],
)
def test_answers_are_normalised(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_textvqa_accuracy_equals_the_golden_one(textvqa: dict[str, Any]) -> None:
    scores = [soft_accuracy(case["pred_answer"], case["gt_answers"]) for case in textvqa["preds"]]

    assert scores == pytest.approx(textvqa["textvqa_per_item"], abs=TOLERANCE)
    assert sum(scores) / len(scores) == pytest.approx(textvqa["textvqa_accuracy"], abs=TOLERANCE)


def test_every_answer_of_a_question_scores_as_the_golden_one(textvqa: dict[str, Any]) -> None:
    for case, expected in zip(textvqa["preds"], textvqa["unique_answer_scores"], strict=True):
        assert {answer: soft_accuracy(answer, case["gt_answers"]) for answer in expected} == pytest.approx(expected)


def test_textvqa_file_of_the_original_scores_as_its_script_printed(textvqa: dict[str, Any]) -> None:
    script = textvqa["eval_textvqa_script"]
    answers = {(note["image_id"], note["question"].lower()): note["answers"] for note in script["annotations"]}

    scores = [
        soft_accuracy(row["text"], answers[row["question_id"], textvqa_question(row["prompt"])])
        for row in script["results"]
    ]

    assert f"Accuracy: {100 * sum(scores) / len(scores):.2f}%" in script["stdout"]


def test_st_vqa_scores_equal_the_golden_ones(textvqa: dict[str, Any]) -> None:
    accuracies = [one_of(case["pred_answer"], case["gt_answers"]) for case in textvqa["preds"]]
    similarities = [anls(case["pred_answer"], case["gt_answers"], "st-vqa") for case in textvqa["preds"]]

    assert accuracies == textvqa["stvqa_per_item"]
    assert similarities == pytest.approx(textvqa["anls_per_item"], abs=TOLERANCE)
    assert sum(similarities) / len(similarities) == pytest.approx(textvqa["anls"], abs=TOLERANCE)
    for first, second, expected in textvqa["anls_pairs"]:
        assert anls(first, [second], "st-vqa") == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(("agree", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
@pytest.mark.parametrize("profile", ["m4c", "official", "lmms-0.2.4", "lmms"])
def test_soft_accuracy_grows_with_the_annotators_who_agree(agree: int, score: float, profile: Profile) -> None:
    answers = ["red"] * agree + [f"other {index}" for index in range(10 - agree)]
    assert soft_accuracy("Red", answers, profile) == pytest.approx(score, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        # All equal: lmms-eval 0.2.4 and the official script leave them as they are.
        ("Two", ["two"] * 10, {"m4c": 1.0, "official": 0.0, "lmms-0.2.4": 0.0, "lmms": 1.0}),
        # The official script takes no articles and number words out of answers, and keeps 's.
        ("the dog", ["the dog"] * 9 + ["cat"], {"m4c": 1.0, "official": 0.0, "lmms-0.2.4": 1.0, "lmms": 1.0}),
        ("man's", ["man's"] * 9 + ["cat"], {"m4c": 1.0, "official": 1.0, "lmms-0.2.4": 0.0, "lmms": 0.0}),
        (None, [""] * 10, {"m4c": 1.0, "official": 1.0, "lmms-0.2.4": 1.0, "lmms": 1.0}),
    ],
)
def test_profiles_of_vqa_differ_where_their_scripts_do(
    prediction: str | None, answers: list[str], expected: dict[Profile, float]
) -> None:
    assert {profile: soft_accuracy(prediction, answers, profile) for profile in expected} == expected


def test_a_question_without_answers_is_refused() -> None:
    for scorer in (soft_accuracy, anls):
        with pytest.raises(ValueError, match="at least one answer"):
            scorer("red", [])


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [("Yes.", "yes", 1.0), ("yes ", "yes", 0.0), ("left-right", "leftright", 1.0), (None, "yes", 0.0), ("", "", 1.0)],
)
def test_gqa_answers_are_equal_but_for_case_and_punctuation(prediction: str | None, answer: str, score: float) -> None:
    assert exact_match(prediction, answer) == score


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("abd", ["abc"], 1 - 1 / 3),
        ("xyz", ["abc"], 0.0),
        ("ab", ["abcd"], 0.5),
        (" A  b ", ["a b"], 1.0),
        ("", [""], 1.0),
        (None, ["a"], 0.0),
        ("5%", ["50%", "5 %"], 2 / 3),
        ("x" * 3000, ["x"], 0.0),
    ],
)
def test_anls_of_documents(prediction: str | None, answers: list[str], score: float) -> None:
    assert anls(prediction, answers) == pytest.approx(score, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("105", "100", 1.0),
        ("106", "100", 0.0),
        ("95", "100", 1.0),
        ("10%", "0.1", 1.0),
        ("5", "5%", 0.0),
        ("0", "0", 1.0),
        ("0.001", "0", 0.0),
        ("1,000", "1000", 0.0),
        ("Yes", "yes", 1.0),
        ("-3", "-3.1", 1.0),
        ("", "3", 0.0),
        (None, "3", 0.0),
        ("%", "3", 0.0),
        ("nan", "3", 0.0),
    ],
)
def test_chart_answers_are_right_within_five_percent(prediction: str | None, answer: str, score: float) -> None:
    assert relaxed_match(prediction, answer) == score


def test_means_of_splits() -> None:
    assert means_by_group([("human", 1.0), ("human", 0.0), ("augmented", 1.0)]) == {
        "overall": pytest.approx(2 / 3),
        "human": 0.5,
        "augmented": 1.0,
    }
    assert means_by_group([]) == {"overall": 0.0}


@pytest.mark.parametrize(
    ("prediction", "answers", "dataset", "score"),
    [
        ("The sign says STOP\nnow", ["stop now"], "", 1.0),
        ("st op", ["stop"], "", 0.0),
        (r"\frac { a } { b }", [r"\frac {a} {b}"], "HME100k", 1.0),
        (r"A + b", [r"A+b"], "HME100k", 0.0),
        ("anything", [""], "", 1.0),
        (None, "stop", "", 0.0),
    ],
)
def test_ocrbench_looks_for_the_answer_in_the_reply(
    prediction: str | None, answers: list[str] | str, dataset: str, score: float
) -> None:
    assert contains_answer(prediction, answers, dataset) == score


def test_ocrbench_sums_points() -> None:
    rows = [("Handwriting Recognition", 1.0), ("Digit String Recognition", 1.0), ("Doc-oriented VQA", 0.0)]
    scores = ocrbench_scores(rows)
    assert (scores["recognition"], scores["final"], scores["accuracy"]) == (2.0, 2.0, pytest.approx(2 / 3))
    assert ocrbench_scores(rows) == scores


@pytest.mark.parametrize(
    ("text", "lmms", "llava"),
    [
        ("Yes", "yes", "yes"),
        ("Yes.", "yes.", "yes"),
        ("No, there is not.", "no, there is not.", "no"),
        ("There is no dog. Yes", "there is no dog. yes", "no"),
        ("NO", "no", "yes"),
        ("", "", "yes"),
        (None, "", "yes"),
    ],
)
def test_pope_replies_are_parsed_by_either_published_rule(text: str | None, lmms: str, llava: str) -> None:
    assert parse_pope(text, "lmms") == lmms
    assert parse_pope(text, "llava") == llava


def test_pope_figures_count_other_replies_in_the_accuracy_alone() -> None:
    pairs = [("yes", "yes")] * 3 + [("no", "yes"), ("maybe", "yes"), ("yes", "no"), ("no", "no"), ("perhaps", "no")]

    assert pope_scores(pairs) == {
        "accuracy": 0.5,
        "precision": 0.75,
        "recall": 0.75,
        "f1": 0.75,
        "yes_ratio": 0.5,
        "yes_ratio_of_truth": 0.625,
        "n_unparsed": 2.0,
    }
    assert set(pope_scores([]).values()) == {0.0}
    assert pope_scores([("no", "yes")])["f1"] == 0.0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes.", "yes"),
        ("y", "yes"),
        ("N", "no"),
        ("x", "other"),
        (" no, it is not", "no"),
        ("not at all", "no"),
        ("I'd say yes", "other"),
        ("know", "no"),
        ("", "other"),
        (None, "other"),
    ],
)
def test_mme_replies_are_parsed(text: str | None, label: str) -> None:
    assert parse_mme(text) == label


def test_mme_points_are_accuracy_and_accuracy_of_pairs() -> None:
    answers = [
        MmeAnswer(image="a", category="count", correct=True),
        MmeAnswer(image="a", category="count", correct=True),
        MmeAnswer(image="b", category="count", correct=True),
        MmeAnswer(image="b", category="count", correct=False),
        MmeAnswer(image="a", category="code_reasoning", correct=False),
        MmeAnswer(image="a", category="code_reasoning", correct=False),
    ]

    assert mme_scores(answers) == {"count": 125.0, "code_reasoning": 0.0, "perception": 125.0, "cognition": 0.0}
    with pytest.raises(ValueError, match="image 'a' of 'count' has 1 answers"):
        mme_scores(answers[:1])


def test_overlaps_equal_the_golden_ones(refcoco: dict[str, Any]) -> None:
    for case in refcoco["computeIoU"]:
        assert iou(case["bbox1"], case["bbox2"], pixel=1.0) == pytest.approx(case["iou"], abs=TOLERANCE)


def test_boxes_are_read_as_the_original_reads_them(refcoco: dict[str, Any]) -> None:
    for case in refcoco["postprocess_2d_grounding"]:
        form = BoxFormat(name=case["box_format"])
        if "error" in case:
            with pytest.raises(ValueError, match=r"four numbers|could not convert"):
                form.parse(case["output"], case["h"], case["w"])
        else:
            box = form.parse(case["output"], case["h"], case["w"])
            assert list(box) == pytest.approx(case["bbox"], abs=TOLERANCE), case
    for case in refcoco["extract_all_bounding_boxes"]:
        boxes = [list(box) for box in thousandth_boxes(case["text"], case["h"], case["w"])]
        assert boxes == [pytest.approx(box, abs=TOLERANCE) for box in case["boxes"]]


def test_accuracies_of_refcoco_equal_what_the_original_printed(refcoco: dict[str, Any]) -> None:
    script = refcoco["script"]
    for split, files in script["files"].items():
        predictions = [(row["img_id"][0], row["bbox"]) for row in files["predictions"]]
        annotations = [(row["img_id"], row["bbox"]) for row in files["annotations"]]
        accuracy = refcoco_accuracy(predictions, annotations)
        assert f"{split.replace('/', ' ')}: {100 * accuracy:.2f}" in script["stdout"]


def test_without_the_last_pixel_boxes_that_touch_do_not_overlap() -> None:
    first, second = (0.0, 0.0, 10.0, 10.0), (10.0, 0.0, 20.0, 10.0)
    assert iou(first, second) == 0.0
    assert iou(first, second, pixel=1.0) == pytest.approx(11 / (121 + 121 - 11), abs=TOLERANCE)
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


def test_lmms_reads_the_first_box_of_a_reply_and_takes_zeros_without_one() -> None:
    assert first_box("[0.1, 0.2, 0.3 , 0.4]") is None
    assert first_box("Sure: [0.1, 0.2,0.3, 0.4] or [1, 1, 1, 1]") == (0.1, 0.2, 0.3, 0.4)
    assert first_box(None) is None

    scores = refcoco_scores([((0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0)), (None, (0.2, 0.2, 0.4, 0.4))])

    assert scores["IoU"] == 0.25
    assert [scores[f"ACC@{level}"] for level in (0.1, 0.5, 0.7)] == [0.5, 0.5, 0.0]
    assert scores["Center_ACC"] == 0.5
    assert center_hit((0, 0, 0, 0), (0, 0, 1, 1)) == 1.0
