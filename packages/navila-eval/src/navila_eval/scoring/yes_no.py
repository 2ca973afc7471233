"""Questions answered by yes or no: POPE and MME."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from navila_eval.scoring.text import mean


def parse_pope(text: str | None, profile: Literal["lmms", "llava"] = "lmms") -> str:
    """POPE's reply as `yes`, `no` or, with `lmms`, whatever else it says (Li et al., EMNLP 2023).

    `lmms` takes the whole reply, so that `Yes.` is neither; `llava` takes the first sentence and says no if it has one
    of the words No, not or no, otherwise yes, for an empty reply too.
    """
    reply = text or ""
    if profile == "lmms":
        return reply.lower().strip()
    words = reply.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def pope_scores(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """POPE's figures from pairs (parsed reply, truth), `yes` being positive; all fractions.

    A reply that is neither yes nor no lowers the accuracy only, as in lmms-eval. `yes_ratio` is of the replies;
    `yes_ratio_of_truth` is what lmms-eval reports under that name.
    """
    rows = list(pairs)
    hits = sum(reply == truth for reply, truth in rows)
    true_positive = sum(reply == truth == "yes" for reply, truth in rows)
    false_positive = sum(reply == "yes" and truth == "no" for reply, truth in rows)
    false_negative = sum(reply == "no" and truth == "yes" for reply, truth in rows)
    precision = _ratio(true_positive, true_positive + false_positive)
    recall = _ratio(true_positive, true_positive + false_negative)
    return {
        "accuracy": _ratio(hits, len(rows)),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": _ratio(sum(reply == "yes" for reply, _ in rows), len(rows)),
        "yes_ratio_of_truth": _ratio(sum(truth == "yes" for _, truth in rows), len(rows)),
        "n_unparsed": float(sum(reply not in ("yes", "no") for reply, _ in rows)),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def parse_mme(text: str | None) -> str:
    """MME's reply as `yes`, `no` or `other`: the whole reply, y or n, or within its first four characters."""
    reply = (text or "").lower().strip().replace(".", "")
    if reply in ("yes", "no"):
        return reply
    if len(reply) == 1:
        return {"y": "yes", "n": "no"}.get(reply, "other")
    return "yes" if "yes" in reply[:4] else "no" if "no" in reply[:4] else "other"


@dataclass(frozen=True, kw_only=True)
class MmeAnswer:
    """One of the two questions about an image."""

    image: str
    category: str
    correct: bool


def mme_scores(answers: Sequence[MmeAnswer]) -> dict[str, float]:
    """MME's points: of each category up to 200 (acc + acc_plus), `perception` up to 2,000, `cognition` up to 800.

    acc is the percentage of right answers, acc_plus that of images with both right (Fu et al., 2023).

    Raises:
        ValueError: an image has not two questions.
    """
    images: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        images[answer.category][answer.image].append(answer.correct)
    points: dict[str, float] = {}
    for category, pairs in images.items():
        for image, correct in pairs.items():
            if len(correct) != 2:
                raise ValueError(f"image {image!r} of {category!r} has {len(correct)} answers; MME asks two of each")
        points[category] = mean([100 * mean(correct) + 100 * all(correct) for correct in pairs.values()])
    return {
        **points,
        "perception": sum(points.get(category, 0.0) for category in PERCEPTION),
        "cognition": sum(points.get(category, 0.0) for category in COGNITION),
    }
