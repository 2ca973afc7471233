"""Official files of every task in small, with answers and what they score by the published rules."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task with its files and what answers to them score."""

    task: str
    write: Callable[[Path], None]
    file: str
    """The file that is damaged in tests, below the data root."""
    prompt: str
    """Of the first question, byte for byte."""
    right: Sequence[str]
    """Answers that score everything."""
    best: Mapping[str, float] = field(default_factory=lambda: {"accuracy": 1.0})
    said: Sequence[str]
    """Other answers."""
    scores: Mapping[str, float]
    """What they score, by hand."""
    options: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 30)).save(data, "PNG")
    return data.getvalue()


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture())


def people(*answers: str) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number} for number, answer in enumerate(answers, 1)
    ]


# VQAv2: one picture with five questions.
VQA = [
    ("Is it raining?", "yes/no", ["yes"] * 10),
    ("How many dogs are there?", "number", ["2"] * 6 + ["two"] * 4),
    ("What is he holding?", "other", ["cell phone"] * 2 + ["phone"] * 8),
    ("Is the café open?", "yes/no", ["no"] * 9 + ["yes"]),
    ("What colour is it?", "other", ["red and white"] * 10),
]


def vqav2(root: Path) -> None:
    pictures(root / "coco" / "val2014", "COCO_val2014_000000000042.jpg")
    pictures(root / "coco" / "test2015", "COCO_test2015_000000000007.jpg")
    info = {"info": {"version": "2.0"}, "data_type": "mscoco", "license": {}}
    asked = [{"image_id": 42, "question": q, "question_id": 42000 + n} for n, (q, _, _) in enumerate(VQA)]
    truth = [
        {
            "image_id": 42,
            "question_id": 42000 + n,
            "question_type": "is",
            "answer_type": kind,
            "multiple_choice_answer": answers[0],
            "answers": people(*answers),
        }
        for n, (_, kind, answers) in enumerate(VQA)
    ]
    test = [{"image_id": 7, "question": "What is it?", "question_id": 7000 + n} for n in range(5)]
    for name, rows in (("val2014", asked), ("test2015", test), ("test-dev2015", test[1:3])):
        put(root / f"vqav2/v2_OpenEnded_mscoco_{name}_questions.json", {**info, "questions": rows})
    # In another order than the questions.
    put(root / "vqav2/v2_mscoco_val2014_annotations.json", {**info, "annotations": truth[::-1]})


def gqa(root: Path) -> None:
    pictures(root / "gqa" / "images", "n161313.jpg")
    rows = [("Is it overcast?", "no"), ("Who wears a cap?", "boy"), ("Which side?", "left"), ("Café or bar?", "café")]
    content = {
        f"20{n}": {
            "imageId": "n161313",
            "question": q,
            "answer": a,
            "fullAnswer": f"It is {a}.",
            "types": {"structural": "query", "semantic": "obj"},
        }
        for n, (q, a) in enumerate([*rows, ("What is it?", "t-shirt")])
    }
    put(root / "gqa/testdev_balanced_questions.json", content)


TEXT = [
    ("what is the brand of this camera?", ["nous les gosses", "dakota"] + ["dakota digital"] * 8),
    ("what does the small white text spell?", ["copenhagen"] * 10),
    ("what year is shown?", ["1990"] * 9 + ["1,990"]),
    ("who made it?", ["acme"] * 3 + ["ajax"] * 7),
    ("what is written in the café?", ["überraschung"] * 10),
]


def textvqa(root: Path) -> None:
    pictures(root / "textvqa" / "train_images", *(f"{n}ab.jpg" for n in range(5)))
    pictures(root / "textvqa" / "test_images", "9zz.jpg")
    data = [
        {"question": q, "image_id": f"{n}ab", "question_id": 34602 + n, "answers": a, "image_classes": ["Camera"]}
        for n, (q, a) in enumerate(TEXT)
    ]
    put(root / "textvqa/TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": data})
    blind = [{"question": "what is it?", "image_id": "9zz", "question_id": 39602}]
    put(root / "textvqa/TextVQA_0.5.1_test.json", {"dataset_type": "test", "data": blind})
    lines = [
        {
            "question_id": row["image_id"],
            "image": f"{row['image_id']}.jpg",
            "text": f"{row['question']}\nReference OCR token: DAKOTA, É{SHORT}",
            "category": "default",
        }
        for row in data
    ]
    put(root / "textvqa/llava_textvqa_val_v051_ocr.jsonl", "\n".join(json.dumps(line) for line in lines))


def vizwiz(root: Path) -> None:
    names = [f"VizWiz_val_0000000{n}.jpg" for n in range(5)]
    pictures(root / "vizwiz" / "val", *names)
    pictures(root / "vizwiz" / "test", "VizWiz_test_00000000.jpg")
    asked = ["What is this?", "CAN you read it?", "which colour?", "What is in the can?", "is this the right side?"]
    given = ["basil leaves", "unanswerable", "blue", "beans", "no"]
    rows = [
        {"image": name, "question": q, "answers": people(*[a] * 8, "x", "y"), "answer_type": "other", "answerable": 1}
        for name, q, a in zip(names, asked, given, strict=True)
    ]
    put(root / "vizwiz/val.json", rows)
    put(root / "vizwiz/test.json", [{"image": "VizWiz_test_00000000.jpg", "question": "What is it?"}])


def docvqa(root: Path) -> None:
    pictures(root / "docvqa" / "spdocvqa_images", *(f"ffbf0023_{n}.png" for n in range(5)))
    texts = [["1/8/93"], ["Philip Morris", "P. Morris"], ["abc"], ["0.28"], ["Société Générale"]]
    rows = [
        {
            "questionId": 337 + n,
            "question": "what is the date?",
            "question_types": ["handwritten"],
            "image": f"documents/ffbf0023_{n}.png",
            "docId": n,
            "ucsf_document_id": "ffbf0023",
            "ucsf_document_page_no": str(n),
            "answers": answers,
            "data_split": "val",
        }
        for n, answers in enumerate(texts)
    ]
    head = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": "val"}
    put(root / "docvqa/spdocvqa_qas/val_v1.0_withQT.json", {**head, "data": rows})
    blind = [{name: value for name, value in row.items() if name != "answers"} for row in rows[:2]]
    put(root / "docvqa/spdocvqa_qas/test_v1.0.json", {**head, "dataset_split": "test", "data": blind})


def chartqa(root: Path) -> None:
    pictures(root / "chartqa/test/png", "41699051005347.png", "two_col_1.png")
    human = [("How many food items?", "14"), ("Who is ahead?", "Göteborg"), ("What share?", "0.57")]
    made = [("What was the value in 2019?", "100"), ("How many in 2018?", "0")]
    put(
        root / "chartqa/test/test_human.json",
        [{"imgname": "41699051005347.png", "query": q, "label": a} for q, a in human],
    )
    put(
        root / "chartqa/test/test_augmented.json",
        [{"imgname": "two_col_1.png", "query": q, "label": a} for q, a in made],
    )


def ocrbench(root: Path) -> None:
    rows = [
        ("IIIT5K", "Regular Text Recognition", "what is written in the image?", ["CENTRE"]),
        ("IAM", "Handwriting Recognition", "what is written in the image?", ["naïve"]),
        ("textVQA", "Scene Text-centric VQA", "what is the brand?\n", ["dakota digital", "dakota"]),
        ("FUNSD", "Key Information Extraction", "what is the date?", "12 May"),
        ("HME100k", "Handwritten Mathematical Expression Recognition", "Please write the formula.", ["x ^ { 2 }"]),
    ]
    pictures(root / "ocrbench/OCRBench_Images", *(f"{row[0]}/{n}.png" for n, row in enumerate(rows)))
    content = [
        {"dataset_name": name, "type": kind, "id": n, "image_path": f"{name}/{n}.png", "question": q, "answers": a}
        for n, (name, kind, q, a) in enumerate(rows)
    ]
    put(root / "ocrbench/OCRBench.json", content)


def pope(root: Path) -> None:
    image = "COCO_val2014_000000310196.jpg"
    pictures(root / "coco" / "val2014", image)
    for category in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": n, "image": image, "text": f"Is there a {thing} in the image?", "label": label}
            for n, (thing, label) in enumerate((("snowboard", "yes"), ("dining table", "no")), 1)
        ]
        put(root / f"pope/coco_pope_{category}.json", "".join(json.dumps(line) + "\n" for line in lines))


MME_FLAT = ("existence", "count", "position", "color", "OCR", "commonsense_reasoning", "numerical_calculation")
MME_FLAT += ("text_translation", "code_reasoning")
MME_SPLIT = ("posters", "celebrity", "scene", "landmark", "artwork")


def mme(root: Path) -> None:
    text = "Is there a {} in this image? Please answer yes or no.\tYes\nIs there a {}? Please answer yes or no.\tNo\n"
    for category in (*MME_FLAT, *MME_SPLIT):
        texts = root / "mme" / category / ("questions_answers_YN" if category in MME_SPLIT else "")
        images = root / "mme" / category / ("images" if category in MME_SPLIT else "")
        put(texts / "0001.txt", text.format("refrigerator", "donut"))
        pictures(images, "0001.png" if category == "OCR" else "0001.jpg")


def refcoco(name: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        pictures(root / "coco" / "train2014", "COCO_train2014_000000581857.jpg")
        rows = [
            {"img_id": f"COCO_train2014_000000581857_{n}", "sents": said, "bbox": box, "height": 200, "width": 400}
            for n, said, box in (
                (16, "the lady with the blue shirt", [40, 20, 80, 100]),
                (16, "lady on the left", [40, 20, 80, 100]),
                (17, "naïve painting", [0, 0, 200, 200]),
                (18, "the dog", [200, 100, 200, 100]),
                (19, "a cup", [360, 160, 40, 40]),
            )
        ]
        put(root / f"{name}/{name}_val.json", rows)

    return write


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [{**row, "image": {"bytes": picture(), "path": None}} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(shown), path)


def ai2d(root: Path) -> None:
    options = ["adult frog", "tadpole", "egg", "froglet"]
    rows = [{"question": f"What is stage {n}?", "options": options[: 4 - n], "answer": str(n)} for n in range(2)]
    parquet(root / "ai2d/data/test-00000-of-00002.parquet", rows)
    more = [{"question": "Which is an élève?", "options": options, "answer": str(n)} for n in (3, 2, 0)]
    parquet(root / "ai2d/data/test-00001-of-00002.parquet", more)


def realworldqa(root: Path) -> None:
    directly = "\nPlease answer directly with only the letter of the correct option and nothing else."
    asked = "Which lane is it?\nA. The left lane\nB. The right lane\nC. The middle lane" + directly
    rows = [{"question": asked, "answer": letter} for letter in ("A", "B", "C")]
    rows += [
        {"question": "How many cars?\nAnswer with a number.", "answer": "3"},
        {"question": "Wet?", "answer": "Yes"},
    ]
    parquet(root / "realworldqa/data/test-00000-of-00001.parquet", rows)


def seedbench(root: Path) -> None:
    choices = {"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four"}
    rows = [
        {"question_id": f"10{n}", "data_id": "1454426_2591111986", "data_type": "image", "question_type_id": 5}
        | {"question": "How many towels?", "answer": answer, **choices}
        for n, answer in enumerate("ABC")
    ]
    rows += [
        {
            "question_id": f"v{kind}",
            "data_id": "x.webm",
            "data_type": "video",
            "question_type_id": kind,
            "segment": [1, 2],
        }
        | {"question": "What is done?", "answer": "D", **choices}
        for kind in (10, 12)
    ]
    put(root / "seedbench/SEED-Bench.json", {"questions": rows, "question_type": {"Instance Counting": 5}})
    pictures(root / "seedbench/SEED-Bench-image", "1454426_2591111986")
    for folder in ("task10/ssv2_8_frame/v10", "task12/breakfast_8_frame/v12"):
        pictures(root / "seedbench/v1_video" / folder, *(f"{n}.png" for n in range(1, 9)))


def scienceqa(root: Path) -> None:
    rows = [
        ("Which is a compound?", ["butane", "helium"], 0, "Look at the models.", "image.png"),
        ("Is café a noun?", ["yes", "no", "neither"], 2, "", None),
        ("Which state is this?", ["Ohio", "Utah"], 1, "", "choice.png"),
        ("Which is solid?", ["air", "a wall"], 1, "", None),
        ("What is shown?", ["a cell", "a leaf"], 0, "", "image.png"),
    ]
    problems = {
        str(n): {
            "question": q,
            "choices": c,
            "answer": a,
            "hint": h,
            "image": i,
            "split": "test",
            "subject": "natural science",
            "grade": f"grade{n}",
        }
        for n, (q, c, a, h, i) in enumerate(rows, 1)
    }
    put(root / "scienceqa/problems.json", problems)
    put(root / "scienceqa/pid_splits.json", {"train": [], "val": [], "test": list(problems)})
    images = root / "scienceqa/images/test"
    pictures(images, *(f"{n}/{row[4]}" for n, row in enumerate(rows, 1) if row[4]))


def refcoco_of_the_hub(root: Path) -> None:
    rows = [(["left half", "the left one"], [0.0, 0.0, 2.0, 4.0]), (["naïve"], [0.0, 0.0, 4.0, 4.0])]
    rows += [(["right half", "the right one"], [2.0, 0.0, 2.0, 4.0])]
    content = [
        {"question_id": str(n), "answer": said, "bbox": box, "file_name": f"COCO_train2014_000000581857_{n}.jpg"}
        for n, (said, box) in enumerate(rows)
    ]
    parquet(root / "refcoco/data/val-00000-of-00001.parquet", content)


LMMS_REC = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of the "
    "region this sentence describes: the lady with the blue shirt"
)
BOXES = [
    "[0.1, 0.1, 0.3, 0.6]",
    "[0.1, 0.1, 0.3, 0.6]",
    "[0.0, 0.0, 0.5, 1.0]",
    "[0.5, 0.5, 1.0, 1.0]",
    "[0.9, 0.8, 1.0, 1.0]",
]
#: Right; right within a sentence; half of the box, 0.5 exactly; a quarter; none.
SAID_BOXES = [BOXES[0], f"It is {BOXES[1]}.", "[0.0, 0.0, 0.25, 1.0]", "[0.5, 0.5, 0.75, 0.75]", "the cup"]


def rec(name: str) -> Case:
    return Case(
        task=name,
        write=refcoco(name),
        file=f"{name}/{name}_val.json",
        prompt=LMMS_REC,
        right=BOXES,
        best={"accuracy": 1.0, "iou": 1.0, "center_accuracy": 1.0},
        said=SAID_BOXES,
        scores={"accuracy": 3 / 5, "iou": (1 + 1 + 0.5 + 0.25) / 5, "center_accuracy": 4 / 5},
    )


CASES = [
    Case(
        task="vqav2",
        write=vqav2,
        file="vqav2/v2_mscoco_val2014_annotations.json",
        prompt="Is it raining?" + SHORT,
        # `two` of the annotators stays as it is by the official rule, and six of ten agree on `2`.
        right=["Yes.", "two", "a phone", "no", "red and white"],
        best={"accuracy": 1.0, "accuracy_yes_no": 1.0, "accuracy_number": 1.0, "accuracy_other": 1.0},
        # Two of ten agree: eight draws of nine with 2, two with 1: (8 * 2/3 + 2 * 1/3) / 10. One of ten: 9 * 1/3 / 10.
        said=["no", "2", "cell phone", "YES", "red"],
        scores={
            "accuracy": (0 + 1 + 0.6 + 0.3 + 0) / 5,
            "accuracy_yes_no": 0.15,
            "accuracy_number": 1.0,
            "accuracy_other": 0.3,
        },
    ),
    Case(
        task="gqa",
        write=gqa,
        file="gqa/testdev_balanced_questions.json",
        prompt="Is it overcast?" + SHORT,
        right=["No.", "boy", "left", "Café", "t-shirt"],
        said=["No.", "a boy", "", "cafe", "T-Shirt!"],
        scores={"accuracy": 2 / 5},
    ),
    Case(
        task="textvqa",
        write=textvqa,
        file="textvqa/TextVQA_0.5.1_val.json",
        prompt="What is the brand of this camera?" + SHORT,
        right=["Dakota Digital", "copenhagen", "1990", "ajax", "Überraschung"],
        said=["dakota", "Copenhagen.", "", "acme", "uberraschung"],
        scores={"accuracy": (0.3 + 1 + 0 + 0.9 + 0) / 5},
    ),
    Case(
        task="textvqa-ocr",
        write=textvqa,
        file="textvqa/llava_textvqa_val_v051_ocr.jsonl",
        prompt="what is the brand of this camera?\nReference OCR token: DAKOTA, É" + SHORT,
        right=["Dakota Digital", "copenhagen", "1990", "ajax", "Überraschung"],
        said=["dakota", "Copenhagen.", "1,990", "acme", ""],
        scores={"accuracy": (0.3 + 1 + 1 + 0.9 + 0) / 5},
    ),
    Case(
        task="vizwiz",
        write=vizwiz,
        file="vizwiz/val.json",
        prompt="What is this?\nWhen the provided information is insufficient, respond with 'Unanswerable'." + SHORT,
        right=["Basil leaves", "Unanswerable", "blue", "beans", "no"],
        said=["basil", "unanswerable.", "x", "the beans", "yes"],
        scores={"accuracy": (0 + 1 + 0.3 + 1 + 0) / 5},
    ),
    Case(
        task="docvqa",
        write=docvqa,
        file="docvqa/spdocvqa_qas/val_v1.0_withQT.json",
        prompt="what is the date?" + SHORT,
        right=["1/8/93", "P. MORRIS", "abc", "0.28", "société  générale"],
        # Blanks that go still count in the length that is divided by.
        best={"anls": 1.0},
        said=["1/8/94", "phillip morris", "abd", "1.5", ""],
        scores={"anls": ((1 - 1 / 6) + (1 - 1 / 14) + (1 - 1 / 3) + 0 + 0) / 5},
    ),
    Case(
        task="chartqa",
        write=chartqa,
        file="chartqa/test/test_augmented.json",
        prompt="How many food items?\nAnswer the question with a single word.",
        right=["14", "göteborg", "57%", "105", "0"],
        best={"accuracy": 1.0, "accuracy_human": 1.0, "accuracy_augmented": 1.0},
        said=["14.6", "Gothenburg", "57", "106", "0.0"],
        scores={"accuracy": 1 / 5, "accuracy_human": 1 / 3, "accuracy_augmented": 0.0},
    ),
    Case(
        task="ocrbench",
        write=ocrbench,
        file="ocrbench/OCRBench.json",
        prompt="what is written in the image?",
        right=["It says centre.", "Naïve", "DAKOTA", "on 12 May\n1990", "$x^{2}$"],
        best={"accuracy": 1.0, "final": 5, "recognition": 2, "scene_text": 1, "key_information": 1, "formula": 1},
        said=["center", "naïve", "dakota digital", "12\nMay", "x^2"],
        scores={"accuracy": 3 / 5, "final": 3, "recognition": 1, "scene_text": 1, "document": 0, "formula": 0},
    ),
    Case(
        task="pope",
        write=pope,
        file="pope/coco_pope_popular.json",
        prompt="Is there a snowboard in the image?" + SHORT,
        right=["yes", "no", "Yes", "No", "yes ", "NO"],
        best={"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "f1_mean": 1.0, "yes_ratio": 0.5},
        # To lmms-eval a sentence is neither: TP 1, FP 1, FN 1; F1 of the categories 1, 0 (FN) and 0 (FP).
        said=["yes", "no", "no", "No.", "Yes.", "yes"],
        scores={"accuracy": 2 / 6, "precision": 0.5, "recall": 0.5, "f1": 0.5, "f1_random": 1.0, "f1_mean": 1 / 3},
    ),
    Case(
        task="pope",
        options={"profile": "llava"},
        write=pope,
        file="pope/coco_pope_random.json",
        prompt="Is there a snowboard in the image?" + SHORT,
        right=["Yes.", "No, it is not.", "yes", "There is no table.", "", "No"],
        best={"accuracy": 1.0, "f1": 1.0},
        # To LLaVA's script: yes, no, no, yes (an empty reply), yes, yes: TP 2, FP 2, FN 1.
        said=["There is a snowboard.", "No. Yes.", "No", "", "Yes, no doubt"[:3], "NOT AT ALL"],
        scores={"accuracy": 3 / 6, "precision": 0.5, "recall": 2 / 3, "yes_ratio": 4 / 6, "f1_random": 1.0},
    ),
    Case(
        task="mme",
        write=mme,
        file="mme/artwork/questions_answers_YN/0001.txt",
        prompt="Is there a refrigerator in this image?" + SHORT,
        right=["Yes", "no."] * 14,
        best={"accuracy": 1.0, "perception": 2000.0, "cognition": 800.0, "OCR": 200.0},
        # Existence: one of two right, 50 + 0; count: none; the others all.
        said=["yes, it is", "yes", "it has one", "yes", *["y", "n"] * 12],
        scores={"existence": 50.0, "count": 0.0, "perception": 1650.0, "cognition": 800.0, "accuracy": 25 / 28},
    ),
    rec("refcoco"),
    rec("refcoco+"),
    rec("refcocog"),
    Case(
        task="refcoco",
        options={"profile": "navila"},
        write=refcoco("refcoco"),
        file="refcoco/refcoco_val.json",
        prompt="Please provide the bounding box coordinate of the region this sentence describes: "
        "the lady with the blue shirt.",
        right=BOXES,
        best={"accuracy": 1.0, "iou": 1.0},
        # Only a box and nothing else is read; the last pixel counts in, so that half a box is more than a half.
        said=SAID_BOXES,
        scores={
            "accuracy": 2 / 5,
            "iou": (1 + 0 + (101 * 201) / (201 * 201) + (101 * 51) / (201 * 101) + 0) / 5,
            "center_accuracy": 3 / 5,
        },
    ),
    Case(
        task="refcoco",
        write=refcoco_of_the_hub,
        file="refcoco/data/val-00000-of-00001.parquet",
        prompt=LMMS_REC.replace("the lady with the blue shirt", "left half"),
        right=["[0, 0, 0.5, 1]"] * 2 + ["[0, 0, 1, 1]"] + ["[0.5, 0, 1, 1]"] * 2,
        said=["[0, 0, 0.5, 1]"] * 5,
        scores={"accuracy": 3 / 5, "iou": 2.5 / 5},
    ),
    Case(
        task="ai2d",
        write=ai2d,
        file="ai2d/data/test-00001-of-00002.parquet",
        prompt="What is stage 0?\nA. adult frog\nB. tadpole\nC. egg\nD. froglet" + LETTER,
        right=["A", "B. tadpole", "d", "C.", "A"],
        said=["adult frog", "(B)", "The answer is D", "", "B"],
        scores={"accuracy": 1 / 5},
    ),
    Case(
        task="realworldqa",
        write=realworldqa,
        file="realworldqa/data/test-00000-of-00001.parquet",
        prompt="Which lane is it?\nA. The left lane\nB. The right lane\nC. The middle lane\n"
        "Please answer directly with only the letter of the correct option and nothing else.",
        right=["A", "The right lane", "c.", "three", "yes"],
        said=["A. The left lane", "the right lane", "C", "There are 3", ""],
        scores={"accuracy": 2 / 5},
    ),
    Case(
        task="seedbench",
        write=seedbench,
        file="seedbench/SEED-Bench.json",
        prompt="How many towels?\nA. One\nB. Two\nC. Three\nD. Four" + LETTER,
        right=["A", "b", "C. Three", "D", " D"],
        best={"accuracy": 1.0, "accuracy_image": 1.0, "accuracy_video": 1.0},
        said=["(A)", "B", "three", "", "D"],
        scores={"accuracy": 2 / 5, "accuracy_image": 1 / 3, "accuracy_video": 1 / 2},
    ),
    Case(
        task="scienceqa",
        write=scienceqa,
        file="scienceqa/problems.json",
        prompt="Context: Look at the models.\nWhich is a compound?\nA. butane\nB. helium" + LETTER,
        right=["A", "c", "B", "B", "A"],
        best={"accuracy": 1.0, "accuracy_image": 1.0},
        said=["A.", "C", "B", "", "a leaf"],
        scores={"accuracy": 2 / 5, "accuracy_image": 1 / 3},
    ),
]
