"""Short answers against those of several people: VQAv2, TextVQA, VizWiz, ST-VQA and GQA."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal

from navila_eval.scoring.contractions import CONTRACTIONS
from navila_eval.scoring.text import mean

#: How prediction and answers are normalised before they are compared:
#: `m4c` both by `normalise` (TextVQA; VizWiz in lmms-eval);
#: `official` VQA's own script: the prediction, and punctuation of the answers where they differ;
#: `lmms-0.2.4` the prediction, and the answers where they differ (its VQAv2); `lmms` both, always (its later VQAv2).
Profile = Literal["m4c", "official", "lmms-0.2.4", "lmms"]

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})
_GROUPED = re.compile(r"(?<=\d),+(?=\d)")
_GROUPED_OFFICIAL = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
#: The published code hands a flag of this value to `sub` as its count, so that later periods stay.
_PERIODS_REMOVED = 32


def normalise(text: str) -> str:
    """An answer as M4C and EvalAI compare it: `Two dogs.` -> `2 dogs` (Singh et al., 2019; Hu et al., 2020)."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _plain_words(_without_punctuation(_one_line(text)))


def soft_accuracy(prediction: str | None, answers: Sequence[str], profile: Profile = "m4c") -> float:
    """VQA's accuracy: mean over annotators of min(1, others who agree / 3) (Antol et al., ICCV 2015).

    Of ten annotators 1, 2, 3 or at least 4 who agree give 0.3, 0.6, 0.9 or 1.

    Raises:
        ValueError: there is no answer.
    """
    if not answers:
        raise ValueError("a question needs at least one answer to be scored")
    predicted, given = _prepared(prediction or "", answers, profile)
    agree = [answer == predicted for answer in given]
    return mean([min(1.0, (sum(agree) - agreed) / 3) for agreed in agree])


def _prepared(prediction: str, answers: Sequence[str], profile: Profile) -> tuple[str, list[str]]:
    if profile == "m4c":
        return normalise(prediction), [normalise(answer) for answer in answers]
    if profile == "official":
        predicted = _plain_words(_without_punctuation(_one_line(prediction), _GROUPED_OFFICIAL))
        differ = len(set(answers)) > 1
        return predicted, [_without_punctuation(answer, _GROUPED_OFFICIAL) if differ else answer for answer in answers]
    given = [_one_line(answer) for answer in answers]
    predicted = normalise(prediction)
    if profile == "lmms" or len(set(given)) > 1:
        # A second time: what the first one made can change again, as `--5` by way of `5`.
        predicted = _plain_words(_without_punctuation(predicted))
        given = [_plain_words(_without_punctuation(answer)) for answer in given]
    return predicted, given


def one_of(prediction: str | None, answers: Sequence[str]) -> float:
    """1 if the normalised prediction is one of the normalised answers, else 0 (ST-VQA accuracy)."""
    predicted = normalise(prediction or "")
    return float(any(predicted == normalise(answer) for answer in answers))


def exact_match(prediction: str | None, answer: str, *, case: bool = False, punctuation: bool = False) -> float:
    """1 if equal, ASCII punctuation and case apart unless asked for, spaces not (lmms-eval's exact_match: GQA)."""

    def key(text: str) -> str:
        text = text if case else text.lower()
        return text if punctuation else text.translate(_NO_PUNCTUATION)

    return float(key(prediction or "") == key(answer))


def textvqa_question(prompt: str) -> str:
    """The question within a prompt of LLaVA's TextVQA file, in lower case, by which annotations are found.

    Raises:
        ValueError: the prompt has none of the three published forms.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        if match := re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL):
            return match[1].lower()
    elif "Reference OCR token: " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith("Reference OCR token:") else 0].lower()
    elif len(lines) == 2:
        return lines[0].lower()
    raise ValueError(f"no question in the prompt {prompt!r}")


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str, grouped: re.Pattern[str] = _GROUPED) -> str:
    """A symbol beside a space, or any in a text with a grouped number, goes; another becomes a space."""
    has_grouped_number = grouped.search(text) is not None
    result = text
    for symbol in _PUNCTUATION:
        goes = has_grouped_number or f"{symbol} " in text or f" {symbol}" in text
        result = result.replace(symbol, "" if goes else " ")
    return _PERIOD.sub("", result, count=_PERIODS_REMOVED)


def _plain_words(text: str) -> str:
    """Lower case, number words to ten as digits, no articles, apostrophes put back."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
