"""EgoSchema (Mangalam et al., NeurIPS 2023): five options about three minutes of a life; 500 answers are public."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from navila.errors import DataError
from navila_eval.questions import Question, Record, find
from navila_eval.rows import read_json, read_rows, reading, text
from navila_eval.scoring.choices import ChoiceProfile, egoschema_index
from navila_eval.wording import option_lines, with_options

from navila_bench_video.benchmark import ChoiceBenchmark, lettered
from navila_bench_video.files import find_video, letter_of

GET = "get questions.json and subset_answers.json from https://github.com/egoschema/EgoSchema"
GET_VIDEOS = "get the videos as https://github.com/egoschema/EgoSchema describes"


class EgoSchema(ChoiceBenchmark):
    """Split `subset` has answers; `full` makes the file for the server and scores the answers that are public."""

    parser: ClassVar[Mapping[str, ChoiceProfile]] = {
        "navila": "navila",
        "navila-random": "navila",
        "lmms": "lmms-egoschema",
    }
    # NaVILA's script hands its parser no texts of options.
    option_texts: ClassVar[bool] = False

    def load(self, split: str, data_root: Path) -> list[Question]:
        rows = read_rows(find(data_root, "egoschema/questions.json", GET), GET)
        answers_file = find(data_root, "egoschema/subset_answers.json", GET)
        answers = read_json(answers_file, GET)
        if not isinstance(answers, dict):
            raise DataError(f"{answers_file} is no object of answers by q_uid: {GET}.")
        videos = find(data_root, "egoschema/videos", GET_VIDEOS)
        questions = []
        for where, row in rows:
            with reading(where, GET):
                name = text(row, "q_uid")
                options = lettered([row[f"option {number}"] for number in range(5)])
                known = name in answers
                if split == "full" or known:
                    questions.append(
                        Question(
                            id=name,
                            prompt=[find_video(videos, name), self._prompt(text(row, "question"), options)],
                            reference=letter_of(answers[name], 5) if known else None,
                            facts={"options": options, "groups": [], "submit": split == "full"},
                        )
                    )
        lacking = answers.keys() - {question.id for question in questions}
        if lacking:
            raise DataError(f"{answers_file} has an answer to {min(lacking)}, which is no question: {GET}.")
        return questions

    def _prompt(self, question: str, options: Mapping[str, str]) -> str:
        if self.prompt == "lmms":
            return with_options(question, options)
        # As published: nothing divides the first sentence from the question.
        ask = "Watching the video and answer with the option's letter from the given choices directly."
        return ask + "\n".join([question, *option_lines(options)]) + "\n"

    def submission(self, records: Sequence[Record]) -> dict[str, str] | None:
        if not any(record["facts"].get("submit") for record in records):
            return None
        lines = [f"{record['id']},{egoschema_index(record['answer'])}" for record in records]
        return {"submission.csv": "\n".join(["q_uid,answer", *lines]) + "\n"}
