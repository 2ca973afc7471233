"""Conversations as LLaVA's JSON spells them, whatever they are about."""

from __future__ import annotations

from collections.abc import Mapping

from navila.errors import DataError

from navila_data.records import Record, require_unicode
from navila_data.sample import Role, Turn

ROLES: Mapping[str, Role] = {"human": "user", "gpt": "assistant"}


def read_conversation(record: Record, where: str) -> tuple[Turn, ...]:
    """The turns at `conversations`, `{"from": "human" or "gpt", "value": text}` each, as they stand there.

    A turn of `gpt` in front is left out, as in NaVILA's training; an answer may be a number.

    Raises:
        DataError: they are malformed, or the speakers do not take turns.
    """
    conversation = record.get("conversations")
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise DataError(f'{where}: "conversations" must be a list of turns; mend the record.')
    turns = []
    for number, turn in enumerate(conversation):
        speaker, text = turn.get("from"), turn.get("value")
        if speaker == "gpt" and isinstance(text, int | float) and not isinstance(text, bool):
            text = str(text)
        if not isinstance(speaker, str) or speaker not in ROLES or not isinstance(text, str):
            raise DataError(
                f'{where}, turn {number}: needs "from" (human or gpt) and a text "value", got {speaker!r} and {text!r}.'
            )
        turns.append(Turn(ROLES[speaker], require_unicode(text, where)))
    if turns and turns[0].role == "assistant":
        turns = turns[1:]
    if any(turn.role != ("assistant" if number % 2 else "user") for number, turn in enumerate(turns)):
        raise DataError(f"{where}: human and gpt must take turns, beginning with human; mend the record.")
    return tuple(turns)
