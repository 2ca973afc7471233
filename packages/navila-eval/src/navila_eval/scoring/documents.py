"""Answers read from documents, charts and scenes with text: DocVQA, InfoVQA, ST-VQA, ChartQA and OCRBench."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from navila_eval.scoring.text import edit_distance, mean, to_float


def anls(
    prediction: str | None,
    answers: Sequence[str],
    profile: Literal["docvqa", "st-vqa"] = "docvqa",
    threshold: float = 0.5,
) -> float:
    """Average normalised Levenshtein similarity of one question: the best over answers, 0 under the threshold.

    Source: Biten et al., ICCV 2019. `docvqa` collapses spaces and divides by the lengths before that (lmms-eval, after
    Qwen-VL's script); `st-vqa` only trims, and divides by the lengths it compares (M4C).

    Raises:
        ValueError: there is no answer.
    """
    if not answers:
        raise ValueError("a question needs at least one answer to be scored")
    text = prediction or ""
    return max(_similarity(text, answer, profile, threshold) for answer in answers)


def _similarity(prediction: str, answer: str, profile: Literal["docvqa", "st-vqa"], threshold: float) -> float:
    first, second = prediction.strip().lower(), answer.strip().lower()
    if profile == "docvqa":
        length = max(len(answer.upper()), len(prediction.upper()))
        first, second = " ".join(first.split()), " ".join(second.split())
    else:
        length = max(len(first), len(second))
    similarity = 1 - edit_distance(first, second) / length if length else 1.0
    return similarity if similarity >= threshold else 0.0


def relaxed_match(prediction: str | None, answer: str, tolerance: float = 0.05) -> float:
    """ChartQA's relaxed accuracy of one question: numbers within 5 %, anything else equal but for case.

    Source: Masry et al., Findings of ACL 2022. Percentages are numbers; an answer of 0 and grouped digits are text.
    """
    text = prediction or ""
    number, target = _number(text), _number(answer)
    if number is not None and target:
        return float(abs(number - target) / abs(target) <= tolerance)
    return float(text.lower() == answer.lower())


def _number(text: str) -> float | None:
    if not text.endswith("%"):
        return to_float(text)
    number = to_float(text.rstrip("%"))
    return None if number is None else number / 100


def contains_answer(
    prediction: str | None,
    answers: Sequence[str] | str,
    dataset: str = "",
    profile: Literal["lmms", "official"] = "lmms",
) -> float:
    """OCRBench's score of one question: 1 if any answer occurs in the reply (Liu et al., 2023).

    Case does not count, but for the formulas of `HME100k`, whose spaces are dropped: there `lmms` lowers the reply and
    not the answer, `official` neither.
    """
    reply = (prediction or "").strip().replace("\n", " ")
    if dataset != "HME100k" or profile == "lmms":
        reply = reply.lower()
    for answer in [answers] if isinstance(answers, str) else answers:
        text = answer.strip().replace("\n", " ")
        found = text.replace(" ", "") in reply.replace(" ", "") if dataset == "HME100k" else text.lower() in reply
        if found:
            return 1.0
    return 0.0


#: OCRBench's kinds of question that make up its text recognition score.
RECOGNITION = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
)


def ocrbench_scores(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """OCRBench's table of (question type, score): points of each type, `recognition`, `final` and `accuracy`.

    `final` is a sum of points, out of 1,000 over the whole benchmark; `accuracy` is the mean.
    """
    points: dict[str, float] = {}
    scores: list[float] = []
    for kind, score in rows:
        points[kind] = points.get(kind, 0.0) + score
        scores.append(score)
    recognition = sum(points.get(kind, 0.0) for kind in RECOGNITION)
    return {**points, "recognition": recognition, "final": sum(scores), "accuracy": mean(scores)}
