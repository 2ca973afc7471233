"""What a mixture is made of, counted sample by sample."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from navila.actions import LEGAL_ANSWERS, SHORT_STOP_ANSWER, Status, clean, parse
from navila.constants import IMAGE_TOKEN
from navila.pages import median
from navila.prompts import navigation_prompt

from navila_data.sample import Sample

#: What answers are counted as that are none of the ten of the training data.
OTHER = "something else"
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
#: What stands before and after the instruction in a navigation prompt.
_BEFORE, _, _AFTER = navigation_prompt("\0", 1).rpartition(f"{IMAGE_TOKEN}\n")[2].partition("\0")


@dataclass(kw_only=True)
class Statistics:
    """Counts over samples; those of parts of a mixture add up."""

    samples: Counter[str] = field(default_factory=Counter)
    """By source."""
    turns: Counter[int] = field(default_factory=Counter)
    """Answers a sample."""
    media: Counter[int] = field(default_factory=Counter)
    """Images and video frames a sample, black ones included."""
    black: Counter[str] = field(default_factory=Counter)
    """Black frames in front of short histories, by source."""
    answers: Counter[str] = field(default_factory=Counter)
    """Answers of navigation steps."""
    words: Counter[int] = field(default_factory=Counter)
    """Words of an instruction, or of the first question."""
    vocabulary: Counter[str] = field(default_factory=Counter)
    """Words of first questions and of answers, in lower case; of navigation steps, of instructions alone."""
    frames: Counter[int] = field(default_factory=Counter)
    """Frames of an episode or a video."""
    tokens: Counter[int] = field(default_factory=Counter)
    """Tokens a sample, images expanded, before anything is left out."""
    shortened: Counter[str] = field(default_factory=Counter)
    """Samples that lose history frames or late turns to fit the model, by source."""

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        self.samples[sample.source] += 1
        self.turns[sum(turn.role == "assistant" for turn in sample.turns)] += 1
        self.media[len(sample.media)] += 1
        self.black[sample.source] += sum(medium is None for medium in sample.media)
        question = instruction(sample)
        words = _WORD.findall(question.lower())
        if any(turn.role == "user" for turn in sample.turns):
            self.words[len(words)] += 1
        self.vocabulary.update(words)
        if sample.history:
            self.answers[counted_answer(navigation_answer(sample))] += 1
        else:
            texts = [turn.text for turn in sample.turns if turn.role == "assistant"]
            self.vocabulary.update(_WORD.findall(" ".join(texts).replace(IMAGE_TOKEN, " ").lower()))

    def __iadd__(self, other: Statistics) -> Statistics:
        for each in fields(self):
            getattr(self, each.name).update(getattr(other, each.name))
        return self

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON: distributions as lists of [value, count], the most frequent words only."""
        numbers = {
            name: {"median": median(counts), "counts": sorted(counts.items())}
            for name, counts in (
                ("turns", self.turns),
                ("media", self.media),
                ("instruction_words", self.words),
                ("frames", self.frames),
                ("tokens", self.tokens),
            )
            if counts
        }
        return {
            "samples": dict(self.samples),
            "black_frames": {name: count for name, count in self.black.items() if count},
            "shortened": dict(self.shortened),
            "answers": self.balance() if self.answers else {},
            "vocabulary": {"words": len(self.vocabulary), "most_frequent": self.vocabulary.most_common(100)},
            **numbers,
        }

    def balance(self) -> dict[str, int]:
        """Navigation steps by answer: the ten of the training data first, whether they occur or not."""
        others = {OTHER: self.answers[OTHER]} if self.answers[OTHER] else {}
        return {answer: self.answers[answer] for answer in LEGAL_ANSWERS} | others


def instruction(sample: Sample) -> str:
    """The instruction of a navigation step, else the first question, without marks of images."""
    text = next((turn.text for turn in sample.turns if turn.role == "user"), "")
    if sample.history and _BEFORE in text:
        return text.rpartition(_BEFORE)[2].removesuffix(_AFTER)
    return text.replace(IMAGE_TOKEN, "").strip()


def navigation_answer(sample: Sample) -> str:
    """What a navigation step is to learn."""
    return next(turn.text for turn in reversed(sample.turns) if turn.role == "assistant")


def counted_answer(answer: str) -> str:
    """One of the ten answers, both ways to say stop being one, or `OTHER`."""
    answer = clean(answer)
    if answer == SHORT_STOP_ANSWER:
        return LEGAL_ANSWERS[-1]
    return answer if answer in LEGAL_ANSWERS else OTHER


def answer_problem(answer: str) -> str:
    """Why an answer is no action of the training data; empty when it is one."""
    if counted_answer(answer) != OTHER:
        return ""
    told: dict[Status, str] = {
        "unparsed": "names no action",
        "default-magnitude": "names no amount that can be read",
        "snapped": "names an amount that is no multiple of 25 cm or 15 degrees",
        "out-of-range": "names more than 75 cm or 45 degrees",
        "ok": "is none of the ten answers word for word",
    }
    return f"The answer {answer[:120]!r} {told[parse(answer).status]}."
