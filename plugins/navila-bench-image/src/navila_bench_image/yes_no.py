"""Questions answered by yes or no: POPE and MME."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from navila.errors import DataError, reason
from navila_eval.questions import Question, Record, Scores, check_option, find
from navila_eval.rows import read_lines
from navila_eval.scoring.text import mean
from navila_eval.scoring.yes_no import COGNITION, PERCEPTION, MmeAnswer, mme_scores, parse_mme, parse_pope, pope_scores
from navila_eval.statistics import bootstrap_statistics
from navila_eval.wording import SHORT_ANSWER

from navila_bench_image.task import ImageTask, Row

#: Whose reading of POPE's replies: `lmms` the whole reply, `llava` yes unless no or not is in its first sentence.
PopeProfile = Literal["lmms", "llava"]
#: Draws of the bootstrap; each scores thousands of answers.
RESAMPLES = 200


class POPE(ImageTask):
    """Is an object in the image? 9,000 questions in three categories (Li et al., EMNLP 2023)."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 128}
    categories = ("random", "popular", "adversarial")
    metrics = (
        *("accuracy", "precision", "recall", "f1", "yes_ratio"),
        *("f1_random", "f1_popular", "f1_adversarial", "f1_mean"),
    )
    download = "take coco_pope_*.json from output/coco of https://github.com/AoiDragon/POPE"
    tiny_rows = (
        {"question_id": 1, "image": "a.jpg", "text": "Is there a wall in the image?", "label": "yes"},
        {"question_id": 2, "image": "a.jpg", "text": "Is there a bed in the image?", "label": "no"},
    )

    def __init__(self, *, profile: PopeProfile = "lmms") -> None:
        """`profile` says how replies are read; never mix them in a table.

        Raises:
            ConfigError: there is no such profile.
        """
        check_option("pope", "profile", profile, get_args(PopeProfile))
        self.profile: PopeProfile = profile

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        images = find(data_root, "coco/val2014", "download val2014.zip from https://cocodataset.org/#download")
        for category in self.categories:
            # Lines of JSON, whatever their name says.
            path = find(data_root, f"pope/coco_pope_{category}.json", self.download)
            for where, item in read_lines(path, self.download):
                yield Row(where=where, values={**item, "category": category}, images=images)

    def question(self, row: Row) -> Question:
        if row.values["label"] not in ("yes", "no"):
            raise ValueError(f"label must be yes or no, not {row.values['label']!r}")
        category = row.values.get("category", "random")
        return Question(
            id=f"{category}-{row.number('question_id')}",
            prompt=[row.image(row.text("image")), row.text("text").strip() + SHORT_ANSWER],
            reference=row.values["label"],
            facts={"category": category},
        )

    def parse(self, record: Record) -> str | None:
        reply = parse_pope(record["output"], self.profile)
        return reply if reply in ("yes", "no") else None

    def score(self, records: Sequence[Record]) -> Scores:
        pairs = [(record["answer"] or "", record["reference"]) for record in records]
        categories = [record["facts"]["category"] for record in records]
        asked = [category for category in self.categories if category in categories]

        def of_category(category: str, rows: Iterable[int]) -> dict[str, float]:
            return pope_scores(pairs[row] for row in rows if categories[row] == category)

        def figures(rows: Iterable[int]) -> dict[str, float]:
            rows = list(rows)
            pooled = pope_scores(pairs[row] for row in rows)
            f1 = {f"f1_{category}": of_category(category, rows)["f1"] for category in asked}
            return {**pooled, **f1, "f1_mean": mean(list(f1.values()))}

        found = figures(range(len(records)))
        intervals = bootstrap_statistics(len(records), figures, resamples=RESAMPLES)
        table = {category: of_category(category, range(len(records))) for category in asked}
        return Scores(
            metrics={name: found.get(name) for name in self.metrics},
            samples=[{"accuracy": float(reply == truth)} for reply, truth in pairs],
            intervals={name: intervals[name] for name in self.metrics[1:] if name in intervals},
            tables={
                "By category": {
                    category: {name: f"{row[name]:.3f}" for name in self.metrics[:5]} for category, row in table.items()
                }
            },
        )


class MME(ImageTask):
    """Two questions about each image, in 14 categories (Fu et al., 2023): points up to 2,000 and 800."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    metrics = ("perception", "cognition", *PERCEPTION, *COGNITION, "accuracy")
    download = (
        "get MME_Benchmark_release_version as https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models tells"
    )
    tiny_rows = tuple(
        {"category": "existence", "image": "a", "number": number, "question": question, "answer": answer}
        for number, (question, answer) in enumerate(
            [("Is there a wall? Please answer yes or no.", "Yes"), ("Is there a bed? Please answer yes or no.", "No")]
        )
    )

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        for category in (*PERCEPTION, *COGNITION):
            folder = find(data_root, f"mme/{category}", self.download)
            divided = (folder / "questions_answers_YN").is_dir()
            texts, images = (folder / "questions_answers_YN", folder / "images") if divided else (folder, folder)
            files = sorted(texts.glob("*.txt"))
            if not files:
                raise DataError(f"{texts} has no questions, *.txt: {self.download}.")
            for file in files:
                yield from self._rows(file, category, images)

    def _rows(self, file: Path, category: str, images: Path) -> Iterable[Row]:
        """The two lines of a file, each a question and its answer, with a tab between."""
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read ({reason(error)}): {self.download}.") from None
        if len(lines) != 2 or any(line.count("\t") != 1 for line in lines):
            raise DataError(f"{file} must hold two lines `question<tab>answer`: {self.download}.")
        found = [path for suffix in (".jpg", ".png", ".jpeg") if (path := images / f"{file.stem}{suffix}").exists()]
        name = found[0].name if found else f"{file.stem}.jpg"
        for number, line in enumerate(lines):
            question, answer = line.split("\t")
            values = {"category": category, "image": name, "number": number, "question": question, "answer": answer}
            yield Row(where=f"{file}, line {number + 1}", values=values, images=images)

    def question(self, row: Row) -> Question:
        category, image, answer = row.text("category"), row.text("image"), row.text("answer").strip().lower()
        if answer not in ("yes", "no"):
            raise ValueError(f"the answer must be Yes or No, not {row.values['answer']!r}")
        text = row.text("question").strip().replace(" Please answer yes or no.", "")
        return Question(
            id=f"{category}/{image}/{row.number('number')}",
            prompt=[row.image(image), text + SHORT_ANSWER],
            reference=answer,
            facts={"category": category, "image": image},
        )

    def parse(self, record: Record) -> str | None:
        reply = parse_mme(record["output"])
        return None if reply == "other" else reply

    def score(self, records: Sequence[Record]) -> Scores:
        answers = [MmeAnswer(**record["facts"], correct=record["answer"] == record["reference"]) for record in records]
        images: dict[tuple[str, str], list[MmeAnswer]] = {}
        for answer in answers:
            images.setdefault((answer.category, answer.image), []).append(answer)
        # The last image lacks its second question where --limit is odd.
        pairs = [pair for pair in images.values() if len(pair) == 2]
        found = mme_scores([answer for pair in pairs for answer in pair])
        asked = {pair[0].category for pair in pairs}
        sums = {"perception": asked.intersection(PERCEPTION), "cognition": asked.intersection(COGNITION)}
        # A sum of nothing, where --limit is small, is no figure.
        points = {name: found.get(name) if sums.get(name, True) else None for name in self.metrics[:-1]}
        left_out = len(answers) - 2 * len(pairs)
        return Scores(
            metrics={**points, "accuracy": mean([float(answer.correct) for answer in answers])},
            samples=[{"accuracy": float(answer.correct)} for answer in answers],
            intervals={name: i for name, i in _mme_intervals(pairs).items() if points[name] is not None},
            counts={"questions_without_their_pair": left_out} if left_out else {},
        )


def _mme_intervals(pairs: Sequence[Sequence[MmeAnswer]]) -> dict[str, tuple[float, float]]:
    """95 % intervals of all points, by bootstrap over the images of each category; none without images."""
    if not pairs:
        return {}
    members: dict[str, list[int]] = {}
    for number, (first, _) in enumerate(pairs):
        members.setdefault(first.category, []).append(number)
    own = [members[first.category] for first, _ in pairs]

    def points(rows: Iterable[int]) -> dict[str, float]:
        # Each place draws from its own category, so that none loses images to another.
        drawn = [pairs[places[row % len(places)]] for places, row in zip(own, rows, strict=True)]
        return mme_scores([replace(a, image=str(n)) for n, pair in enumerate(drawn) for a in pair])

    return bootstrap_statistics(len(pairs), points, resamples=RESAMPLES)
