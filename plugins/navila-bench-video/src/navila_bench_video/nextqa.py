"""NExT-QA (Xiao et al., CVPR 2021): open answers scored by WUPS, and five options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

from navila.errors import ConfigError, DataError, MissingDependencyError
from navila_eval.questions import Question, Record, Scores, check_option, find
from navila_eval.rows import read_json, read_rows, reading, text
from navila_eval.scoring.wordnet import HOW_TO_GET, WordNet, find_wordnet
from navila_eval.scoring.wups import content, nextqa_score, nltk_stemmer, nltk_tagger
from navila_eval.wording import with_options

from navila_bench_video.benchmark import ChoiceBenchmark, VideoBenchmark, lettered
from navila_bench_video.categories import NEXTQA
from navila_bench_video.files import find_video, letter_of

GET_OPEN = "download dataset/nextqa of https://github.com/doc-doc/NExT-OE"
GET_CHOICE = "download dataset/nextqa of https://github.com/doc-doc/NExT-QA"
GET_VIDEOS = "download NExT-QA's videos as https://github.com/doc-doc/NExT-QA describes"
#: Video -> its folder and name in VidOR, which the videos may keep.
MAP = "nextqa/map_vid_vidorID.json"


class NextQA(VideoBenchmark):
    """Open answers: the product of the words' likenesses by WordNet, both ways, times 100."""

    profiles: ClassVar[tuple[str, ...]] = ("navila", "next-oe")
    metrics: ClassVar[tuple[str, ...]] = ("wups", *NEXTQA)
    short_answers: ClassVar[int | None] = None
    tiny_sample: ClassVar[Mapping[str, Any]] = {"reference": ["yes"], "facts": {"type": "DB"}}

    def __init__(
        self,
        *,
        prompt: str | None = None,
        profile: str | None = None,
        temperature: float = 0.0,
        alpha: float = 0.0,
        tagger: str = "nltk",
    ) -> None:
        """Choose the wording and the figure.

        Args:
            prompt: wording of the question.
            profile: `navila` scores against the one answer, `next-oe` also against the additional answers of `test`.
            temperature: of sampling; 0 answers greedily.
            alpha: WUPS' threshold; tables have 0.
            tagger: `nltk` as published, or `none`, whose figures differ a little and are to be called so.

        Raises:
            ConfigError: an option is not known.
        """
        super().__init__(prompt=prompt, profile=profile, temperature=temperature)
        check_option("nextqa", "tagger", tagger, ("nltk", "none"))
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise ConfigError(f"alpha is {alpha!r}: give a number from 0 to 1.")
        self.alpha = alpha
        self.tagger = tagger

    @classmethod
    def tiny(cls) -> NextQA:
        benchmark = _Tiny(tagger="none")
        benchmark._tiny = True
        return benchmark

    def load(self, split: str, data_root: Path) -> list[Question]:
        # Before anyone is asked: without a dictionary nothing is scored.
        _ = self.base_forms
        rows = read_rows(find(data_root, f"nextqa/oe/{split}.csv", GET_OPEN), GET_OPEN)
        more = data_root / "nextqa" / "oe" / f"add_reference_answer_{split}.json"
        additional = read_json(more, GET_OPEN) if more.is_file() else {}
        videos = _Videos(data_root)
        questions = []
        for where, row in rows:
            with reading(where, GET_OPEN):
                video, number = text(row, "video"), text(row, "qid")
                asked = text(row, "question")
                if self.prompt == "lmms":
                    asked = f"{asked.strip()}\nAnswer a question using a short phrase or sentence."
                others = [text(additional[video], number)] if number in additional.get(video, {}) else []
                questions.append(
                    Question(
                        id=f"{video}_{number}",
                        prompt=[videos.find(video), asked],
                        reference=[text(row, "answer"), *others],
                        facts={"type": _type(row)},
                    )
                )
        return questions

    def score_sample(self, record: Record) -> dict[str, float]:
        references = record["reference"] if self.profile == "next-oe" else record["reference"][:1]
        kind = record["facts"]["type"]
        score = 0.0
        if record["answer"] is not None:
            given, truths = self.words_of(record["answer"]), [self.words_of(answer) for answer in references]
            score = 100 * nextqa_score(given, truths, kind, self.similarity, self.alpha)
        return {"wups": score, kind[0]: score, kind: score}

    def score(self, records: Sequence[Record]) -> Scores:
        scores = super().score(records)
        return replace(scores, counts={"without_tagger": len(records)}) if self.tagger == "none" else scores

    def words_of(self, answer: str) -> str:
        """Base forms of an answer's words that matter."""
        return content(answer, self.wordnet, *self.base_forms)

    @cached_property
    def similarity(self) -> Callable[[str, str], float]:
        """How alike two words are; the same ones come again and again."""
        return cache(self.wordnet.similarity)

    @cached_property
    def wordnet(self) -> WordNet:
        """WordNet of this machine.

        Raises:
            DataError: there is none.
        """
        found = find_wordnet()
        if found is None:
            raise DataError(HOW_TO_GET)
        return found

    @cached_property
    def base_forms(self) -> tuple[Any, Any]:
        """NLTK's tagger and stemmer, or neither.

        Raises:
            DataError: there is no WordNet.
            MissingDependencyError: NLTK, or its data, are not installed.
        """
        _ = self.wordnet
        if self.tagger == "none":
            return None, None
        tagger, stemmer = nltk_tagger(), nltk_stemmer()
        if tagger is None or stemmer is None:
            raise MissingDependencyError(
                "WUPS as published needs NLTK's tagger: run `pip install 'navila-bench-video[nextqa]'` and `python -m "
                "nltk.downloader averaged_perceptron_tagger_eng`, or score without it by -o tagger=none."
            )
        return tagger, stemmer


class NextQAChoice(ChoiceBenchmark):
    """Five options, in lmms-eval's wording, the only one that is published for models like these."""

    prompts: ClassVar[tuple[str, ...]] = ("lmms",)
    profiles: ClassVar[tuple[str, ...]] = ("lmms", "lmms-random")
    parser: ClassVar[Mapping[str, Any]] = {"lmms": "lmms", "lmms-random": "lmms"}
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", *NEXTQA)

    def load(self, split: str, data_root: Path) -> list[Question]:
        rows = read_rows(find(data_root, f"nextqa/mc/{split}.csv", GET_CHOICE), GET_CHOICE)
        videos = _Videos(data_root)
        questions = []
        for where, row in rows:
            with reading(where, GET_CHOICE):
                options = lettered([text(row, f"a{number}").strip() for number in range(5)])
                prompt = with_options(text(row, "question").strip(), options)
                kind = _type(row)
                questions.append(
                    Question(
                        id=f"{row['video']}_{row['qid']}",
                        prompt=[videos.find(row["video"]), prompt],
                        reference=letter_of(row["answer"], 5),
                        facts={"options": options, "groups": [kind[0], kind]},
                    )
                )
        return questions


class _Videos:
    """Videos by NExT-QA's number, under that name or VidOR's."""

    def __init__(self, data_root: Path) -> None:
        self.folder = find(data_root, "nextqa/videos", GET_VIDEOS)
        self.names = read_json(data_root / MAP, GET_CHOICE) if (data_root / MAP).is_file() else {}

    def find(self, video: str) -> Path:
        return find_video(self.folder, video, *([self.names[video]] if video in self.names else []))


def _type(row: Mapping[str, Any]) -> str:
    kind = "TN" if row["type"] == "TP" else row["type"]
    if kind not in NEXTQA or len(kind) != 2:
        raise ValueError(f"{kind!r} is no type of question")
    return kind


class _Tiny(NextQA):
    """Yes or no, which takes no dictionary."""

    def words_of(self, answer: str) -> str:
        return answer.lower().strip(" .")

    @cached_property
    def wordnet(self) -> Any:
        return _NoDictionary()


class _NoDictionary:
    def similarity(self, first: str, second: str) -> float:
        return float(first == second)
