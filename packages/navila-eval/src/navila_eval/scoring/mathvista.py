"""MathVista: what a reply answers, in the form of the answer (Lu et al., ICLR 2024)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from navila_eval.scoring.choices import by_letter
from navila_eval.scoring.text import edit_distance

#: MathVista's demonstration for the model that extracts an answer, word for word.
EXTRACTION_DEMONSTRATION = """\
Please read the following example. Then extract the answer from the model response and type it at the end of the prompt.

Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.
Question: Which number is missing?

Model response: The number missing in the sequence is 14.

Extracted answer: 14

Hint: Please answer the question requiring a floating-point number with one decimal place and provide the final value, \
e.g., 1.2, 1.3, 1.4, at the end.
Question: What is the fraction of females facing the camera?

Model response: The fraction of females facing the camera is 0.6, which means that six out of ten females in the group \
are facing the camera.

Extracted answer: 0.6

Hint: Please answer the question requiring a floating-point number with two decimal places and provide the final \
value, e.g., 1.23, 1.34, 1.45, at the end.
Question: How much money does Luca need to buy a sour apple candy and a butterscotch candy? (Unit: $)

Model response: Luca needs $1.45 to buy a sour apple candy and a butterscotch candy.

Extracted answer: 1.45

Hint: Please answer the question requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], \
[1.2, 1.3, 1.4], at the end.
Question: Between which two years does the line  graph saw its maximum peak?

Model response: The line graph saw its maximum peak between 2007 and 2008.

Extracted answer: [2007, 2008]

Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.
Question: What fraction of the shape is blue?
Choices:
(A) 3/11
(B) 8/11
(C) 6/11
(D) 3/5

Model response: The correct answer is (B) 8/11.

Extracted answer: B"""


def extract(
    response: str | None, question_type: str, answer_type: str, choices: Sequence[str] | None, *, quick: bool = False
) -> str | None:
    """The answer within a reply where rules suffice, "" in an empty reply; None where a model has to extract it.

    Args:
        response: the reply.
        question_type: `multi_choice` or `free_form`.
        answer_type: `text`, `integer`, `float` or `list`.
        choices: texts of the options.
        quick: also read `The answer is "...".`
    """
    if not response:
        return ""
    if question_type == "multi_choice" and response in (choices or ()):
        return response
    if answer_type in ("integer", "float"):
        try:
            return str(int(response) if answer_type == "integer" else float(response))
        except ValueError:
            pass
    match = re.search(r'The answer is "(.*)"\.', response) if quick else None
    return match[1] if match else None


def extraction_prompt(query: str, response: str) -> str:
    """What a model is asked, at temperature 0, to extract an answer that rules do not."""
    return f"{EXTRACTION_DEMONSTRATION}\n\n{query}\n\n{response}\n\nExtracted answer: "


def most_similar(text: str, choices: Sequence[str]) -> str:
    """The choice with the least edit distance from a text, the first of several."""
    return min(choices, key=lambda choice: edit_distance(text, choice))


def normalise(
    extraction: Any,
    question_type: str,
    answer_type: str,
    choices: Sequence[str] | None = None,
    precision: float | None = None,
    profile: Literal["fixed", "published"] = "fixed",
) -> str | None:
    """An extracted answer in the form of the true one; None where it has not that form.

    In the published data the precision is a float, which `round` refuses, so that `published` marks every such answer
    wrong, as tables of VILA do; `fixed` rounds.
    """
    if question_type == "multi_choice":
        text = str(extraction).strip()
        if bracketed := re.findall(r"\(([a-zA-Z])\)", text):
            text = bracketed[0].upper()
        options = by_letter(choices or ())
        return options[text] if text in options else most_similar(text, choices) if choices else None
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))
        if answer_type == "float":
            if isinstance(precision, float):
                if profile == "published":
                    return None
                precision = int(precision)
            return str(round(float(extraction), precision))
    except (TypeError, ValueError, OverflowError):
        return None
    return str(extraction)


def is_correct(prediction: str | None, answer: str, *, trim: bool = False) -> bool:
    """Whether the texts are equal; `trim` removes spaces around both first (lmms-eval)."""
    return str(prediction).strip() == answer.strip() if trim else prediction == answer


#: Facts of a problem whose values get an accuracy each; skills are several to a problem.
GROUPS = ("question_type", "answer_type", "language", "source", "category", "task", "context", "grade", "skills")


def scores(problems: Iterable[tuple[Mapping[str, Any], bool]]) -> dict[str, dict[str, Any]]:
    """MathVista's score file of (problem, whether right): `average`, and each group's values by falling accuracy.

    A problem's facts are looked for in it and in its `metadata`. Accuracies are texts in percent, as in that file.
    """
    rows = [({**problem, **problem.get("metadata", {})}, correct) for problem, correct in problems]
    correct = sum(right for _, right in rows)
    percent = round(100 * correct / len(rows), 2) if rows else 0.0
    table: dict[str, dict[str, Any]] = {"average": {"accuracy": str(percent), "correct": correct, "total": len(rows)}}
    for group in GROUPS:
        counts: dict[str, list[int]] = {}
        for facts, right in rows:
            values = facts[group]
            for value in values if group == "skills" else [values]:
                counts.setdefault(value, []).append(right)
        shares = {value: sum(right) / len(right) for value, right in counts.items()}
        table[group] = {
            value: {
                "accuracy": f"{100 * share:.2f}",
                "correct": sum(counts[value]),
                "total": len(counts[value]),
            }
            for value, share in sorted(shares.items(), key=lambda pair: -pair[1])
        }
    return table
