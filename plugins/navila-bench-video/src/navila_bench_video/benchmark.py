"""What video benchmarks share: published wordings and rules by name, and figures that are times 100, as in tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from navila.errors import ConfigError
from navila_eval.questions import Question, QuestionBenchmark, Record, Scores
from navila_eval.rows import texts
from navila_eval.scoring.choices import ChoiceProfile, by_letter, item_rng, letters, parse_choice
from navila_eval.scoring.text import mean
from PIL import Image


class VideoBenchmark(QuestionBenchmark):
    """Questions about videos; a concrete one reads its files and says how an answer scores."""

    prompts: ClassVar[tuple[str, ...]] = ("navila", "lmms")
    """Wordings of the question, the default first."""
    profiles: ClassVar[tuple[str, ...]] = ("navila", "lmms")
    """Rules by which answers score, the default first; figures of two are never to be mixed."""
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    """All figures, also those that a part of the data has no samples for."""
    short_answers: ClassVar[int | None] = 16
    """Tokens of an answer in lmms-eval's wording; None for as many as in the other."""
    tiny_sample: ClassVar[Mapping[str, Any]] = {}
    """Reference and facts of the samples of `tiny`."""
    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 1024}
    asks_by = ("prompt", "temperature")

    def __init__(self, *, prompt: str | None = None, profile: str | None = None, temperature: float = 0.0) -> None:
        """Choose among what is published.

        Args:
            prompt: wording of the question.
            profile: rules of the score.
            temperature: of sampling; 0 answers greedily. NaVILA's scripts for open questions sample at 0.2.

        Raises:
            ConfigError: there is no such wording, profile or temperature.
        """
        self.prompt = _one_of("prompt", prompt, self.prompts)
        self.profile = _one_of("profile", profile, self.profiles)
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature < 100:
            raise ConfigError(f"temperature is {temperature!r}: give a number from 0, which is greedy.")
        self.generation: dict[str, Any] = {"do_sample": True, "temperature": float(temperature)} if temperature else {}
        if self.prompt == "lmms" and self.short_answers is not None:
            self.generation["max_new_tokens"] = self.short_answers
        self._tiny = False

    @classmethod
    def tiny(cls) -> Self:
        benchmark = cls()
        benchmark._tiny = True
        return benchmark

    def questions(self, split: str, data_root: Path) -> list[Question]:
        if self._tiny:
            wall = Image.new("RGB", (32, 32), (128, 128, 128))
            return [Question(id=f"tiny-{n}", prompt=[wall, "What is it?"], **self.tiny_sample) for n in range(4)]
        return [replace(question, settings=self.generation) for question in self.load(split, data_root)]

    @abstractmethod
    def load(self, split: str, data_root: Path) -> list[Question]:
        """All questions of a split; raises as `questions`."""

    def score(self, records: Sequence[Record]) -> Scores:
        scores = super().score(records)
        return replace(scores, metrics={**dict.fromkeys(self.metrics), **scores.metrics})


class ChoiceBenchmark(VideoBenchmark):
    """Questions with options: `reference` is a letter, or None where the truth is not published.

    `facts` have the `options` (letter -> text) and the `groups`, metrics besides `accuracy` that a sample counts for.
    """

    profiles: ClassVar[tuple[str, ...]] = ("navila", "navila-random", "lmms")
    parser: ClassVar[Mapping[str, ChoiceProfile]] = {"navila": "navila", "navila-random": "navila", "lmms": "lmms"}
    """Profile -> whose rules find the letter (`navila_eval.scoring.choices.parse_choice`)."""
    option_texts: ClassVar[bool] = True
    """Whether the text of an option counts as naming it."""
    tables: ClassVar[Mapping[str, str]] = {}
    """Title -> fact, a text or several, by which the report breaks the first metric down further."""
    tiny_sample: ClassVar[Mapping[str, Any]] = {
        "reference": "A",
        "facts": {"options": {"A": "a wall", "B": "a door"}, "groups": []},
    }

    def parse(self, record: Record) -> str | None:
        options = record["facts"]["options"]
        # Profiles that draw an option where the answer names none do so as the published scripts, but by sample.
        rng = item_rng(type(self).__name__, record["id"]) if self.profile.endswith("random") else None
        texts = options if self.option_texts else None
        return parse_choice(record["output"], letters(len(options)), texts, self.parser[self.profile], rng)

    def score_sample(self, record: Record) -> dict[str, float]:
        if record["reference"] is None:
            return {}
        right = 100.0 * (record["answer"] == record["reference"])
        return {name: right for name in ("accuracy", *record["facts"]["groups"])}

    def score(self, records: Sequence[Record]) -> Scores:
        scores = super().score(records)
        found = {title: self._table(fact, records, scores.samples) for title, fact in self.tables.items()}
        return replace(scores, tables={title: rows for title, rows in found.items() if rows})

    def _table(
        self, fact: str, records: Sequence[Record], samples: Sequence[Mapping[str, float]]
    ) -> dict[str, dict[str, Any]]:
        values: dict[str, list[float]] = {}
        for record, sample in zip(records, samples, strict=True):
            named = record["facts"].get(fact) or []
            for name in named if isinstance(named, list) else [str(named)]:
                values.setdefault(name, []).extend([sample[self.metrics[0]]] if self.metrics[0] in sample else [])
        return {
            name: {"accuracy": f"{mean(found):.1f}", "samples": len(found)}
            for name, found in sorted(values.items())
            if found
        }


def lettered(options: Any) -> dict[str, str]:
    """Options by letter.

    Raises:
        TypeError: they are no list of texts, or there are none.
    """
    return by_letter(texts(options, "options"))


def _one_of(option: str, given: str | None, known: Sequence[str]) -> str:
    if given is not None and given not in known:
        raise ConfigError(f"The task has no {option} {given!r}: use {', '.join(known)}.")
    return given or known[0]
