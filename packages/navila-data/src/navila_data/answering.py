"""Asking a model or an endpoint many questions: in parallel, with every answer kept as it comes."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navila.endpoint import Endpoint, EndpointError, NoAnswerError, UnreachableError, image_part, text_part
from navila.errors import DataError, NavilaError

if TYPE_CHECKING:
    from navila.model.modeling import NavilaForCausalLM
    from PIL.Image import Image

#: How often a question is asked whose answer has the wrong form.
TRIES = 3
#: How often a question is sent as long as the endpoint has never answered: it may not be there at all.
FIRST_ATTEMPTS = 3
#: Questions in a row that could not be asked before nothing more is asked: then the fault is not theirs.
FAILURES_IN_A_ROW = 10


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about one record, and how its answer is read."""

    key: str
    """What the answer depends on, as a hash."""
    where: str
    """Names the record in messages."""
    prompt: str
    read: Callable[[str], Any]
    """The answer as JSON's types.

    Raises:
        ValueError: it has the wrong form; the message says what is wrong with it.
    """
    system: str = ""
    """What the one who answers is told about its task before."""
    images: Callable[[], Sequence[Image]] = tuple
    """What is shown before the prompt.

    Raises:
        DataError: it cannot be decoded.
    """


def question_key(facts: Mapping[str, Any]) -> str:
    """The hash of everything an answer depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


class Answerer(ABC):
    """Who answers."""

    name: str
    """The model, as results tell it."""
    parallel: int = 1
    """Questions asked at a time."""

    @abstractmethod
    def answer(self, prompt: str, images: Sequence[Image], seed: int, *, system: str = "") -> str:
        """The answer to one question.

        Raises:
            NoAnswerError: there is none to this one.
            EndpointError: there is none to any.
        """

    def stop(self) -> None:
        """Give up the questions that wait for another attempt."""
        return None


class EndpointAnswerer(Answerer):
    """An OpenAI-compatible server."""

    def __init__(self, endpoint: Endpoint, *, parallel: int, **settings: Any) -> None:
        self.endpoint = endpoint
        self.name = endpoint.model
        self.parallel = parallel
        self.settings = settings
        self._stopped = threading.Event()
        self._answered = False

    def answer(self, prompt: str, images: Sequence[Image], seed: int, *, system: str = "") -> str:
        from navila.images import as_jpeg

        parts = [*(image_part(as_jpeg(image, 90)) for image in images), text_part(prompt)]
        content = parts if images else prompt
        told = [{"role": "system", "content": system}] if system else []
        messages = [*told, {"role": "user", "content": content}]
        most = self.endpoint.attempts
        endpoint = replace(self.endpoint, attempts=most if self._answered else min(FIRST_ATTEMPTS, most))
        answer = endpoint.ask(messages, wait=self._pause, seed=seed, **self.settings)
        self._answered = True
        return answer

    def stop(self) -> None:
        self._stopped.set()

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise EndpointError("Stopped.")


class ModelAnswerer(Answerer):
    """A model loaded here."""

    def __init__(self, name: str, model: NavilaForCausalLM, *, max_tokens: int, temperature: float) -> None:
        self.name = name
        self.model = model
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {}
        self.settings = {"max_new_tokens": max_tokens, **sampling}

    def answer(self, prompt: str, images: Sequence[Image], seed: int, *, system: str = "") -> str:
        text = f"{system}\n\n{prompt}" if system else prompt
        return self.model.generate_content([*images, text], seed=seed, **self.settings)


class AnswerLog:
    """A JSON Lines file of answers by key, appended to and read where they lie; a kill costs at most the last one."""

    def __init__(self, path: Path) -> None:
        """Open a log, or begin it; a last line that was cut off is dropped.

        Raises:
            DataError: another line is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b")
        self._places: dict[str, int] = {}
        self._file.seek(0)
        place = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                break
            try:
                self._places[json.loads(line)["key"]] = place
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}, line {number}, holds no answer: delete that line and run again.") from None
            place += len(line)
        self._end = place

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        self._file.seek(self._places[key])
        return json.loads(self._file.readline())["answer"]

    def append(self, key: str, answer: Any) -> None:
        """Keep an answer; it is on disk when this returns."""
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._places[key] = self._end
        self._end += len(line)

    def close(self) -> None:
        self._file.close()


def answer_all(
    questions: Iterable[Question],
    answerer: Answerer,
    log: AnswerLog,
    *,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Ask every question that has no answer in the log yet; equal keys are asked once.

    Returns:
        Why there is no answer, by key, of those that failed.

    Raises:
        EndpointError: nothing can be asked, or the endpoint was out of reach for `FAILURES_IN_A_ROW` questions, or the
            first ones; the log keeps what was answered.
    """
    failures: dict[str, str] = {}
    row = 0
    # Where no one answers from the beginning, nobody waits for ten to be given up one after the other.
    most = min(FAILURES_IN_A_ROW, max(2, answerer.parallel))
    todo = _unanswered(questions, log, progress)
    pending: dict[Future[Any], Question] = {}
    pool = ThreadPoolExecutor(answerer.parallel)
    try:
        while True:
            for question in islice(todo, 2 * answerer.parallel - len(pending)):
                pending[pool.submit(_ask, question, answerer)] = question
            if not pending:
                return failures
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                question = pending.pop(future)
                try:
                    log.append(question.key, future.result())
                    row, most = 0, FAILURES_IN_A_ROW
                except EndpointError:
                    raise
                except UnreachableError as error:
                    failures[question.key] = str(error)
                    row += 1
                    if row >= most:
                        raise EndpointError(
                            f"{error} That was question {row} in a row without an answer; what was answered before is "
                            f"kept in {log.path.parent}: run the same command again to go on."
                        ) from None
                except NavilaError as error:
                    failures[question.key] = str(error)
                    row = 0
                progress()
    finally:
        answerer.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        # Answers that came in the meantime were paid for.
        for future, question in pending.items():
            if not future.cancelled() and future.exception() is None:
                log.append(question.key, future.result())


def _unanswered(questions: Iterable[Question], log: AnswerLog, progress: Callable[[], None]) -> Iterator[Question]:
    asked: set[str] = set()
    for question in questions:
        if question.key in log or question.key in asked:
            progress()
            continue
        asked.add(question.key)
        yield question


def _ask(question: Question, answerer: Answerer) -> Any:
    """The answer in its form; one of a wrong form is asked for again, saying what was wrong."""
    images = question.images()
    prompt, problem = question.prompt, ""
    # What is drawn follows from the question alone, whenever and by whomever it is asked.
    seed = int(question.key[:7], 16)
    for number in range(TRIES):
        text = answerer.answer(prompt, images, seed + number, system=question.system)
        try:
            return question.read(text)
        except ValueError as error:
            problem = str(error)
            prompt = f"{question.prompt}\n\nAn earlier answer was of no use: {problem}. Keep to the form asked for."
    raise NoAnswerError(f"{question.where}: {TRIES} answers were of no use, the last because {problem}.")
