"""ScanQA (Azuma et al., CVPR 2022): questions about ScanNet rooms, answered from a video of the room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

from navila_eval.questions import Question, QuestionBenchmark, Record, Scores, check_option, find
from navila_eval.rows import read_rows, reading, text, texts
from navila_eval.scoring.captions import bleu_of
from navila_eval.scoring.meteor import find_meteor
from navila_eval.scoring.scanqa import Profile, score
from navila_eval.statistics import bootstrap_sums
from PIL import Image

#: Where the questions come from, and the videos.
GET_QUESTIONS = "download ScanQA_v1.0.zip as https://github.com/ATR-DBI/ScanQA describes"
GET_VIDEOS = (
    "take the videos of NaVILA-Dataset (https://huggingface.co/datasets/a8cheng/NaVILA-Dataset, ScanQA/videos), or "
    "render each ScanNet scene to SCENE.mp4 or a folder SCENE of frames"
)


class ScanQA(QuestionBenchmark):
    """Free answers of a few words, scored against several references; all figures are times 100, as in tables."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 64}

    def __init__(self, *, profile: Profile = "scanqa-official") -> None:
        """`profile` names who defined the figures (`navila_eval.scoring.scanqa.PROFILES`); never mix them in a table.

        Raises:
            ConfigError: there is no such profile.
        """
        check_option("scanqa", "profile", profile, get_args(Profile))
        self.profile: Profile = profile

    @classmethod
    def tiny(cls) -> ScanQA:
        return _Tiny()

    def questions(self, split: str, data_root: Path) -> list[Question]:
        path = find(data_root, f"scanqa/ScanQA_v1.0_{split}.json", GET_QUESTIONS)
        videos = find(data_root, "scanqa/videos", GET_VIDEOS)
        return [_question(row, where, videos) for where, row in read_rows(path, GET_QUESTIONS)]

    def score(self, records: Sequence[Record]) -> Scores:
        predictions = [record["answer"] for record in records]
        scores = score(predictions, [r["reference"] for r in records], self.profile, meteor=find_meteor())
        samples = [{name: 100 * value for name, value in sample.items()} for sample in scores.samples]
        metrics = {name: None if value is None else 100 * value for name, value in scores.metrics.items()}
        if any(record["error"] for record in records):
            # An empty answer is within any other by the published rules; where there is none at all, nothing is right.
            samples = [dict.fromkeys(s, 0.0) if r["error"] else s for s, r in zip(samples, records, strict=True)]
            means = ("cider", "rouge_l", "em", "em_refined")
            metrics |= {name: sum(sample[name] for sample in samples) / len(samples) for name in means}
        # BLEU is of all answers together: no mean of what samples have.
        intervals = bootstrap_sums(scores.bleu_counts, _bleus)
        return Scores(metrics=metrics, samples=samples, intervals=intervals)


def _bleus(sums: list[float]) -> dict[str, float]:
    return {f"bleu_{order}": 100 * value for order, value in enumerate(bleu_of([sums]), start=1)}


def _question(row: Mapping[str, Any], where: str, videos: Path) -> Question:
    """A question of the official file, asked as NaVILA was trained: the frames, then the question as it stands."""
    with reading(where, GET_QUESTIONS):
        scene, answers = text(row, "scene_id"), texts(row["answers"], "answers")
        video = videos / scene if (videos / scene).is_dir() else videos / f"{scene}.mp4"
        return Question(
            id=text(row, "question_id"),
            prompt=[video, text(row, "question")],
            reference=answers,
            facts={"scene_id": scene},
        )


class _Tiny(ScanQA):
    """Four questions about grey walls."""

    def questions(self, split: str, data_root: Path) -> list[Question]:
        wall = Image.new("RGB", (32, 32), (128, 128, 128))
        answers = {"What colour is the wall?": ["grey", "light grey"], "What is on the bed?": ["a pillow", "pillow"]}
        asked = [*answers.items()] * 2
        return [
            Question(id=f"tiny-{number}", prompt=[wall, question], reference=references)
            for number, (question, references) in enumerate(asked)
        ]
