"""Video-ChatGPT's benchmark (Maaz et al., ACL 2024): long answers, of which a judge scores five aspects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from navila_eval.judging import AskJudge
from navila_eval.questions import Question, Record, Scores, find
from navila_eval.rows import read_rows, reading, text
from navila_eval.scoring.judges import aspect_prompt, consistency_prompt

from navila_bench_video.categories import VIDEO_CHATGPT
from navila_bench_video.files import find_video, without_marks
from navila_bench_video.judged import JudgedBenchmark

GET = (
    "download the benchmark's questions and Test_Videos as "
    "https://github.com/mbzuai-oryx/Video-ChatGPT/blob/main/quantitative_evaluation/README.md describes"
)
#: File of questions -> what a judge scores of each answer; of consistency's two answers, one score of both.
ASPECTS: Mapping[str, tuple[Literal["correctness", "detail", "context", "temporal"], ...]] = {
    "generic": ("correctness", "detail", "context"),
    "temporal": ("temporal",),
    "consistency": (),
}


class VideoChatGPT(JudgedBenchmark):
    """Means of scores from 0 to 5; split `all` has all three files, the others one each."""

    prompts: ClassVar[tuple[str, ...]] = ("navila",)
    metrics: ClassVar[tuple[str, ...]] = (*VIDEO_CHATGPT, "average")
    yes_no: ClassVar[bool] = False
    tiny_sample: ClassVar[Mapping[str, Any]] = {"reference": "a wall", "facts": {"file": "generic"}}

    def load(self, split: str, data_root: Path) -> list[Question]:
        questions = []
        for name in ASPECTS if split == "all" else (split,):
            rows = read_rows(find(data_root, f"video-chatgpt/{name}_qa.json", GET), GET)
            videos = find(data_root, "video-chatgpt/videos", GET)
            for number, (where, row) in enumerate(rows):
                with reading(where, GET):
                    questions += _questions(name, number, row, videos)
        return questions

    def judge_prompts(self, records: Sequence[Record]) -> list[AskJudge | None]:
        if not self.judged:
            return [None] * len(records)
        answers = {record["id"]: record for record in records if record["answer"] is not None}
        return [_prompts(record, answers) for record in records]

    def score_sample(self, record: Record) -> dict[str, float]:
        facts = record["facts"]
        if not self.judged or "second" in facts:
            return {}
        verdicts = record.get("verdict") or {}
        names = ASPECTS[facts["file"]] or ("consistency",)
        return {name: self.points(verdicts.get(name)) for name in names}

    def score(self, records: Sequence[Record]) -> Scores:
        scores = super().score(records)
        five = [value for name in VIDEO_CHATGPT if (value := scores.metrics[name]) is not None]
        average = sum(five) / len(five) if len(five) == len(VIDEO_CHATGPT) else None
        return replace(scores, metrics={**scores.metrics, "average": average})


def _questions(name: str, number: int, row: Mapping[str, Any], videos: Path) -> list[Question]:
    """The question of a row, or its two; the score of both stands with the second, whose id ends in -2."""
    video_name = text(row, "video_name")
    video = find_video(videos, video_name, f"v_{video_name}")
    keys = ("Q1", "Q2") if name == "consistency" else ("Q",)
    asked = [without_marks(text(row, key)) for key in keys]
    answer = text(row, "A")
    if len(asked) == 1:
        facts = {"file": name, "question": asked[0]}
        return [Question(id=f"{name}-{number}", prompt=[video, asked[0]], reference=answer, facts=facts)]
    ids = [f"{name}-{number}-1", f"{name}-{number}-2"]
    return [
        Question(
            id=ids[0],
            prompt=[video, asked[0]],
            reference=answer,
            facts={"file": name, "question": asked[0], "second": ids[1]},
        ),
        Question(
            id=ids[1],
            prompt=[video, asked[1]],
            reference=answer,
            facts={"file": name, "question": asked[1], "first": ids[0]},
        ),
    ]


def _prompts(record: Record, answers: Mapping[str, Record]) -> AskJudge | None:
    """What a judge is asked about an answer, by aspect; nothing where there is none."""
    facts = record["facts"]
    if record["id"] not in answers:
        return None
    question, truth, said = facts["question"], record["reference"], record["answer"]
    if aspects := ASPECTS[facts["file"]]:
        return {aspect: aspect_prompt(aspect, question, truth, said) for aspect in aspects}
    first = answers.get(facts.get("first", ""))
    if first is None:
        return None
    both = (first["facts"]["question"], question), truth, (first["answer"], said)
    return {"consistency": consistency_prompt(*both)}
