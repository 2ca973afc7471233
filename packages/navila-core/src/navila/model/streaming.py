"""Answers piece by piece: tokens come from a thread that generates, text goes out once it cannot change any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

#: What tokenizers that clean up spaces (`clean_up_tokenization_spaces`) take the space out of.
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class _Tokens(BaseStreamer):
    """New ids on their way out of the thread; then None, or what went wrong."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[list[int] | BaseException | None] = SimpleQueue()

    def put(self, value: Tensor) -> None:
        self.queue.put(value.flatten().tolist())

    def end(self) -> None:
        """The thread says so itself, after what comes behind the last token."""


class _Left(StoppingCriteria):
    """Ends every row once the consumer has left."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.full(input_ids.shape[:1], self.event.is_set(), dtype=torch.bool, device=input_ids.device)


def stream_text(
    generate: Callable[[BaseStreamer, StoppingCriteria], Any],
    answer: Callable[[list[int]], str],
    *,
    stops: Sequence[str],
) -> Iterator[str]:
    """Pieces of an answer; joined, they are `answer(ids)` of all new ids.

    `generate` runs in a thread of its own while the pieces are taken; what it raises is raised here. Closing the
    iterator stops it at the next token and waits for it.

    Args:
        generate: starts the generation with this streamer and this further criterion.
        answer: new ids to text; without the white space around it and what a stop text ends.
        stops: texts that end the answer.
    """
    tokens, left = _Tokens(), _Left()

    def work() -> None:
        try:
            generate(tokens, left)
            tokens.queue.put(None)
        except BaseException as error:
            tokens.queue.put(error)

    thread = threading.Thread(target=work, name="navila-stream", daemon=True)
    ids: list[int] = []
    given = ""
    try:
        thread.start()
        while (news := tokens.queue.get()) is not None:
            if isinstance(news, BaseException):
                raise news
            ids += news
            # All of it each time: decoding from the middle would lose spaces and characters of several tokens.
            text = settled(answer(ids), stops)
            if len(text) > len(given) and text.startswith(given):
                yield text[len(given) :]
                given = text
        if rest := answer(ids)[len(given) :]:
            yield rest
    finally:
        left.event.set()
        if thread.ident is not None:
            thread.join()


def settled(text: str, stops: Sequence[str]) -> str:
    """The beginning of a growing text that stays as it is, whatever comes.

    Left out are white space at the end, a character some of whose bytes are missing, and what may become a stop text or
    be cleaned up.
    """
    text = text.rstrip("\ufffd")
    held = [
        len(text) - length
        for ending in (*stops, *_CLEANED)
        for length in range(1, len(ending))
        if text.endswith(ending[:length])
    ]
    return text[: min(held, default=len(text))].rstrip()
