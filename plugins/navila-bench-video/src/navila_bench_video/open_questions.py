"""MSVD-QA and MSR-VTT-QA (Xu et al., ACM MM 2017) and ActivityNet-QA (Yu et al., AAAI 2019): open answers, judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from navila.errors import DataError
from navila_eval.questions import Question, Record, find
from navila_eval.rows import read_rows, reading, text
from navila_eval.scoring.judges import JudgePrompt, answer_prompt
from navila_eval.scoring.vqa import exact_match

from navila_bench_video.categories import ACTIVITYNET, QUESTION_WORDS
from navila_bench_video.files import find_video, without_marks
from navila_bench_video.judged import JudgedBenchmark

_HUB = "https://github.com/mbzuai-oryx/Video-ChatGPT/blob/main/quantitative_evaluation/README.md"
_FIGURES = ("accuracy", "score", "accuracy_judged", "score_judged", "exact_match")


class OpenQuestions(JudgedBenchmark):
    """Short answers: yes or no and a score of a judge, and what equals the answer to the letter."""

    folder: ClassVar[str]
    get: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = (*_FIGURES, *QUESTION_WORDS)
    prompts: ClassVar[tuple[str, ...]] = ("navila",)
    tiny_sample: ClassVar[Mapping[str, Any]] = {"reference": "wall", "facts": {"question": "What is it?", "groups": []}}

    def load(self, split: str, data_root: Path) -> list[Question]:
        asked_path = find(data_root, f"{self.folder}/{split}_q.json", self.get)
        truth_path = find(data_root, f"{self.folder}/{split}_a.json", self.get)
        asked, truth = read_rows(asked_path, self.get), read_rows(truth_path, self.get)
        if len(asked) != len(truth):
            raise DataError(
                f"{asked_path} has {len(asked)} questions and {truth_path} {len(truth)} answers: {self.get}."
            )
        videos = find(data_root, f"{self.folder}/videos", self.get)
        questions = []
        for (where, row), (where_truth, answer) in zip(asked, truth, strict=True):
            with reading(where, self.get):
                name = str(row["question_id"])
                question = without_marks(text(row, "question"))
                video = find_video(videos, *self.video_names(text(row, "video_name"), name))
            with reading(where_truth, self.get):
                if str(answer.get("question_id", name)) != name:
                    raise ValueError(f"it is the answer to {answer['question_id']}, not to {name}")
                facts = {"question": question, "groups": self.groups(question, answer)}
                reference = str(answer["answer"])
            questions.append(
                Question(id=name, prompt=[video, self.wording(question)], reference=reference, facts=facts)
            )
        return questions

    def wording(self, question: str) -> str:
        """What is asked besides the video: the question as it stands."""
        return question

    def video_names(self, video: str, question_id: str) -> tuple[str, ...]:
        """Names a question's video may have, without ending."""
        return (video,)

    def groups(self, question: str, answer: Mapping[str, Any]) -> list[str]:
        """Metrics of its own kind that a question counts for: here its first word."""
        word = question.split()[0].lower() if question.split() else ""
        return [word] if word in QUESTION_WORDS else []

    def judge_prompt(self, record: Record) -> JudgePrompt | None:
        if not self.judged or record["answer"] is None:
            return None
        return answer_prompt(record["facts"]["question"], record["reference"], record["answer"])

    def score_sample(self, record: Record) -> dict[str, float]:
        # Equal case, ASCII punctuation and surrounding spaces apart; a failed sample has no answer and equals nothing.
        equal = record["answer"] is not None and exact_match(record["answer"], record["reference"])
        figures = {"exact_match": 100.0 * equal}
        if not self.judged:
            return figures
        verdict = record.get("verdict")
        right, points = 100.0 * (verdict is not None and verdict["correct"] is True), self.points(verdict)
        figures |= {"accuracy": right, "score": points, **{name: right for name in record["facts"]["groups"]}}
        # The published scripts leave out what could not be asked or judged.
        left_out = record["error"] or record.get("judge_error")
        return figures | ({} if left_out else {"accuracy_judged": right, "score_judged": points})


class MSVDQA(OpenQuestions):
    """MSVD-QA's test questions as Video-ChatGPT asks them."""

    folder = "msvd-qa"
    get = f"download MSVD_Zero_Shot_QA as {_HUB} describes"


class MSRVTTQA(OpenQuestions):
    """MSR-VTT-QA's test questions as Video-ChatGPT asks them."""

    folder = "msrvtt-qa"
    get = f"download MSRVTT_Zero_Shot_QA as {_HUB} describes"


class ActivityNetQA(OpenQuestions):
    """ActivityNet-QA's questions, whose types are in the file of answers."""

    folder = "activitynet-qa"
    get = "download dataset of https://github.com/MILVLG/activitynet-qa and the videos of ActivityNet"
    prompts: ClassVar[tuple[str, ...]] = ("navila", "lmms")
    short_answers: ClassVar[int | None] = 64
    metrics = (*_FIGURES, *ACTIVITYNET.values())

    def wording(self, question: str) -> str:
        if self.prompt == "lmms":
            return f"{question.capitalize()}? Answer the question using a single word or phrase."
        return question

    def video_names(self, video: str, question_id: str) -> tuple[str, ...]:
        # The videos are called as the question's id but for its number: `v_` and the name.
        return question_id.rpartition("_")[0] or video, video, f"v_{video}"

    def groups(self, question: str, answer: Mapping[str, Any]) -> list[str]:
        kind = ACTIVITYNET.get(answer["type"]) if isinstance(answer.get("type"), int) else None
        return [kind] if kind else []
