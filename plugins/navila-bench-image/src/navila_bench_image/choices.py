"""Questions with options: AI2D, SEED-Bench, ScienceQA and RealWorldQA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from navila.errors import DataError
from navila_eval.questions import Question, Record, check_option, find
from navila_eval.rows import checked
from navila_eval.scoring.choices import (
    ai2d_match,
    by_letter,
    first_character,
    letters,
    realworldqa_match,
    scienceqa_match,
)
from navila_eval.wording import with_options

from navila_bench_image.task import ImageTask, Row, from_hub, parquet_rows

#: Whose reading of ScienceQA's replies: `lmms` the letter alone, `llava` also `A. …` and `The answer is A.`.
ScienceQAProfile = Literal["lmms", "llava"]


class AI2D(ImageTask):
    """Questions about diagrams of science books (Kembhavi et al., ECCV 2016)."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    download = from_hub("lmms-lab/ai2d", "ai2d")
    tiny_rows = (
        {"question": "What is shown?", "options": ["a cell", "a wall"], "answer": "1", "image": "a.png", "line": 1},
        {"question": "Which is grey?", "options": ["all", "none"], "answer": "0", "image": "b.png", "line": 2},
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        return parquet_rows(find(data_root, "ai2d/data", self.download), split, self.download)

    def question(self, row: Row) -> Question:
        options = row.texts("options")
        return Question(
            id=str(row.number("line")),
            prompt=[row.image(row.values["image"]), with_options(row.text("question"), by_letter(options))],
            reference=letters(len(options))[row.number("answer")],
        )

    def mark(self, record: Record) -> float:
        return ai2d_match(record["answer"], record["reference"])


class RealWorldQA(ImageTask):
    """Questions about places as they are seen from a car or a hand (xAI, 2024), with and without options."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    download = from_hub("xai-org/RealworldQA", "realworldqa")
    tiny_rows = (
        {"question": "Which is it?\nA. A wall\nB. A car\nAnswer.", "answer": "A", "image": "a.webp", "line": 1},
        {"question": "How many cars are there?", "answer": "0", "image": "b.webp", "line": 2},
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        return parquet_rows(find(data_root, "realworldqa/data", self.download), split, self.download)

    def question(self, row: Row) -> Question:
        question = row.text("question")
        return Question(
            id=str(row.number("line")),
            prompt=[row.image(row.values["image"]), question.strip()],
            reference=row.text("answer"),
            facts={"question": question},
        )

    def mark(self, record: Record) -> float:
        return realworldqa_match(record["answer"], record["facts"]["question"], record["reference"])


class SeedBench(ImageTask):
    """19,242 questions of twelve kinds about images and videos of eight frames (Li et al., CVPR 2024)."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    metrics = ("accuracy", "accuracy_image", "accuracy_video")
    parts = ("kind",)
    download = "download SEED-Bench v1 from https://huggingface.co/datasets/AILab-CVC/SEED-Bench"
    kinds = (
        *("Scene Understanding", "Instance Identity", "Instance Attributes", "Instance Location", "Instances Counting"),
        *("Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Understanding", "Action Recognition"),
        *("Action Prediction", "Procedure Understanding"),
    )
    #: Folders of the frames of a kind of question.
    frames: ClassVar[Mapping[int, str]] = {
        10: "v1_video/task10/ssv2_8_frame",
        11: "v1_video/task11/kitchen_8_frame",
        12: "v1_video/task12/breakfast_8_frame",
    }
    tiny_rows = tuple(
        {"question_id": str(kind), "question_type_id": kind, "data_type": medium, "data_id": "1", "question": "What?"}
        | {"choice_a": "a wall", "choice_b": "a car", "choice_c": "a bed", "choice_d": "a dog", "answer": "A"}
        for kind, medium in ((1, "image"), (10, "video"))
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        rows = self.read_list(data_root, "seedbench/SEED-Bench.json", "questions")
        for folder in ("SEED-Bench-image", "v1_video"):
            find(data_root, f"seedbench/{folder}", self.download)
        return [Row(where=where, values=item, images=data_root / "seedbench") for where, item in rows]

    def question(self, row: Row) -> Question:
        name, medium, kind = str(row.values["question_id"]), row.text("data_type"), row.number("question_type_id")
        if medium == "image":
            images = [row.image(f"SEED-Bench-image/{row.text('data_id')}")]
        elif medium == "video" and kind in self.frames:
            images = [row.image(f"{self.frames[kind]}/{name}/{number}.png") for number in range(1, 9)]
        else:
            raise ValueError(f"data_type must be image, or video with a question type of 10 to 12, not {medium!r}")
        if row.values["answer"] not in letters(4):
            raise ValueError(f"answer must be one of A, B, C and D, not {row.values['answer']!r}")
        options = by_letter([row.text(f"choice_{letter}") for letter in "abcd"])
        return Question(
            id=name,
            prompt=[*images, with_options(row.text("question"), options)],
            reference=row.values["answer"],
            facts={"medium": medium, "kind": self.kinds[kind - 1] if 1 <= kind <= len(self.kinds) else str(kind)},
        )

    def parse(self, record: Record) -> str | None:
        return (first_character(record["output"]) or "").upper() or None

    def mark(self, record: Record) -> float:
        return float(record["answer"] == record["reference"])

    def groups(self, record: Record) -> Sequence[str]:
        return [f"accuracy_{record['facts']['medium']}"]


class ScienceQA(ImageTask):
    """Science questions of schools (Lu et al., NeurIPS 2022), about half with an image."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    metrics = ("accuracy", "accuracy_image")
    parts = ("subject", "grade")
    download = (
        "download problems.json, pid_splits.json and the images as https://github.com/lupantech/ScienceQA describes"
    )
    tiny_rows = (
        {"pid": "1", "question": "Which is solid?", "choices": ["wall", "air"], "answer": 0, "hint": "", "image": None},
        {
            "pid": "2",
            "question": "What is it?",
            "choices": ["a car", "a wall"],
            "answer": 1,
            "hint": "Look.",
            "image": "a",
        },
    )

    def __init__(self, *, profile: ScienceQAProfile = "lmms") -> None:
        """`profile` says how replies are read; never mix them in a table.

        Raises:
            ConfigError: there is no such profile.
        """
        check_option("scienceqa", "profile", profile, get_args(ScienceQAProfile))
        self.profile: ScienceQAProfile = profile

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        problems, splits = (self.read_json(data_root, f"scienceqa/{name}.json") for name in ("problems", "pid_splits"))
        images = find(data_root, f"scienceqa/images/{split}", self.download)
        if not isinstance(problems, dict) or not isinstance(splits, dict) or not isinstance(splits.get(split), list):
            raise DataError(f"{data_root / 'scienceqa'} holds no problems of the split {split}: {self.download}.")
        for pid in splits[split]:
            where = f"{data_root / 'scienceqa/problems.json'}, problem {pid}"
            where, item = checked(where, problems.get(str(pid)), self.download)
            yield Row(where=where, values={**item, "pid": str(pid)}, images=images)

    def question(self, row: Row) -> Question:
        options, hint, image = row.texts("choices"), row.text("hint"), row.values["image"]
        context = f"Context: {hint}\n" if hint else ""
        return Question(
            id=row.text("pid"),
            prompt=[
                *([row.image(f"{row.text('pid')}/{image}")] if image else []),
                with_options(context + row.text("question"), by_letter(options)),
            ],
            reference=letters(len(options))[row.number("answer")],
            facts={"image": bool(image), **{name: row.values.get(name, "") for name in self.parts}},
        )

    def mark(self, record: Record) -> float:
        return scienceqa_match(record["answer"], record["reference"], self.profile)

    def groups(self, record: Record) -> Sequence[str]:
        return ["accuracy_image"] if record["facts"]["image"] else []
