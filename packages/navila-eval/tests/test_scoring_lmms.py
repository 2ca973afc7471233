"""Profiles named after lmms-eval give what lmms-eval 0.2.4 gives, on answers recorded from it (`lmms_vectors.json`)."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from navila_eval.scoring import boxes, choices, documents, judges, mathvista, mmmu, vqa, wups, yes_no

TOLERANCE = 1e-9
VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("lmms_vectors.json").read_text(encoding="utf-8"))


def close(value: float) -> Any:
    return pytest.approx(value, abs=TOLERANCE)


def test_short_answers() -> None:
    assert len(VECTORS["answers"]) == 60
    for prediction, answers, m4c, vqav2, similarity, exact, formula, text in VECTORS["answers"]:
        assert vqa.soft_accuracy(prediction, answers, "m4c") == close(m4c)
        assert vqa.soft_accuracy(prediction, answers, "lmms-0.2.4") == close(vqav2)
        assert documents.anls(prediction, answers) == close(similarity)
        assert vqa.exact_match(prediction, answers[0]) == exact
        assert documents.contains_answer(prediction, answers, "HME100k") == formula
        assert documents.contains_answer(prediction, answers, "another") == text


def test_chart_answers() -> None:
    for prediction, answer, score in VECTORS["relaxed"]:
        assert documents.relaxed_match(prediction, answer) == score, (prediction, answer)


def test_pope() -> None:
    expected = VECTORS["pope"]
    scores = yes_no.pope_scores([(yes_no.parse_pope(reply), truth) for reply, truth in expected["rows"]])
    for name in ("accuracy", "precision", "recall", "f1"):
        assert scores[name] == close(expected[name])


def test_mme() -> None:
    answers = [
        yes_no.MmeAnswer(image=image, category=category, correct=yes_no.parse_mme(reply) == truth)
        for image, truth, reply, category in VECTORS["mme"]["rows"]
    ]
    assert yes_no.mme_scores(answers)["perception"] == close(VECTORS["mme"]["perception"])


def test_boxes() -> None:
    for text, truth, overlap, center in VECTORS["refcoco"]:
        scores = boxes.refcoco_scores([(boxes.first_box(text), tuple(truth))])
        assert (scores["IoU"], scores["Center_ACC"]) == (close(overlap), center), text


def test_choices_and_open_answers() -> None:
    options = VECTORS["choices"]["options"]
    for text, mmmu_choice, egoschema, values, gold, correct, videomme in VECTORS["choices"]["rows"]:
        assert choices.parse_choice(text, "ABCDE", options, "lmms", random.Random(5)) == mmmu_choice, text
        assert choices.parse_choice(text, "ABCDE", options, "lmms-egoschema", random.Random(5)) == egoschema, text
        assert set(mmmu.parse_open_response(text)) == set(values), text
        assert mmmu.open_correct(mmmu.parse_open_response(text), gold) == correct, text
        assert (choices.videomme_choice(text) or "") == videomme, text


def test_letters_and_texts_of_options() -> None:
    for question, text, answer, realworldqa, ai2d, scienceqa in VECTORS["letters"]:
        assert choices.realworldqa_match(text, question, answer) == realworldqa, (question, text)
        assert choices.ai2d_match(text, answer) == ai2d, text
        assert choices.scienceqa_match(text, answer) == scienceqa, text


def test_what_scripts_of_others_read_otherwise_has_a_profile() -> None:
    for text, llava, lmms in (
        *(("B", 1, 1), ("b", 0, 1), ("B.", 0, 0), ("B. a wall", 1, 0), ("C. a wall", 0, 0)),
        *(("The answer is B.", 1, 0), ("The answer is B", 0, 0), ("The answer is B. The answer is C.", 0, 0)),
    ):
        assert choices.scienceqa_match(text, "B", "llava") == llava, text
        assert choices.scienceqa_match(text, "B") == lmms, text
    for reply, lmms, official in (("$x = A$", 0, 1), ("$X=a$", 0, 0), ("x=a", 0, 0)):
        assert documents.contains_answer(reply, ["x = A"], "HME100k") == lmms
        assert documents.contains_answer(reply, ["x = A"], "HME100k", "official") == official
    assert documents.contains_answer("A WALL", "wall", "IIIT5K", "official") == 1


def test_wups() -> None:
    similarity = VECTORS["wups"]["similarity"]
    for first, second, alpha, score in VECTORS["wups"]["rows"]:
        got = min(
            wups.wups(a, b, lambda x, y: similarity[f"{x} {y}"], alpha) for a, b in ((first, second), (second, first))
        )
        assert got == close(score), (first, second, alpha)


def test_prompts_are_the_same_to_the_letter() -> None:
    texts = {
        "answer": judges.answer_prompt("QQ", "AA", "PP"),
        "correctness": judges.aspect_prompt("correctness", "QQ", "AA", "PP"),
        "detail": judges.aspect_prompt("detail", "QQ", "AA", "PP"),
        "context": judges.aspect_prompt("context", "QQ", "AA", "PP"),
        "temporal": judges.aspect_prompt("temporal", "QQ", "AA", "PP"),
        "consistency": judges.consistency_prompt(("Q1", "Q2"), "AA", ("P1", "P2")),
    }
    digests = {name: [digest(prompt.system), digest(prompt.user)] for name, prompt in texts.items()}
    assert digests | {"mathvista": [digest(mathvista.extraction_prompt("QQ", "PP"))]} == VECTORS["prompts"]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
