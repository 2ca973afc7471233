"""Captions become questions with answers, or are told in other words, by a language model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from navila.errors import ConfigError, DataError

from navila_data.answering import Answerer, Question, question_key
from navila_data.augmentation import Item, Unreadable, augment
from navila_data.linked_media import files_of
from navila_data.mixture import Mixture
from navila_data.sample import Sample

Task = Literal["cap2qa", "rephrase"]

PROMPTS: dict[Task, str] = {
    "cap2qa": (
        "Below is a description of {what}. Write {questions} questions that someone who looks at {what} could ask, and "
        "the answer to each. Ask only about what the description tells, about different things, and never mention the "
        'description itself. Give nothing but a JSON list like [{{"question": "…", "answer": "…"}}].\n\n{caption}'
    ),
    "rephrase": (
        "Tell the following description of {what} in other words. Keep every fact, add none, and give nothing but the "
        "new description.\n\n{caption}"
    ),
}
#: Words below which a sentence may come twice.
SHORTEST_REPEAT = 3


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """What decides the questions."""

    task: Task = "cap2qa"
    questions: int = 4
    """Questions a caption (cap2qa)."""
    most_failed: float = 0.05
    """Share of the captions without an answer above which the dataset is not called complete."""

    def __post_init__(self) -> None:
        if not 1 <= self.questions <= 50:
            raise ConfigError(f"questions is {self.questions}: give 1 to 50.")
        if not 0 <= self.most_failed <= 1:
            raise ConfigError(f"most_failed is {self.most_failed}: give a share, 0 to 1.")


def caption_to_qa(
    mixture: Mixture,
    data: str,
    output: Path,
    answerer: Answerer,
    settings: CaptionSettings,
    *,
    sampling: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Ask about every caption of a mixture and write a dataset of the answers, or finish one that was interrupted.

    Args:
        mixture: samples whose first answer is a caption.
        data: what the mixture is called.
        output: the folder of the new dataset, of the format `llava` or `video`.
        answerer: who answers.
        settings: what is asked.
        sampling: what else decides the answers.
        progress: told (captions done, captions).

    Returns:
        The manifest that marks the dataset complete; see `augment`, also for what it raises.
    """
    asked = {"task": settings.task, "questions": settings.questions, "model": answerer.name, **sampling}

    def items() -> Iterator[Item | Unreadable]:
        for source, part in enumerate(mixture.parts):
            for index in part.indices:
                try:
                    yield _item(part.dataset[index], source, asked, settings)
                except DataError as error:
                    yield Unreadable(where=f"{part.dataset.name} record {index}", why=str(error))

    return augment(
        items,
        len(mixture),
        {**asked, "data": data},
        output,
        answerer,
        most_failed=settings.most_failed,
        progress=progress,
    )


def _item(sample: Sample, source: int, asked: dict[str, Any], settings: CaptionSettings) -> Item:
    where = f"{sample.source} record {sample.record}"
    if sample.history or any(medium is None for medium in sample.media):
        raise DataError(f"{where} is a navigation step, whose answer is no caption: give captions.")
    kind, files = files_of(sample)
    question, caption = sample.turns[0].text.replace("<image>", "").strip(), without_repeats(sample.turns[1].text)
    what = "a video" if kind == "video" else "several images" if len(files) > 1 else "an image"
    prompt = PROMPTS[settings.task].format(what=what, questions=settings.questions, caption=caption)
    key = question_key({**asked, "prompt": prompt})
    if settings.task == "cap2qa":
        read = partial(read_pairs, most=settings.questions)
        put = Question(key=key, where=where, prompt=prompt, read=read)
        return Item(source=source, kind=kind, files=files, question=put, turns=lambda pairs: pairs)
    put = Question(key=key, where=where, prompt=prompt, read=read_caption)
    return Item(source=source, kind=kind, files=files, question=put, turns=lambda told: [(question, told)])


def read_pairs(text: str, most: int) -> list[list[str]]:
    """The [question, answer] pairs of a JSON list anywhere in an answer, each question once, at most `most`.

    Raises:
        ValueError: there is no such list, or it is empty or malformed.
    """
    start = text.find("[")
    if start < 0:
        raise ValueError("it has no JSON list")
    try:
        entries, _ = json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON is malformed ({str(error)[:100]})") from None
    pairs: dict[str, str] = {}
    for entry in entries:
        question, answer = (entry.get(name) for name in ("question", "answer")) if isinstance(entry, dict) else (0, 0)
        if not isinstance(question, str) or not isinstance(answer, str) or not question.strip() or not answer.strip():
            raise ValueError('an entry is not {"question": text, "answer": text}')
        # Half a character, which JSON can spell, cannot be written.
        question, answer = (t.encode(errors="replace").decode().strip() for t in (question, answer))
        pairs.setdefault(question, without_repeats(answer))
    if not pairs:
        raise ValueError("its list is empty")
    return [[question, answer] for question, answer in pairs.items()][:most]


def read_caption(text: str) -> str:
    """An answer that is a caption, cut where it begins to repeat itself.

    Raises:
        ValueError: it is empty.
    """
    caption = without_repeats(text.encode(errors="replace").decode())
    if not caption:
        raise ValueError("it is empty")
    return caption


def without_repeats(text: str) -> str:
    """A text up to the first sentence that was there before: a model that repeats itself seldom stops."""
    seen: set[str] = set()
    kept = ""
    for piece in re.findall(r".+?(?:[.!?](?=\s)\s*|$)", text.strip(), re.DOTALL):
        sentence = " ".join(piece.lower().split())
        if sentence in seen and len(sentence.split()) >= SHORTEST_REPEAT:
            break
        seen.add(sentence)
        kept += piece
    return kept.strip()
