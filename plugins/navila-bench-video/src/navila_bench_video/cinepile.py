"""CinePile (Rawal et al., 2024): five options about a scene of a film, asked with its subtitles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from navila_eval.questions import Question, find
from navila_eval.rows import read_rows, reading, text
from navila_eval.scoring.choices import CINEPILE_CATEGORIES

from navila_bench_video.benchmark import ChoiceBenchmark, lettered
from navila_bench_video.categories import CINEPILE
from navila_bench_video.files import find_rows, find_video, letter_of

GET = "download the Parquet files of the split test from https://huggingface.co/datasets/tomg-group-umd/cinepile"
GET_VIDEOS = "download the clips that its questions link to from YouTube, as ID.mp4"
#: Where they lie, as they are or as the Hub has them.
FILES = ("test*.parquet", "v2/test*.parquet", "data/test*.parquet", "test*.jsonl")

_ASK = (
    "You will be provided with subtitles from a specific scene of a movie and a few frames from that scene. After "
    "going through the movie scene and seeing the frames, please answer the question that follows. The question will "
    "have five possible answers labeled A, B, C, D, and E, please try to provide the most probable answer in your "
    "opinion. Your output should be just one of A,B,C,D,E and nothing else.\n\n"
    "**Subtitles:** \n{subtitles}\n\nQuestion: {question}"
)


class CinePile(ChoiceBenchmark):
    """The categories' names are broken over two lines in the data."""

    prompts: ClassVar[tuple[str, ...]] = ("navila",)
    profiles: ClassVar[tuple[str, ...]] = ("navila", "navila-random")
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", *CINEPILE)
    # NaVILA's script hands its parser no texts of options.
    option_texts: ClassVar[bool] = False

    def load(self, split: str, data_root: Path) -> list[Question]:
        paths = find_rows(find(data_root, "cinepile", GET), FILES, GET)
        videos = find(data_root, "cinepile/videos", GET_VIDEOS)
        questions = []
        for path in paths:
            for where, row in read_rows(path, GET):
                with reading(where, GET):
                    questions.append(self._question(row, f"{len(questions)}", videos))
        return questions

    def _question(self, row: Mapping[str, Any], number: str, videos: Path) -> Question:
        options = lettered(row["choices"])
        listed = "".join(f"\n- {letter}) {option}" for letter, option in options.items())
        prompt = _ASK.format(subtitles=text(row, "subtitles"), question=text(row, "question") + listed)
        video = text(row, "yt_clip_link").rpartition("watch?v=")[2]
        category = CINEPILE_CATEGORIES.get(text(row, "question_category"))
        return Question(
            id=f"{number}-{video}",
            prompt=[find_video(videos, video), prompt],
            reference=letter_of(row["answer_key_position"], len(options)),
            facts={"options": options, "groups": [category] if category else []},
        )
