"""MMMU: open answers, and accuracies by subject and domain (Yue et al., CVPR 2024).

Letters of multiple-choice questions are parsed by `choices.parse_choice`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: A normalised answer: a number to two decimals, or a text in lower case.
Value = float | str

DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def parse_open_response(text: str | None) -> list[Value]:
    """What an open reply may mean: the tail behind words such as `answer` in each line, and the numbers in it."""
    reply = (text or "").strip().strip(".").lower()
    lines = reply.split("\n")
    tails: list[str] = []
    for index, line in enumerate(lines):
        # Only in the last line an equation counts.
        indicators = (*_INDICATORS, "=") if index == len(lines) - 1 else _INDICATORS
        found = [line.split(indicator)[-1].strip() for indicator in indicators if indicator in line]
        shortest = _first_shortest(found)
        if shortest and shortest not in tuple(":,.!?;'"):
            tails.append(shortest)
    tails = tails or [reply]
    numbers = [number for tail in tails for number in extract_numbers(tail)]
    values = [value for text in (*tails, *numbers) for value in normalise(text)]
    return list(dict.fromkeys(values))


def _first_shortest(texts: Sequence[str]) -> str:
    """The shortest text; an empty one gives way to whatever comes after it, as in the published loop."""
    shortest = ""
    for text in texts:
        if not shortest or len(text) < len(shortest):
            shortest = text
    return shortest


def extract_numbers(text: str) -> list[str]:
    """All numbers as they are written: with grouped digits, then in scientific notation, then plain ones."""
    grouped = re.findall(r"-?\b\d{1,3}(?:,\d{3})+\b", text)
    scientific = re.findall(r"-?\d+(?:\.\d+)?[eE][+-]?\d+", text)
    plain = re.findall(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])", text)
    return grouped + scientific + plain


def normalise(text: str) -> list[Value]:
    """A number rounded to two decimals, or the text in lower case; one character with a space before, and after."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_correct(values: Iterable[Value], answer: str | Sequence[str]) -> bool:
    """Whether an answer is within a text the reply may mean, or equals one of its numbers."""
    answers = [value for text in ([answer] if isinstance(answer, str) else answer) for value in normalise(text)]
    texts = [value for value in answers if isinstance(value, str)]
    return any(any(text in value for text in texts) if isinstance(value, str) else value in answers for value in values)


def choice_correct(letter: str | None, answer: str | Sequence[str]) -> bool:
    """Whether the letter is the answer, or one of several."""
    return letter is not None and letter in ([answer] if isinstance(answer, str) else answer)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Right answers of a subject, a domain or all."""

    num: int
    acc: float
    """Fraction, rounded as the profile does."""


def subject_of(item: str) -> str:
    """Subject in an id such as `validation_Art_Theory_12`.

    Raises:
        ValueError: the id is not of that form.
    """
    match = re.fullmatch(r"[^_]*_(.+)_\d+", item)
    if match is None:
        raise ValueError(f"MMMU's ids look like validation_Accounting_1, not {item!r}")
    return match[1]


def accuracies(rows: Iterable[tuple[str, bool]], decimals: int = 3) -> dict[str, Accuracy]:
    """Accuracy of each subject that occurs, each domain (`Overall-Business`) and `Overall`; questions weigh alike.

    Args:
        rows: (id, whether the answer is right).
        decimals: 3 in MMMU's and NaVILA's tables, 5 in lmms-eval's.
    """
    by_subject: dict[str, list[bool]] = {}
    for item, correct in rows:
        by_subject.setdefault(subject_of(item), []).append(correct)

    def accuracy(subjects: Iterable[str]) -> Accuracy:
        answers = [correct for subject in subjects for correct in by_subject.get(subject, ())]
        return Accuracy(num=len(answers), acc=round(sum(answers) / len(answers), decimals) if answers else 0.0)

    table: dict[str, Accuracy] = {}
    for domain, subjects in DOMAINS.items():
        table[f"Overall-{domain}"] = accuracy(subjects)
        table |= {subject: accuracy([subject]) for subject in subjects if subject in by_subject}
    return table | {"Overall": accuracy(by_subject)}
