"""Short answers to questions about photographs: VQAv2, TextVQA, VizWiz and GQA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

from navila.errors import DataError
from navila_eval.questions import Question, Record, check_option, find
from navila_eval.rows import checked, read_lines, texts
from navila_eval.scoring.vqa import Profile, exact_match, normalise, soft_accuracy, textvqa_question
from navila_eval.wording import SHORT_ANSWER

from navila_bench_image.task import ImageTask, Row


class VQAv2(ImageTask):
    """Questions about COCO images with ten answers each (Goyal et al., CVPR 2017); test splits are for its server."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    metrics = ("accuracy", "accuracy_yes_no", "accuracy_number", "accuracy_other")
    download = "download VQA v2's questions and annotations from https://visualqa.org/download.html"
    submission_file = "vqav2_submission.json"
    tiny_rows = tuple(
        {"question_id": number, "image_id": 1, "question": "?", "answer_type": kind, "answers": [{"answer": said}] * 10}
        for number, (kind, said) in enumerate({"yes/no": "yes", "number": "1", "other": "grey"}.items(), 1000)
    )

    def __init__(self, *, profile: Profile = "official") -> None:
        """`profile` says how answers are normalised (`navila_eval.scoring.vqa.Profile`).

        Raises:
            ConfigError: there is no such profile.
        """
        check_option("vqav2", "profile", profile, get_args(Profile))
        self.profile: Profile = profile

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        name = {"val": "val2014", "test-dev": "test-dev2015", "test": "test2015"}[split]
        coco = name.replace("-dev", "")
        images = find(data_root, f"coco/{coco}", f"download {coco}.zip from https://cocodataset.org/#download")
        asked = self.read_list(data_root, f"vqav2/v2_OpenEnded_mscoco_{name}_questions.json", "questions")
        truth: dict[str, Any] = {}
        unasked: list[str] = []
        if split == "val":
            annotations = self.read_list(data_root, f"vqav2/v2_mscoco_{name}_annotations.json", "annotations")
            truth = {str(item.get("question_id")): item for _, item in annotations}
        if split == "test-dev":
            everything = self.read_list(data_root, "vqav2/v2_OpenEnded_mscoco_test2015_questions.json", "questions")
            known = {str(item.get("question_id")) for _, item in asked}
            unasked = [key for _, item in everything if (key := str(item.get("question_id"))) not in known]
        for number, (where, item) in enumerate(asked):
            values = {
                **truth.get(str(item.get("question_id")), {}),
                **item,
                "coco": coco,
                "blind": split != "val",
                "unasked": unasked[number :: len(asked)],
            }
            yield Row(where=where, values=values, images=images)

    def question(self, row: Row) -> Question:
        image = row.image(f"COCO_{row.values.get('coco')}_{row.number('image_id'):012}.jpg")
        # The server of test-dev wants an answer to each question of test2015: each sample carries a share of the rest.
        unasked = [int(key) for key in row.values.get("unasked", ())]
        return Question(
            id=str(row.number("question_id")),
            prompt=[image, row.text("question") + SHORT_ANSWER],
            reference=None if row.values.get("blind") else answers_of(row),
            facts={"unasked": unasked} if unasked else {"answer_type": row.values.get("answer_type")},
        )

    def mark(self, record: Record) -> float:
        return soft_accuracy(record["answer"], record["reference"], self.profile)

    def groups(self, record: Record) -> Sequence[str]:
        name = f"accuracy_{record['facts']['answer_type']}".replace("/", "_")
        return [name] if name in self.metrics else []

    def submitted(self, record: Record) -> Iterable[Mapping[str, Any]]:
        yield {"question_id": int(record["id"]), "answer": normalise(record["answer"] or "")}
        for key in record["facts"].get("unasked", ()):
            yield {"question_id": key, "answer": ""}


class TextVQA(ImageTask):
    """Questions about text in photographs (Singh et al., CVPR 2019), without OCR tokens, as lmms-eval asks them."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 128}
    download = "download the questions and images of TextVQA v0.5.1 from https://textvqa.org/dataset"
    submission_file = "textvqa_submission.json"
    tiny_rows = (
        {"question_id": 1, "image_id": "a", "question": "what is on the wall?", "answers": ["nothing"] * 10},
        {"question_id": 2, "image_id": "b", "question": "which brand is it?", "answers": ["acme"] * 8 + ["ajax"] * 2},
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        images = find(data_root, f"textvqa/{'test' if split == 'test' else 'train'}_images", self.download)
        for where, item in self.read_list(data_root, f"textvqa/TextVQA_0.5.1_{split}.json", "data"):
            yield Row(where=where, values={**item, "blind": split == "test"}, images=images)

    def question(self, row: Row) -> Question:
        return Question(
            id=str(row.number("question_id")),
            prompt=[row.image(f"{row.text('image_id')}.jpg"), row.text("question").capitalize() + SHORT_ANSWER],
            reference=None if row.values.get("blind") else row.texts("answers"),
        )

    def mark(self, record: Record) -> float:
        return soft_accuracy(record["answer"], record["reference"])

    def submitted(self, record: Record) -> Iterable[Mapping[str, Any]]:
        yield {"question_id": int(record["id"]), "answer": normalise(record["answer"] or "")}


class TextVQAWithTokens(TextVQA):
    """TextVQA as LLaVA and NaVILA ask it: prompts from LLaVA's file, with OCR tokens, which lift the accuracy."""

    prompts = "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    download_prompts = "take llava_textvqa_val_v051_ocr.jsonl from eval.zip of LLaVA (its docs/Evaluation.md links it)"
    tiny_rows = tuple(
        {
            "question_id": row["image_id"],
            "image": f"{row['image_id']}.jpg",
            "text": f"{row['question']}\nReference OCR token: {row['answers'][0]}{SHORT_ANSWER}",
            "answers": row["answers"],
            "line": number,
        }
        for number, row in enumerate(TextVQA.tiny_rows, 1)
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        answers = {
            (str(item.get("image_id")), str(item.get("question")).lower()): item.get("answers")
            for _, item in self.read_list(data_root, f"textvqa/TextVQA_0.5.1_{split}.json", "data")
        }
        images = find(data_root, "textvqa/train_images", self.download)
        prompts = find(data_root, self.prompts, self.download_prompts)
        for number, (where, item) in enumerate(read_lines(prompts, self.download_prompts), 1):
            try:
                found = answers[str(item["question_id"]), textvqa_question(item["text"])]
            except (KeyError, TypeError, ValueError, AttributeError):
                file = f"TextVQA_0.5.1_{split}.json"
                raise DataError(f"{where}, asks nothing that {file} answers: {self.download_prompts}.") from None
            yield Row(where=where, values={**item, "answers": found, "line": number}, images=images)

    def question(self, row: Row) -> Question:
        return Question(
            id=f"{row.text('question_id')}-{row.number('line')}",
            prompt=[row.image(row.text("image")), row.text("text")],
            reference=row.texts("answers"),
        )


class VizWiz(ImageTask):
    """Questions of blind people about their photographs (Gurari et al., CVPR 2018); test is for its server."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 128}
    download = "unpack Annotations.zip and the images of VizWiz-VQA from https://vizwiz.org/tasks-and-datasets/vqa"
    submission_file = "vizwiz_submission.json"
    tiny_rows = (
        {"image": "a.jpg", "question": "What is this?", "answers": [{"answer": "wall"}] * 10},
        {"image": "b.jpg", "question": "Which colour?", "answers": [{"answer": "unanswerable"}] * 10},
    )
    suffix = "\nWhen the provided information is insufficient, respond with 'Unanswerable'." + SHORT_ANSWER

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        images = find(data_root, f"vizwiz/{split}", self.download)
        # Annotations.zip is unpacked here, or into a folder of its name.
        places = [f"vizwiz/{split}.json", f"vizwiz/Annotations/{split}.json", f"vizwiz/annotations/{split}.json"]
        path = next((place for place in places if (data_root / place).exists()), places[0])
        for where, item in self.read_list(data_root, path):
            yield Row(where=where, values={**item, "blind": split == "test"}, images=images)

    def question(self, row: Row) -> Question:
        name = row.text("image")
        return Question(
            id=name,
            prompt=[row.image(name), row.text("question").capitalize() + self.suffix],
            reference=None if row.values.get("blind") else answers_of(row),
        )

    def mark(self, record: Record) -> float:
        return soft_accuracy(record["answer"], record["reference"])

    def submitted(self, record: Record) -> Iterable[Mapping[str, Any]]:
        yield {"image": record["id"], "answer": normalise(record["answer"] or "")}


class GQA(ImageTask):
    """Questions made from scene graphs, with one answer each (Hudson and Manning, CVPR 2019)."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    download = "download the questions and images of GQA from https://cs.stanford.edu/people/dorarad/gqa/download.html"
    parts = ("structural type", "semantic type")
    tiny_rows = (
        {"id": "201", "imageId": "n1", "question": "Is the wall grey?", "answer": "yes"},
        {"id": "202", "imageId": "n1", "question": "What is grey?", "answer": "wall"},
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        path = f"gqa/{split}_balanced_questions.json"
        rows = self.read_json(data_root, path)
        images = find(data_root, "gqa/images", self.download)
        if not isinstance(rows, dict):
            raise DataError(f"{data_root / path} does not hold questions by their ids: {self.download}.")
        file = data_root / path
        for key, item in rows.items():
            where, values = checked(f"{file}, question {key}", item, self.download)
            yield Row(where=where, values={**values, "id": key}, images=images)

    def question(self, row: Row) -> Question:
        image = row.image(f"{row.text('imageId')}.jpg")
        types = row.values.get("types") or {}
        return Question(
            id=row.text("id"),
            prompt=[image, row.text("question") + SHORT_ANSWER],
            reference=row.text("answer"),
            facts={part: types.get(part.split()[0], "") for part in self.parts},
        )

    def mark(self, record: Record) -> float:
        return exact_match(record["answer"], record["reference"])


def answers_of(row: Row) -> list[str]:
    """Texts of a list of `{"answer": …}`; raises KeyError or TypeError where it is none."""
    return texts([answer["answer"] for answer in row.values["answers"]], "answers")
