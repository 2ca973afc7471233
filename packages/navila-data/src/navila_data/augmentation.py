"""A dataset written by a model about media that are there: asked for, resumed, counted and marked complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from navila.errors import DataError
from navila.tokenization import escape_user_text

from navila_data.answering import Answerer, AnswerLog, Question, answer_all
from navila_data.job_folder import JobFolder, write_annotations
from navila_data.linked_media import LINKS, LinkedMedia

#: What was answered so far, until the dataset is complete.
ANSWERS = "answers.jsonl"
_MARKS = {"image": "<image>\n", "video": "<video>\n", "": ""}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One record to be: what it shows, what is asked about that, and what becomes of the answer."""

    source: int
    """Files of one source share a link."""
    kind: str
    """`image`, `video` or empty."""
    files: tuple[Path, ...]
    question: Question
    turns: Callable[[Any], Sequence[tuple[str, str]]]
    """The (question, answer) pairs of the record, from the answer."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A record of the source that nothing can be asked about."""

    where: str
    why: str


def augment(
    items: Callable[[], Iterable[Item | Unreadable]],
    total: int,
    facts: dict[str, Any],
    output: Path,
    answerer: Answerer,
    *,
    most_failed: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Ask about every item and write a dataset of the answers, or finish one that was interrupted.

    Args:
        items: yields the same `total` items whenever it is called.
        total: their number.
        facts: everything else that decides the answers.
        output: the folder of the new dataset, of the format `llava` or `video`.
        answerer: who answers.
        most_failed: share of the items without an answer above which the dataset is not called complete.
        progress: told (items done, items).

    Returns:
        The manifest that marks the dataset complete; `failed` lists the items without an answer.

    Raises:
        ConfigError: `output` holds something else.
        EndpointError: the endpoint answers nothing; what was answered is kept.
        DataError: media are of different kinds, or too many items failed.
    """
    job = JobFolder(output, "augmentation", facts, scratch=(ANSWERS,))
    finished = job.finished()
    if finished is not None:
        progress(total, total)
        return finished
    answers = output / ANSWERS
    job.claim(begun=answers.exists() and answers.stat().st_size > 0, leftovers=(LINKS,))
    media = LinkedMedia(output)
    kinds: set[str] = set()
    unreadable: dict[str, str] = {}
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    def questions() -> Iterator[Question]:
        for item in items():
            if isinstance(item, Unreadable):
                unreadable[item.where] = item.why
                one_more()
                continue
            media.see(item.source, item.files)
            kinds.update({item.kind} - {""})
            if len(kinds) > 1:
                raise DataError("The data hold images and videos: augment them one after the other.")
            yield item.question

    failed: list[dict[str, str]] = []

    def records() -> Iterator[str]:
        for number, item in enumerate(items()):
            if isinstance(item, Unreadable):
                failed.append({"record": item.where, "why": item.why})
            elif item.question.key in failures:
                failed.append({"record": item.question.where, "why": failures[item.question.key]})
            else:
                yield json.dumps(_record(number, item, log[item.question.key], media), ensure_ascii=False)

    log = AnswerLog(answers)
    try:
        failures = answer_all(questions(), answerer, log, progress=one_more) | unreadable
        if len(failures) > most_failed * total:
            raise DataError(
                f"{len(failures)} of {total} have no answer, one because: {next(iter(failures.values()))} Run the same "
                "command again to ask for them once more, or allow more with --max-failed."
            )
        count = write_annotations(output, records())
    finally:
        log.close()
    media.link()
    return job.complete(
        {
            "format": "video" if kinds == {"video"} else "llava",
            "records": count,
            "failed": failed,
            "versions": {"navila-data": version("navila-data")},
        }
    )


def _record(number: int, item: Item, answer: Any, media: LinkedMedia) -> dict[str, Any]:
    names = [media.name(item.source, file) for file in item.files]
    mark = _MARKS[item.kind] * len(names)
    conversations = []
    for question, told in item.turns(answer):
        asked = mark + escape_user_text(question)
        conversations += [{"from": "human", "value": asked}, {"from": "gpt", "value": escape_user_text(told)}]
        mark = ""
    shown: dict[str, Any] = {item.kind: names[0] if len(names) == 1 else names} if names else {}
    return {"id": str(number), **shown, "conversations": conversations}
