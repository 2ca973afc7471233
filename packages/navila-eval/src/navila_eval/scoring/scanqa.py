"""ScanQA's answers scored by the profiles that published tables use (Azuma et al., CVPR 2022, and 3D language models).

The profiles clean, tokenise and compare differently: never compare a figure of one with a figure of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from navila_eval.scoring.captions import bleu_counts, bleu_of, cider, rouge_l
from navila_eval.scoring.meteor import Meteor
from navila_eval.scoring.ptb import caption_lines
from navila_eval.scoring.text import mean

Profile = Literal["scanqa-official", "leo", "llava-3d", "video-3d-llm"]

#: Metrics of a profile in the order tables show them; all fractions.
METRICS = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "em", "em_refined")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a profile does before and after the measures of captions."""

    clean: Callable[[str], str]
    """Applied to the prediction and to every answer, before exact match too."""
    tokenise: Callable[[Sequence[str]], list[str]]
    """From cleaned texts to words divided by spaces, for BLEU, ROUGE-L, CIDEr and METEOR."""
    trim: Callable[[str], str] = str
    """Applied to the prediction alone, and not before exact match."""
    in_order: bool = False
    """Whether the first answer that contains, or is contained in, the prediction ends the search for an equal one."""


def clean_answer(text: str) -> str:
    """LEO's cleaning: lower case, few characters, typing errors of SQA3D mended, digits as words, no articles.

    Source: `clean_answer` of LEO (Huang et al., ICML 2024), taken over by LLaVA-3D and others.
    """
    text = re.sub(r" {2,}", " ", re.sub(r"^ +| +$", "", text.lower()))
    text = re.sub(r"[^a-zA-Z0-9,'\s\-:]+", "", re.sub(r"\. {2,}", ". ", text))
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    return text


_MENDED = {
    "letf": "left", "let": "left", "tehre": "there", "brigth": "right", "brght": "right", "behine": "behind",
    "tv": "TV", "chai": "chair", "wasing": "washing", "waslked": "walked", "oclock": "o'clock",
}  # fmt: skip
_WORDS = {
    "0": "zero", "none": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six",
    "7": "seven", "8": "eight", "9": "nine", "10": "ten", "11": "eleven", "12": "twelve", "13": "thirteen",
    "14": "fourteen", "15": "fifteen", "16": "sixteen", "17": "seventeen", "18": "eighteen", "19": "nineteen",
    "20": "twenty", "23": "twenty-three",
}  # fmt: skip
#: In this order. The last letter of `mat2` or `no1` loses its digit, and an article needs a word after it.
_CLEANING = (
    *((re.compile(rf"\b{wrong}\b"), right) for wrong, right in _MENDED.items()),
    (re.compile(r"\bo' +clock\b"), "o'clock"),
    *((re.compile(rf"\b{number}\b"), word) for number, word in _WORDS.items()),
    (re.compile(r"\b([a-zA-Z]+)([0-9])\b"), r"\1"),
    *((re.compile(rf"\b{article}\b ([a-zA-Z]+)"), r"\1") for article in ("a", "an", "the")),
    (re.compile(r"\bbackwards\b"), "backward"),
)

PROFILES: dict[Profile, Rules] = {
    "scanqa-official": Rules(clean=str, tokenise=caption_lines),
    "leo": Rules(clean=clean_answer, tokenise=list, in_order=True),
    "llava-3d": Rules(clean=clean_answer, tokenise=caption_lines),
    "video-3d-llm": Rules(clean=str, tokenise=list, trim=lambda text: text.rstrip(".")),
}


def exact_match(prediction: str, answers: Sequence[str], profile: Profile = "scanqa-official") -> tuple[int, int]:
    """Exact match and refined exact match (equal, or one within the other, spaces apart) of one answer, 0 or 1 each."""
    rules = PROFILES[profile]
    prediction = rules.clean(prediction)
    answers = [rules.clean(answer) for answer in answers]
    if not rules.in_order and prediction in answers:
        return 1, 1
    joined = "".join(prediction.split())
    for answer in answers:
        if answer == prediction:
            return 1, 1
        other = "".join(answer.split())
        if joined in other or other in joined:
            return 0, 1
    return 0, 0


def exact_match_at(ranked: Sequence[str], answers: Sequence[str], top: int = 10) -> int:
    """Whether one of the `top` best answers is a reference, to the letter (ScanQA's EM@10)."""
    return int(any(answer in answers for answer in ranked[:top]))


@dataclass(frozen=True, kw_only=True)
class ScanQAScores:
    """What one set of predictions scores."""

    metrics: dict[str, float | None]
    """Name of `METRICS` -> fraction; None where METEOR could not be computed."""
    samples: tuple[dict[str, float], ...]
    """Of every sample what has a value of its own: cider, rouge_l, em, em_refined, and meteor where it was computed."""
    bleu_counts: tuple[tuple[int, ...], ...]
    """What BLEU adds up, of every sample (`captions.bleu_counts`)."""


def score(
    predictions: Sequence[str | None],
    answers: Sequence[Sequence[str]],
    profile: Profile = "scanqa-official",
    *,
    meteor: Meteor | None = None,
) -> ScanQAScores:
    """Score all predictions of a split together: CIDEr's weights come from all its references.

    Args:
        predictions: one a question; None counts as an empty answer.
        answers: the references of each question.
        profile: a name of `PROFILES`.
        meteor: the METEOR program, or None to leave METEOR out.

    Raises:
        ValueError: the two differ in number, or a question has no answer.
    """
    rules = PROFILES[profile]
    given = [prediction or "" for prediction in predictions]
    hypotheses = rules.tokenise([rules.trim(rules.clean(prediction)) for prediction in given])
    tokenised = iter(rules.tokenise([rules.clean(answer) for texts in answers for answer in texts]))
    references = [[next(tokenised) for _ in texts] for texts in answers]
    counts = bleu_counts(hypotheses, references)
    bleus = bleu_of(counts)
    ciders = cider(hypotheses, references)
    rouges = [rouge_l(hypothesis, texts) for hypothesis, texts in zip(hypotheses, references, strict=True)]
    matches = [exact_match(prediction, texts, profile) for prediction, texts in zip(given, answers, strict=True)]
    samples = [
        {"cider": one_cider, "rouge_l": rouge, "em": float(em), "em_refined": float(refined)}
        for one_cider, rouge, (em, refined) in zip(ciders, rouges, matches, strict=True)
    ]
    metrics: dict[str, float | None] = {
        "cider": mean(ciders),
        **{f"bleu_{order}": value for order, value in enumerate(bleus, start=1)},
        "meteor": None,
        "rouge_l": mean(rouges),
        "em": mean([em for em, _ in matches]),
        "em_refined": mean([refined for _, refined in matches]),
    }
    if meteor is not None:
        metrics["meteor"], segments = meteor.score(hypotheses, references)
        samples = [{**sample, "meteor": value} for sample, value in zip(samples, segments, strict=True)]
    return ScanQAScores(metrics=metrics, samples=tuple(samples), bleu_counts=tuple(counts))
