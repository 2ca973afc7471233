"""The Perception Test (Pătrăucean et al., NeurIPS 2023): three options about what a video shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from navila.errors import DataError
from navila_eval.questions import Question, Record, find
from navila_eval.rows import read_json, reading, text
from navila_eval.scoring.choices import first_character, letter_of_word
from navila_eval.wording import option_lines, with_options

from navila_bench_video.benchmark import ChoiceBenchmark, lettered
from navila_bench_video.categories import PERCEPTION_AREAS, PERCEPTION_REASONING
from navila_bench_video.files import find_video, letter_of, without_marks

GET = "download the annotations of multiple-choice video QA from https://github.com/google-deepmind/perception_test"
GET_VIDEOS = "download the videos from https://github.com/google-deepmind/perception_test"


class PerceptionTest(ChoiceBenchmark):
    """Split `valid` has answers; `test` makes the file for the server."""

    profiles: ClassVar[tuple[str, ...]] = ("navila", "lmms")
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", *PERCEPTION_AREAS, *PERCEPTION_REASONING)
    tables: ClassVar[Mapping[str, str]] = {"Accuracy by skill": "tags"}

    def load(self, split: str, data_root: Path) -> list[Question]:
        path = find(data_root, f"perception-test/mc_question_{split}.json", GET)
        videos = find(data_root, "perception-test/videos", GET_VIDEOS)
        listed = read_json(path, GET)
        if not isinstance(listed, dict):
            raise DataError(f"{path} is no object of videos: {GET}.")
        questions = []
        for name, entry in listed.items():
            with reading(f"{path}, video {name}", GET):
                video = find_video(videos, text(entry["metadata"], "video_id"))
                asked = list(entry["mc_question"])
            for number, row in enumerate(asked, 1):
                with reading(f"{path}, video {name}, question {number}", GET):
                    questions.append(self._question(row, name, video))
        return questions

    def _question(self, row: Mapping[str, Any], name: str, video: Path) -> Question:
        options = lettered(row["options"])
        question = without_marks(text(row, "question"))
        if self.prompt == "lmms":
            prompt = with_options(question, options)
        else:
            # As published: nothing divides the first sentence, the question and its first option.
            ask = "Watching the video and answer with the option's letter from the given choices directly."
            prompt = ask + question + "".join(f"{line}\n" for line in option_lines(options))
        answer = row.get("answer_id")
        known = (*PERCEPTION_AREAS, *PERCEPTION_REASONING)
        groups = [row[kind] for kind in ("area", "reasoning") if row.get(kind) in known]
        return Question(
            id=f"{name}_{row['id']}",
            prompt=[video, prompt],
            reference=None if answer is None else letter_of(answer, len(options)),
            facts={
                "options": options,
                "groups": groups,
                "tags": [str(tag) for tag in row.get("tag") or []],
                "video": name,
                "question_id": row["id"],
            },
        )

    def parse(self, record: Record) -> str | None:
        if self.profile == "lmms":
            return letter_of_word(record["output"])
        return first_character(record["output"])

    def submission(self, records: Sequence[Record]) -> dict[str, str] | None:
        if not records or any(record["reference"] is not None for record in records):
            return None
        videos: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            facts = record["facts"]
            # The server takes no question without an answer.
            letter = record["answer"] if record["answer"] in facts["options"] else "A"
            answer = {
                "id": facts["question_id"],
                "answer_id": ord(letter) - ord("A"),
                "answer": facts["options"][letter],
            }
            videos.setdefault(facts["video"], []).append(answer)
        return {"submission.json": json.dumps(videos, indent=1) + "\n"}
