"""Video-MME (Fu et al., CVPR 2025): four options about videos of seconds to an hour, with and without subtitles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from navila.errors import ConfigError, NavilaError
from navila_eval.questions import Question, Record, find
from navila_eval.rows import read_rows, reading, text
from navila_eval.scoring.choices import videomme_choice
from navila_eval.wording import LETTER_ANSWER

from navila_bench_video.benchmark import ChoiceBenchmark
from navila_bench_video.categories import VIDEOMME
from navila_bench_video.files import find_rows, find_video

GET = "download videomme/test-00000-of-00001.parquet from https://huggingface.co/datasets/lmms-lab/Video-MME"
GET_VIDEOS = "unpack the videos_chunked_*.zip of https://huggingface.co/datasets/lmms-lab/Video-MME"
GET_SUBTITLES = "unpack subtitle.zip of https://huggingface.co/datasets/lmms-lab/Video-MME"
#: Where they lie, as they are or as the Hub has them; the last is the list of videos that NaVILA's script reads.
FILES = ("test*.parquet", "videomme/test*.parquet", "test*.jsonl", "Video-MME.json")

_SELECT = (
    "Select the best answer to the following multiple-choice question based on the video{}. Respond with only the "
    "letter (A, B, C, or D) of the correct option."
)
_WITH_SUBTITLES = _SELECT.format(" and the subtitles")
_TIME = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+)\s*-->\s*(\d+):(\d+):(\d+)[,.](\d+)")


class VideoMME(ChoiceBenchmark):
    """Answers without a letter are wrong in `accuracy_all` and its parts, and left out of `accuracy_answered`."""

    profiles: ClassVar[tuple[str, ...]] = ("videomme",)
    metrics: ClassVar[tuple[str, ...]] = ("accuracy_all", "accuracy_answered", *VIDEOMME.values())
    tables: ClassVar[Mapping[str, str]] = {"Accuracy by sub-category": "sub_category"}

    def load(self, split: str, data_root: Path) -> list[Question]:
        paths = find_rows(find(data_root, "videomme", GET), FILES, GET)
        videos = find(data_root, "videomme/data", GET_VIDEOS)
        subtitles = self.subtitles(data_root)
        questions = []
        for path in paths:
            for where, row in read_rows(path, GET):
                with reading(where, GET):
                    for asked in _questions_of(row):
                        video = find_video(videos, asked["videoID"])
                        prompt = self.wording(text(asked, "question"), _options(asked), subtitles(video))
                        questions.append(_question(asked, video, prompt))
        return questions

    def subtitles(self, data_root: Path) -> Callable[[Path], str]:
        """What is told of a video: nothing here."""
        return lambda video: ""

    def wording(self, question: str, options: Sequence[str], told: str) -> str:
        """What is asked besides the video."""
        if self.prompt == "lmms":
            # It speaks of subtitles and shows the list of options as Python does.
            return f"{_WITH_SUBTITLES}\n{question}\n{list(options)}\n{LETTER_ANSWER}"
        # As published, with the space before and the line's end after it.
        return f" {_SELECT.format('')}\n{question}\n" + "\n".join(options) + "\nThe best answer is:\n"

    def parse(self, record: Record) -> str | None:
        return videomme_choice(record["output"])

    def score_sample(self, record: Record) -> dict[str, float]:
        right = 100.0 * (record["answer"] == record["reference"])
        answered = {} if record["answer"] is None else {"accuracy_answered": right}
        return {"accuracy_all": right, **answered, **{name: right for name in record["facts"]["groups"]}}


class VideoMMESubtitles(VideoMME):
    """The same questions with what is said, in Video-MME's own wording."""

    asks_by = ("prompt", "temperature", "subtitle_frames")

    def __init__(
        self,
        *,
        prompt: str | None = None,
        profile: str | None = None,
        temperature: float = 0.0,
        subtitle_frames: int | None = None,
    ) -> None:
        """Choose as without subtitles, and which are shown.

        Args:
            prompt: wording of the question.
            profile: rules of the score.
            temperature: of sampling; 0 answers greedily.
            subtitle_frames: only what is said at so many evenly spread frames, as lmms-eval has it with 32; else all.

        Raises:
            ConfigError: an option is out of range.
        """
        super().__init__(prompt=prompt, profile=profile, temperature=temperature)
        if subtitle_frames is not None and (type(subtitle_frames) is not int or subtitle_frames < 1):
            raise ConfigError(f"subtitle_frames is {subtitle_frames!r}: give a number of frames, or leave it out.")
        self.subtitle_frames = subtitle_frames

    def subtitles(self, data_root: Path) -> Callable[[Path], str]:
        folder = find(data_root, "videomme/subtitle", GET_SUBTITLES)

        @cache
        def told(video: Path) -> str:
            path = folder / f"{video.stem}.srt"
            if not path.is_file():
                return "No subtitles available"
            lines = list(read_subtitles(path))
            if self.subtitle_frames is not None:
                times = _frame_times(video, self.subtitle_frames)
                lines = [line for line in lines if any(line[0] <= time < line[1] for time in times)]
            return "\n".join(said for _, _, said in lines if said)

        return told

    def wording(self, question: str, options: Sequence[str], told: str) -> str:
        lmms = self.prompt == "lmms"
        head = f"This video's subtitles are listed below:{' ' if lmms else ''}\n{told}\n{_WITH_SUBTITLES}"
        listed = str(list(options)) if lmms else "\n".join(options)
        return f"{head}\n{question}\n{listed}\nThe best answer is:"


def read_subtitles(path: Path) -> Iterator[tuple[float, float, str]]:
    """Start and end in s and words of each subtitle of an .srt file, without their markup."""
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8-sig", errors="replace").replace("\r", "")):
        head, _, rest = block.partition("-->")
        line, _, said = rest.partition("\n")
        match = _TIME.search(f"{head}-->{line}")
        if match:
            h, m, s, ms, *end = map(int, match.groups())
            words = " ".join(re.sub(r"<[^>]*>", "", said).split())
            yield h * 3600 + m * 60 + s + ms / 1000, end[0] * 3600 + end[1] * 60 + end[2] + end[3] / 1000, words


def _frame_times(video: Path, count: int) -> list[float]:
    """Seconds of evenly spread frames, rounded down as NumPy does; none of a video that cannot be read."""
    from navila.video import frame_index

    try:
        seconds = frame_index(video).seconds
    except NavilaError:
        # Its questions cannot be asked either, which the run tells of.
        return []
    last = len(seconds) - 1
    return [seconds[int(last * number / max(count - 1, 1))] for number in range(count)]


def _questions_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The questions of a row: it is one, or a video of NaVILA's list that has some."""
    if "questions" not in row:
        return [row]
    video = {
        "videoID": text(row, "url").rpartition("?v=")[2],
        "duration": row["duration_category"],
        "domain": row["video_category"],
        "sub_category": row.get("video_subcategory"),
    }
    return [{**video, **asked, "options": asked["choices"]} for asked in row["questions"]]


def _options(asked: Mapping[str, Any]) -> list[str]:
    options = [str(option) for option in asked["options"]]
    if len(options) != 4:
        raise ValueError(f"it has {len(options)} options, not 4")
    return options


def _question(asked: Mapping[str, Any], video: Path, prompt: str) -> Question:
    if asked["answer"] not in tuple("ABCD"):
        raise ValueError(f"the answer is {asked['answer']!r}, not A, B, C or D")
    categories = [asked["duration"], asked["domain"], asked["task_type"]]
    return Question(
        id=str(asked["question_id"]),
        prompt=[video, prompt],
        reference=asked["answer"],
        facts={
            "groups": [VIDEOMME[category] for category in categories if category in VIDEOMME],
            "sub_category": asked.get("sub_category"),
        },
    )
