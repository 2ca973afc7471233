"""MathVista (Lu et al., ICLR 2024): questions about figures, with an answer to extract from what the model says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from navila.errors import DataError
from navila_eval.jsonl import dumps
from navila_eval.parquet import parquet_files
from navila_eval.questions import Question, QuestionBenchmark, Record, Scores, find
from navila_eval.rows import Row, checked, read_json, read_rows, reading
from navila_eval.scoring.choices import by_letter, strict_choice
from navila_eval.scoring.mathvista import GROUPS, extract, extraction_prompt, is_correct, normalise, scores
from navila_eval.statistics import bootstrap_ci
from PIL import Image

GET = "download the files of https://huggingface.co/datasets/AI4Math/MathVista"

#: What a problem says beside its picture and its answer.
_FIELDS = ("pid", "question", "choices", "unit", "precision", "question_type", "answer_type", "metadata")
_TYPES = {"question_type": ("multi_choice", "free_form"), "answer_type": ("text", "integer", "float", "list")}
#: The words before a question that has no `query`, by the form of its answer.
_HINTS = {
    "multi_choice": "Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, "
    "at the end.",
    "float 1": "Please answer the question requiring a floating-point number with one decimal place and provide the "
    "final value, e.g., 1.2, 1.3, 1.4, at the end.",
    "float 2": "Please answer the question requiring a floating-point number with two decimal places and provide the "
    "final value, e.g., 1.23, 1.34, 1.45, at the end.",
    "list": "Please answer the question requiring a Python list as an answer and provide the final list, e.g., "
    "[1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}


class MathVista(QuestionBenchmark):
    """Figures are percent, rounded to two decimals as in MathVista's tables.

    An answer that rules do not extract is extracted by a judge, or without one by `find_answer`.
    """

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 128}

    @classmethod
    def tiny(cls) -> MathVista:
        return _Tiny()

    def questions(self, split: str, data_root: Path) -> list[Question]:
        folder = find(data_root, "mathvista", GET)
        rows = [row for path in parquet_files(folder / "data", split) for row in read_rows(path, GET)]
        return [_question(row, where, folder) for where, row in rows or _json_rows(folder, split)]

    def parse(self, record: Record) -> str | None:
        kinds = _kinds(record)
        found = extract(record["output"].strip(), *kinds)
        return (find_answer(record["output"], *kinds) if found is None else found) or None

    def judge_prompt(self, record: Record) -> str | None:
        reply = record["output"].strip()
        return extraction_prompt(record["facts"]["query"], reply) if extract(reply, *_kinds(record)) is None else None

    def verdict(self, reply: str) -> str:
        extraction = reply.strip().removeprefix("Extracted answer:").strip()
        if not extraction:
            raise ValueError("no answer is extracted")
        return extraction

    def verdict_by_rules(self, record: Record) -> str | None:
        return record["answer"]

    def score_sample(self, record: Record) -> dict[str, float]:
        if record["reference"] is None:
            return {}
        if record["error"]:
            return {"accuracy": 0.0, "accuracy_published": 0.0}
        extraction, facts = _extraction(record), record["facts"]
        form = (*_kinds(record), facts["precision"])
        # To the published script an empty text is near to some choice.
        published = normalise(extraction or "", *form, profile="published")
        fixed = None if extraction is None else normalise(extraction, *form)
        return {
            "accuracy": 100.0 * is_correct(fixed, record["reference"]),
            "accuracy_published": 100.0 * is_correct(published, record["reference"]),
        }

    def score(self, records: Sequence[Record]) -> Scores:
        samples = [self.score_sample(record) for record in records]
        pairs = zip(records, samples, strict=True)
        scored = [(record["facts"], sample["accuracy"] == 100) for record, sample in pairs if sample]
        counts = {"beyond_rules": sum(not r["error"] and self.judge_prompt(r) is not None for r in records)}
        if not scored:
            return Scores(metrics={"accuracy": None, "accuracy_published": None}, samples=samples, counts=counts)
        columns = {name: [s[name] for s in samples if s] for name in ("accuracy", "accuracy_published")}
        table = scores(scored)
        return Scores(
            metrics={name: round(sum(column) / len(column), 2) for name, column in columns.items()},
            samples=samples,
            # A rounded figure is not taken for the mean it is.
            intervals={name: bootstrap_ci(column) for name, column in columns.items()},
            counts=counts,
            tables={f"Accuracy by {group.replace('_', ' ')}": table[group] for group in GROUPS},
        )

    def submission(self, records: Sequence[Record]) -> dict[str, str] | None:
        """The problems with what was said and extracted, as MathVista's scripts write them."""
        if any(record["reference"] is not None for record in records):
            return None
        said = {r["id"]: {**r["facts"], "response": r["output"], "extraction": _extraction(r) or ""} for r in records}
        return {"mathvista.json": dumps(said, indent=2)}


def find_answer(reply: str, question_type: str, answer_type: str, choices: Sequence[str] | None) -> str | None:
    """The answer in a reply by rules of navila's own: the option it names, its last number or list, or all of it."""
    reply = reply.strip()
    if question_type == "multi_choice":
        options = by_letter(choices or ())
        named = [letter for letter, text in options.items() if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", reply)]
        return strict_choice(reply, list(options), options) or (named[0] if len(named) == 1 else None)
    if answer_type in ("integer", "float"):
        numbers = re.findall(r"(?<![\w.])-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)", reply.replace("\N{MINUS SIGN}", "-"))
        return numbers[-1].replace(",", "") if numbers else None
    lists = re.findall(r"\[[^\[\]]*\]", reply) if answer_type == "list" else [reply]
    return lists[-1] if lists else None


def _kinds(record: Record) -> tuple[str, str, list[str] | None]:
    facts = record["facts"]
    return facts["question_type"], facts["answer_type"], facts["choices"]


def _extraction(record: Record) -> str | None:
    return record["verdict"] if "verdict" in record else record["answer"]


def _json_rows(folder: Path, split: str) -> list[Row]:
    """Problems of the JSON file of MathVista's repository: by their `pid`, pictures in a folder beside."""
    path = find(
        folder.parent, f"mathvista/data/{split}.json", f"{GET} (data/{split}-*.parquet), or that file of GitHub"
    )
    rows = read_json(path, GET)
    if not isinstance(rows, dict):
        raise DataError(f"{path} holds no problems by their pid: {GET}.")
    named = [(pid, *checked(f"{path}, problem {pid}", row, GET)) for pid, row in rows.items()]
    return [(where, {"pid": pid, **row}) for pid, where, row in named]


def _question(row: Mapping[str, Any], where: str, folder: Path) -> Question:
    with reading(where, GET):
        facts = {name: row[name] for name in _FIELDS}
        for name, known in _TYPES.items():
            if facts[name] not in known:
                raise ValueError(f"{name} is {facts[name]!r}, not one of {', '.join(known)}")
        choices = facts["choices"]
        if facts["question_type"] == "multi_choice" and not (isinstance(choices, list) and choices):
            raise ValueError("it has no list of choices")
        missing = [name for name in GROUPS if name not in {**facts, **facts["metadata"]}]
        if missing:
            raise ValueError(f"its metadata lack {missing[0]}")
        # Parquet has the picture itself beside the name it had.
        image = row.get("decoded_image") or folder / row["image"]
        query = row.get("query") or _query(facts)
        return Question(
            id=str(row["pid"]),
            prompt=[image, query],
            reference=row.get("answer") or None,
            facts={**facts, "query": query, "image": row["image"]},
        )


def _query(facts: Mapping[str, Any]) -> str:
    """The prompt of a problem, in MathVista's words."""
    kind = facts["answer_type"]
    if facts["question_type"] == "multi_choice":
        kind = "multi_choice"
    elif kind == "float":
        kind = f"float {int(facts['precision'] or 1)}"
    unit = f" (Unit: {facts['unit']})" if facts["unit"] else ""
    lines = [f"Hint: {_HINTS[kind]}", f"Question: {facts['question']}{unit}"] if kind in _HINTS else [facts["question"]]
    if facts["choices"]:
        lines += ["Choices:", *(f"({letter}) {text}" for letter, text in by_letter(facts["choices"]).items())]
    return "\n".join(lines)


class _Tiny(MathVista):
    """A problem of each form about grey pictures."""

    def questions(self, split: str, data_root: Path) -> list[Question]:
        forms = [("integer", None, "4"), ("float", 1.0, "0.5"), ("list", None, "[1, 2]"), ("text", None, "grey")]
        metadata = {name: "tiny" for name in GROUPS[2:]} | {"skills": ["arithmetic reasoning"]}
        questions = []
        for number, (answer_type, precision, answer) in enumerate(forms, 1):
            choice = answer_type == "text"
            facts = {
                "pid": str(number),
                "question": "What is this?",
                "choices": ["grey", "red"] if choice else None,
                "unit": None,
                "precision": precision,
                "question_type": "multi_choice" if choice else "free_form",
                "answer_type": answer_type,
                "metadata": metadata,
            }
            query = _query(facts)
            image = Image.new("RGB", (32, 32), (128, 128, 128))
            facts |= {"query": query, "image": f"{number}.png"}
            questions.append(Question(id=str(number), prompt=[image, query], reference=answer, facts=facts))
        return questions
