"""Gets the questions of a benchmark answered: by a model here, in several processes, or behind an endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from navila.endpoint import Endpoint, EndpointError, UnreachableError, image_part, text_part
from navila.errors import ConfigError, NavilaError, reason

from navila_eval.claims import PAUSE
from navila_eval.questions import Question
from navila_eval.workers import workers

if TYPE_CHECKING:
    from navila.model import NavilaForCausalLM

#: Answers to prompts that are asked together, with settings of generation.
Ask = Callable[[Sequence[Any], Mapping[str, Any]], list[str]]
#: Frames of a video that an endpoint is shown when nothing says how many.
ENDPOINT_FRAMES = 8
#: JPEG quality of images that an endpoint is shown.
JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of asking one question."""

    output: str = ""
    error: str = ""
    """Why there is no answer, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions that are always answered together, so that an answer does not depend on which process gives it."""

    questions: Sequence[Question]
    settings: Mapping[str, Any]
    number: int = 0
    """Its place among those of a run."""


def batches_of(
    questions: Sequence[Question], settings: Mapping[str, Any], size: int, *, sampled_alone: bool = True
) -> list[Batch]:
    """All questions, those of the same settings together, in their order.

    Those whose answers are sampled are asked one by one where `sampled_alone`: in a batch, what is drawn for one
    depends on the others.
    """
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(repr(sorted(question.settings.items())), []).append(question)
    batches: list[Batch] = []
    for group in groups.values():
        own = {**settings, **group[0].settings}
        step = 1 if sampled_alone and own.get("do_sample") else size
        for start in range(0, len(group), step):
            batches.append(Batch(questions=group[start : start + step], settings=own, number=len(batches)))
    return batches


def answer(batch: Batch, ask: Ask) -> list[Outcome]:
    """Ask a batch; where it cannot be asked together, one by one, so that a broken medium costs its own sample only.

    Raises:
        ConfigError: no question can be asked with these settings.
        EndpointError: the endpoint does not answer at all.
    """
    try:
        return [Outcome(output=text) for text in ask([question.prompt for question in batch.questions], batch.settings)]
    except (ConfigError, EndpointError):
        raise
    except (NavilaError, OSError) as error:
        if len(batch.questions) == 1:
            return [Outcome(error=re.sub(r"^Prompt 0: ", "", reason(error)))]
    singles = [Batch(questions=[question], settings=batch.settings) for question in batch.questions]
    return [outcome for single in singles for outcome in answer(single, ask)]


def ask_model(model: NavilaForCausalLM, *, num_frames: int | None, seed: int) -> Ask:
    """Asks a model that is loaded here."""
    import torch

    def ask(prompts: Sequence[Any], settings: Mapping[str, Any]) -> list[str]:
        try:
            return model.generate_contents(prompts, num_video_frames=num_frames, **{"seed": seed, **settings})
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"Memory does not hold a batch of {len(prompts)}: run the command again with a smaller --batch-size."
            ) from None

    return ask


def model_facts(model: NavilaForCausalLM) -> dict[str, Any]:
    """What results say about the model that answered: how it is prompted and in what precision."""
    template = getattr(model, "template", None)
    found = {"template": getattr(template, "name", None)}
    return found | {name: str(getattr(model, name, None)) for name in ("dtype", "device")}


def answer_by_endpoint(
    batches: Iterable[Batch], endpoint: Endpoint, *, threads: int, num_frames: int | None, seed: int
) -> Iterator[tuple[Batch, list[Outcome]]]:
    """Every batch with what came of it, `threads` questions at a time.

    Raises:
        EndpointError: nothing can be asked, or not one question of a batch could be.
    """

    def ask(question: Question, settings: Mapping[str, Any]) -> Outcome | UnreachableError:
        try:
            content = [part for item in question.prompt for part in _endpoint_parts(item, num_frames)]
            message = {"role": "user", "content": content}
            return Outcome(output=endpoint.ask([message], seed=seed, may_be_empty=True, **_endpoint_settings(settings)))
        except (ConfigError, EndpointError):
            raise
        except UnreachableError as error:
            return error
        except (NavilaError, OSError) as error:
            return Outcome(error=reason(error))

    with ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            found = list(pool.map(lambda question, batch=batch: ask(question, batch.settings), batch.questions))
            if isinstance(found[0], UnreachableError) and not any(isinstance(one, Outcome) for one in found):
                raise EndpointError(
                    f"{found[0]} What was answered before is kept: run the same command again to go on."
                )
            yield batch, [one if isinstance(one, Outcome) else Outcome(error=reason(one)) for one in found]


def _endpoint_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "stop": "stop"}
    given = {names[name]: value for name, value in settings.items() if name in names}
    return {"temperature": 1.0 if settings.get("do_sample") else 0.0, **given}


def _endpoint_parts(part: Any, num_frames: int | None) -> list[dict[str, Any]]:
    from navila.images import as_jpeg, read_image
    from navila.model.media import as_pil
    from navila.video import Video, is_video, read_video

    if isinstance(part, str):
        return [text_part(part)]
    if isinstance(part, Path) and is_video(part):
        part = Video(part)
    if isinstance(part, Video):
        count = part.num_frames or num_frames or ENDPOINT_FRAMES
        frames = read_video(part.path, count, fps=part.fps or 0.0, start=part.start, end=part.end)
        return [image_part(as_jpeg(frame, JPEG_QUALITY)) for frame in frames]
    return [image_part(as_jpeg(read_image(part) if isinstance(part, Path) else as_pil(part), JPEG_QUALITY))]


def answer_here(batches: Iterable[Batch], ask: Ask) -> Iterator[tuple[Batch, list[Outcome]]]:
    """Every batch with what came of it, one after the other."""
    for batch in batches:
        yield batch, answer(batch, ask)


class Batches(Protocol):
    """Batches that are handed out one by one."""

    def __len__(self) -> int: ...

    def take(self) -> Batch | None:
        """The next one; None when there is none, or none that is free now."""
        ...


def answer_in_processes(
    batches: Batches,
    load: Callable[[], NavilaForCausalLM],
    *,
    processes: int,
    num_frames: int | None,
    seed: int,
    told: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Iterator[tuple[Batch, list[Outcome]]]:
    """Every batch with what came of it, as it comes: each process takes the next batch when it is free.

    Each loads the model for itself, on a GPU of its own while there are as many.

    Args:
        load: loads the model; it is sent to the processes.
        told: called with the `model_facts` of each process.

    Raises:
        NavilaError: what one of them raised, or one of them died.
    """
    at_work: dict[Any, Batch] = {}
    count = min(processes, len(batches))
    try:
        # Daemons: whoever takes these batches may stop in between and never come back to end them.
        with workers(count, _answer_batches, load, num_frames, seed, daemon=True) as pipes:
            while at_work or len(batches):
                for pipe in pipes:
                    if pipe not in at_work and (batch := batches.take()) is not None:
                        at_work[pipe] = batch
                        pipe.send(batch)
                # Batches that other processes of the run have may become free.
                idle = len(at_work) < count and len(batches)
                ready: list[Any] = wait(list(at_work), timeout=PAUSE if idle else None) if at_work or idle else []
                for pipe in ready:
                    outcomes = pipe.recv()
                    if isinstance(outcomes, Exception):
                        raise outcomes
                    if isinstance(outcomes, dict):
                        told(outcomes)
                    else:
                        yield at_work.pop(pipe), outcomes
    except (EOFError, ConnectionError):
        raise NavilaError(
            "A process that answers questions died, most likely for want of memory: run the same command again to go "
            "on, with a smaller -n or --batch-size."
        ) from None


def _answer_batches(pipe: Connection, load: Callable[[], NavilaForCausalLM], num_frames: int | None, seed: int) -> None:
    """Answer the batches that come through a pipe until it closes; `model_facts` go back first."""
    model = load()
    pipe.send(model_facts(model))
    ask = ask_model(model, num_frames=num_frames, seed=seed)
    while True:
        try:
            batch = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(batch, ask))
