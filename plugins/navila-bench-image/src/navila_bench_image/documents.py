"""Reading pages, charts and scenes with text: DocVQA, ChartQA and OCRBench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from navila_eval.questions import Question, Record, Scores, check_option, find
from navila_eval.scoring.documents import anls, contains_answer, ocrbench_scores, relaxed_match
from navila_eval.wording import SHORT_ANSWER

from navila_bench_image.task import ImageTask, Row

#: Whose reading of OCRBench's formulas: `lmms` lowers the reply, `official`, OCRBench's own script, minds the case.
OcrProfile = Literal["lmms", "official"]


class DocVQA(ImageTask):
    """Questions about scanned pages (Mathew et al., WACV 2021), scored by ANLS; test is for its server."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 32}
    metrics = ("anls",)
    download = "download spdocvqa_qas.zip and spdocvqa_images.tar.gz from https://rrc.cvc.uab.es/?ch=17"
    submission_file = "docvqa_submission.json"
    tiny_rows = (
        {"questionId": 1, "question": "What is the date?", "image": "documents/a.png", "answers": ["1/8/93"]},
        {"questionId": 2, "question": "Who wrote it?", "image": "documents/b.png", "answers": ["R. Roe", "Roe"]},
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        name = "test_v1.0" if split == "test" else f"{split}_v1.0_withQT"
        rows = self.read_list(data_root, f"docvqa/spdocvqa_qas/{name}.json", "data")
        images = find(data_root, "docvqa/spdocvqa_images", self.download)
        for where, item in rows:
            yield Row(where=where, values={**item, "blind": split == "test"}, images=images)

    def question(self, row: Row) -> Question:
        image = row.image(Path(row.text("image")).name)
        return Question(
            id=str(row.number("questionId")),
            prompt=[image, row.text("question") + SHORT_ANSWER],
            reference=None if row.values.get("blind") else row.texts("answers"),
        )

    def mark(self, record: Record) -> float:
        return anls(record["answer"], record["reference"])

    def submitted(self, record: Record) -> Iterable[Mapping[str, Any]]:
        yield {"questionId": int(record["id"]), "answer": record["answer"] or ""}


class ChartQA(ImageTask):
    """Questions about charts, by people and by a program (Masry et al., 2022); numbers may be 5 % off."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    metrics = ("accuracy", "accuracy_human", "accuracy_augmented")
    download = "download ChartQA Dataset.zip as https://github.com/vis-nlp/ChartQA describes"
    tiny_rows = (
        {"imgname": "a.png", "query": "How many bars are there?", "label": "4", "source": "human", "line": 1},
        {"imgname": "b.png", "query": "What colour is the line?", "label": "Grey", "source": "augmented", "line": 1},
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        for source in ("human", "augmented"):
            rows = self.read_list(data_root, f"chartqa/{split}/{split}_{source}.json")
            images = find(data_root, f"chartqa/{split}/png", self.download)
            for number, (where, item) in enumerate(rows, 1):
                yield Row(where=where, values={**item, "source": source, "line": number}, images=images)

    def question(self, row: Row) -> Question:
        source = row.text("source")
        return Question(
            id=f"{source}-{row.number('line')}",
            prompt=[row.image(row.text("imgname")), row.text("query") + "\nAnswer the question with a single word."],
            reference=row.text("label"),
            facts={"source": source},
        )

    def mark(self, record: Record) -> float:
        return relaxed_match(record["answer"], record["reference"])

    def groups(self, record: Record) -> Sequence[str]:
        return [f"accuracy_{record['facts']['source']}"]


class OCRBench(ImageTask):
    """1,000 questions of ten kinds about text in images (Liu et al., 2023); points, and their share as accuracy."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 128}
    parts = ("kind",)
    metrics = ("accuracy", "final", "recognition", "scene_text", "document", "key_information", "formula")
    download = "download OCRBench.json and OCRBench_Images from https://github.com/Yuliang-Liu/MultimodalOCR"
    #: What OCRBench calls the kinds of question that are no recognition.
    kinds: ClassVar[Mapping[str, str]] = {
        "scene_text": "Scene Text-centric VQA",
        "document": "Doc-oriented VQA",
        "key_information": "Key Information Extraction",
        "formula": "Handwritten Mathematical Expression Recognition",
    }
    tiny_rows = (
        {
            "dataset_name": "IIIT5K",
            "type": "Regular Text Recognition",
            "id": 1,
            "image_path": "IIIT5K/a.png",
            "question": "what is written in the image?",
            "answers": ["WALL"],
        },
        {
            "dataset_name": "HME100k",
            "type": "Handwritten Mathematical Expression Recognition",
            "id": 2,
            "image_path": "HME100k/b.png",
            "question": "Please write out the expression of the formula in the image using LaTeX format.",
            "answers": "a + b",
        },
    )

    def __init__(self, *, profile: OcrProfile = "lmms") -> None:
        """`profile` says whose scores of formulas; never mix them in a table.

        Raises:
            ConfigError: there is no such profile.
        """
        check_option("ocrbench", "profile", profile, get_args(OcrProfile))
        self.profile: OcrProfile = profile

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        rows = self.read_list(data_root, "ocrbench/OCRBench.json")
        images = find(data_root, "ocrbench/OCRBench_Images", self.download)
        return [Row(where=where, values=item, images=images) for where, item in rows]

    def question(self, row: Row) -> Question:
        answers = row.values["answers"]
        return Question(
            id=str(row.number("id")),
            prompt=[row.image(row.text("image_path")), row.text("question").strip()],
            reference=[answers] if isinstance(answers, str) else row.texts("answers"),
            facts={"dataset": row.text("dataset_name"), "kind": row.text("type")},
        )

    def mark(self, record: Record) -> float:
        return contains_answer(record["answer"], record["reference"], record["facts"]["dataset"], self.profile)

    def score(self, records: Sequence[Record]) -> Scores:
        samples = [self.score_sample(record) for record in records]
        rows = [(record["facts"]["kind"], s["accuracy"]) for record, s in zip(records, samples, strict=True)]
        points = ocrbench_scores(rows)
        kinds = {name: points.get(kind, 0.0) for name, kind in self.kinds.items()}
        return Scores(
            metrics={**{name: points[name] for name in self.metrics[:3]}, **kinds},
            samples=samples,
            tables=self.tables(records, samples),
        )
