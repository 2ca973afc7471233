"""MMMU (Yue et al., CVPR 2024): exams of 30 college subjects, most by choice, some with answers of one's own."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, get_args

from navila.errors import ConfigError, DataError
from navila_eval.jsonl import dumps
from navila_eval.parquet import parquet_files
from navila_eval.questions import Question, QuestionBenchmark, Record, Scores, check_option, find
from navila_eval.rows import read_rows, reading
from navila_eval.scoring.choices import by_letter, item_rng, parse_choice, strict_choice
from navila_eval.scoring.mmmu import (
    DOMAINS,
    accuracies,
    choice_correct,
    open_correct,
    parse_open_response,
    subject_of,
)
from navila_eval.statistics import bootstrap_ci
from navila_eval.wording import LETTER_ANSWER, SHORT_ANSWER, option_lines
from PIL import Image

GET = "download the folders of https://huggingface.co/datasets/MMMU/MMMU"
SUBJECTS = [subject for subjects in DOMAINS.values() for subject in subjects]

#: Whose prompt, parser and rounding: NaVILA's script, or lmms-eval's task `mmmu_val`.
Profile = Literal["navila", "lmms"]
#: What a reply without a letter is: wrong, or an option drawn for it as published scorers do.
Unparsed = Literal["wrong", "random"]


class Mmmu(QuestionBenchmark):
    """Accuracies are fractions over questions, rounded as the profile's table."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 128}
    asks_by = ("profile", "subjects")

    def __init__(
        self, *, profile: Profile = "navila", unparsed: Unparsed = "wrong", subjects: str | None = None
    ) -> None:
        """`subjects` is a comma list of those to ask, all by default.

        Raises:
            ConfigError: an option has no such value.
        """
        check_option("mmmu", "profile", profile, get_args(Profile))
        check_option("mmmu", "unparsed", unparsed, get_args(Unparsed))
        self.profile: Profile = profile
        self.unparsed: Unparsed = unparsed
        self.subjects = SUBJECTS if subjects is None else [s.strip() for s in subjects.split(",")]
        unknown = [subject for subject in self.subjects if subject not in SUBJECTS]
        if unknown:
            raise ConfigError(f"MMMU has no subject {unknown[0]!r}: use some of {', '.join(SUBJECTS)}.")

    @classmethod
    def tiny(cls) -> Mmmu:
        return _Tiny()

    def questions(self, split: str, data_root: Path) -> list[Question]:
        folder = find(data_root, "mmmu", GET)
        files = [path for subject in sorted(self.subjects) for path in parquet_files(folder / subject, split)]
        # lmms-eval's copy has all subjects in one folder.
        files = files or parquet_files(folder / "data", split)
        found = [self._question(row, where) for path in files for where, row in read_rows(path, GET)]
        missing = [s for s in self.subjects if s not in {question.facts["subject"] for question in found}]
        if missing:
            more = f" and {len(missing) - 3} more subjects" if len(missing) > 3 else ""
            raise DataError(
                f"{folder} lacks {split}-*.parquet of {', '.join(missing[:3])}{more}: {GET}, or name the subjects "
                "there are with -o subjects=A,B."
            )
        return [question for question in found if question.facts["subject"] in self.subjects]

    def parse(self, record: Record) -> str | None:
        if record["facts"]["question_type"] == "open":
            return record["output"].strip() or None
        rng = item_rng("mmmu", record["id"]) if self.unparsed == "random" else None
        return self._letter(record, rng)

    def score_sample(self, record: Record) -> dict[str, float]:
        if record["reference"] is None:
            return {}
        if record["error"]:
            return {"accuracy": 0.0, "accuracy_strict": 0.0}
        if record["facts"]["question_type"] == "open":
            correct = float(open_correct(parse_open_response(record["output"]), record["reference"]))
            return {"accuracy": correct, "accuracy_strict": correct}
        options = _options(record)
        strict = strict_choice(record["output"], list(options), options)
        return {
            "accuracy": float(choice_correct(record["answer"], record["reference"])),
            "accuracy_strict": float(choice_correct(strict, record["reference"])),
        }

    def score(self, records: Sequence[Record]) -> Scores:
        samples = [self.score_sample(record) for record in records]
        asked = [r for r in records if r["facts"]["question_type"] != "open" and not r["error"]]
        counts = {"without_letter": sum(self._letter(record) is None for record in asked)}
        metrics: dict[str, float | None] = dict.fromkeys(["accuracy", "accuracy_strict", *map(_snake, DOMAINS)])
        scored = [(record["id"], sample) for record, sample in zip(records, samples, strict=True) if sample]
        if not scored:
            return Scores(metrics=metrics, samples=samples, counts=counts)
        decimals = 3 if self.profile == "navila" else 5
        table = accuracies([(item, sample["accuracy"] == 1) for item, sample in scored], decimals)
        table = {name: row for name, row in table.items() if row.num}
        strict = accuracies([(item, sample["accuracy_strict"] == 1) for item, sample in scored], decimals)
        metrics |= {"accuracy": table["Overall"].acc, "accuracy_strict": strict["Overall"].acc}
        for domain, subjects in DOMAINS.items():
            if f"Overall-{domain}" in table:
                metrics[_snake(domain)] = table[f"Overall-{domain}"].acc
                for item, sample in scored:
                    if subject_of(item) in subjects:
                        sample[_snake(domain)] = sample["accuracy"]
        shown = {name: {"questions": row.num, "accuracy": row.acc} for name, row in table.items()}
        return Scores(
            metrics=metrics,
            samples=samples,
            # A rounded figure is not taken for the mean it is.
            intervals={name: bootstrap_ci([s[name] for s in samples if name in s]) for name in metrics},
            counts=counts,
            tables={"Accuracy by subject": shown},
        )

    def _letter(self, record: Record, rng: Random | None = None) -> str | None:
        options = _options(record)
        return parse_choice(record["output"], list(options), options, self.profile, rng)

    def submission(self, records: Sequence[Record]) -> dict[str, str] | None:
        """What MMMU's server takes: a letter or a text to each id; the reply itself where no letter is in it."""
        if any(record["reference"] is not None for record in records):
            return None
        return {"mmmu.json": dumps({r["id"]: r["answer"] or r["output"] for r in records}, indent=2)}

    def _question(self, row: Mapping[str, Any], where: str) -> Question:
        with reading(where, GET):
            options, kind = _literal(row["options"]), row["question_type"]
            if kind not in ("multiple-choice", "open"):
                raise ValueError(f"question_type is {kind!r}")
            if kind == "multiple-choice" and not (isinstance(options, list) and len(options) > 1):
                raise ValueError("options are no list of texts")
            options = [str(option) for option in options] if kind == "multiple-choice" else []
            text = prompt_text(row["question"], options, self.profile)
            names = re.findall(r"<image (\d+)>", text)
            if self.profile == "lmms":
                names = sorted(set(names))
            images = [row[f"image_{name}"] for name in names]
            if None in images:
                raise ValueError(f"image_{names[images.index(None)]} is missing")
            if self.profile == "navila":
                text = re.sub(r"<image \d+>", "", text)
            return Question(
                id=row["id"],
                prompt=[*images, text],
                reference=_truth(row["answer"], several=kind == "open" and self.profile == "navila"),
                facts={"question_type": kind, "options": options, "subject": subject_of(row["id"])},
                settings={"max_new_tokens": 16} if self.profile == "lmms" else {},
            )


def prompt_text(question: str, options: Sequence[str], profile: Profile) -> str:
    """Question, options and what to answer, with marks such as `<image 1>`."""
    if not options:
        return f"{question}\n{SHORT_ANSWER}"
    if profile == "navila":
        listed = "".join(f"({letter}) {text}\n" for letter, text in by_letter(options).items())
        return f"{question}\n\n{listed}\n{LETTER_ANSWER}"
    return "\n".join([question, *option_lines(by_letter(options)), LETTER_ANSWER])


def _truth(answer: str | None, *, several: bool) -> str | list[str] | None:
    """The answer, or each of several that are written as a list, which lmms-eval takes as one text; None if unknown."""
    if answer in ("", "?", None):
        return None
    if several and answer.startswith("["):
        return [str(one) for one in _literal(answer)]
    return answer


def _literal(text: str) -> Any:
    """What a Python literal stands for; raises ValueError where it is none."""
    try:
        return ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(f"{text!r:.40} is no list ({error.msg})") from None


def _options(record: Record) -> dict[str, str]:
    return by_letter(record["facts"]["options"])


def _snake(domain: str) -> str:
    return domain.lower().replace(" ", "_")


class _Tiny(Mmmu):
    """A question by choice and an open one about grey pictures."""

    def questions(self, split: str, data_root: Path) -> list[Question]:
        image = Image.new("RGB", (32, 32), (128, 128, 128))
        rows = [
            {"question_type": "multiple-choice", "options": "['<image 1>', 'a red wall']", "answer": "A"},
            {"question_type": "open", "options": "[]", "answer": "['grey', 'gray']"},
        ]
        shared = {"question": "What is in <image 1>?", "image_1": image}
        return [
            self._question({**shared, **row, "id": f"{split}_Art_{number}"}, f"tiny {number}")
            for number, row in enumerate(rows, 1)
        ]
