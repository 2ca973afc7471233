"""`navila infer --batch`: a file of questions to a file of answers, which an interrupted run goes on with."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from navila.cli.asking import load_for
from navila.errors import ConfigError, DataError, NavilaError

if TYPE_CHECKING:
    from navila.model.media import Part
    from navila.model.modeling import NavilaForCausalLM

_FIELDS = ("question", "images", "videos", "id")
#: Seconds between two lines of progress where stderr is no terminal.
_PAUSE = 10.0


def answer_file(
    questions: Path,
    output: Path,
    loading: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    num_frames: int | None,
    fps: float | None,
    batch_size: int,
) -> None:
    """Append an answer to `output` for every line of `questions` that has none there yet.

    What cannot be answered is told on stderr with its line and left out, so that the next run tries it again.

    Raises:
        ConfigError: the questions cannot be read, or `output` holds answers of other questions, models or settings.
        DataError: some questions could not be answered; the others were.
    """
    if not questions.is_file():
        raise ConfigError(f"{questions} does not exist: check the path given to --batch.")
    how = {**loading, **settings, "num_frames": num_frames, "fps": fps}
    lines = {
        number: (line, _key(line, how))
        for number, line in enumerate(questions.read_bytes().splitlines(), 1)
        if line.strip()
    }
    done = _answered(output, {number: key for number, (_, key) in lines.items()})
    todo = [number for number in lines if number not in done]
    if not todo:
        click.echo(f"{output} has all {len(lines)} answers.", err=True)
        return
    model = load_for(loading)
    failed = 0
    progress = _Counter(len(lines), len(done))
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        for start in range(0, len(todo), batch_size):
            group = todo[start : start + batch_size]
            asked: dict[int, tuple[dict[str, Any], list[Part]]] = {}
            errors: dict[int, NavilaError] = {}
            for number in group:
                try:
                    asked[number] = _question(lines[number][0], questions.parent)
                except NavilaError as error:
                    errors[number] = error
            prompts = {number: parts for number, (_, parts) in asked.items()}
            answers, unanswered = _answers(model, prompts, num_video_frames=num_frames, fps=fps, **settings)
            for number, error in sorted((errors | unanswered).items()):
                progress.clear()
                click.echo(f"{questions}, line {number}: {error}", err=True)
            failed += len(errors) + len(unanswered)
            records = [
                {"line": number, **asked[number][0], "answer": text, "key": lines[number][1]}
                for number, text in answers.items()
            ]
            # One write a group: what a kill leaves is whole lines and at most a part of one, which the next run drops.
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
            file.flush()
            os.fsync(file.fileno())
            progress.advance(len(group), failed)
    progress.clear()
    click.echo(f"{len(lines) - failed} of {len(lines)} answers are in {output}.", err=True)
    if failed:
        raise DataError(
            f"{failed} of {len(lines)} questions of {questions} have no answer: mend them and run it again."
        )


def _answers(
    model: NavilaForCausalLM, prompts: Mapping[int, list[Part]], **settings: Any
) -> tuple[dict[int, str], dict[int, NavilaError]]:
    """Answers and errors by line: all in one batch, or one by one where one of them is in the way."""
    try:
        return dict(zip(prompts, model.generate_contents(list(prompts.values()), **settings), strict=True)), {}
    except NavilaError:
        pass
    answers: dict[int, str] = {}
    errors: dict[int, NavilaError] = {}
    for number, prompt in prompts.items():
        try:
            answers[number] = model.generate_content(prompt, **settings)
        except NavilaError as error:
            errors[number] = error
    return answers, errors


def _question(line: bytes, folder: Path) -> tuple[dict[str, Any], list[Part]]:
    """What a line says that goes into the answer's record, and the parts of the message.

    Raises:
        DataError: it is no JSON object of the right fields, or a file is missing.
    """
    from navila.video import Video

    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"it is no JSON ({error}): mend it.") from None
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise DataError('it has no text "question": write {"question": "…"}.')
    unknown = [name for name in record if name not in _FIELDS]
    if unknown:
        raise DataError(f"it has a field {unknown[0]!r}: use {', '.join(_FIELDS)}.")
    parts: list[Part] = []
    for field, part in (("images", Path), ("videos", Video)):
        paths = record.get(field, [])
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise DataError(f'its "{field}" are no list of paths: write ["…"].')
        parts += [part(folder / path) for path in paths]
    told = {name: record[name] for name in ("id", "question") if name in record}
    return told, [*parts, record["question"]]


def _key(line: bytes, how: Mapping[str, Any]) -> str:
    """What an answer depends on, as a short hash."""
    return hashlib.sha256(line + json.dumps(how, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _answered(output: Path, keys: Mapping[int, str]) -> set[int]:
    """Lines that have their answer; a last line that was cut off is dropped from the file.

    Raises:
        ConfigError: an answer is not of these questions, this model and these settings.
    """
    if not output.exists():
        return set()
    content = output.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    done: set[int] = set()
    for line in whole.splitlines():
        try:
            record = json.loads(line)
            number, key = record["line"], record["key"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{output} holds a line that is no answer: give another --output.") from None
        if keys.get(number) != key:
            raise ConfigError(
                f"{output} holds an answer to line {number} of other questions, or of another model or other settings: "
                "give another --output."
            )
        done.add(number)
    if len(whole) < len(content):
        os.truncate(output, len(whole))
    return done


class _Counter:
    """How many questions are done, on stderr: in place on a terminal, else a line every now and then."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.terminal = sys.stderr.isatty()
        self.told = time.monotonic()

    def advance(self, number: int, failed: int) -> None:
        self.done += number
        text = f"{self.done} of {self.total} questions, {failed} without an answer"
        if self.terminal:
            click.echo(f"\r{text}\x1b[K", nl=False, err=True)
        elif time.monotonic() - self.told > _PAUSE:
            self.told = time.monotonic()
            click.echo(text, err=True)

    def clear(self) -> None:
        if self.terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
