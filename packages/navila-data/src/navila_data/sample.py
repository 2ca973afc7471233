"""What a dataset yields: a conversation and references to its media, nothing decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from navila.constants import IMAGE_TOKEN
from navila.errors import DataError

from navila_data.media import Medium

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; `<image>` marks the place of each medium."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A training example. The k-th `<image>` of its turns shows `media[k]`; None stands for a black frame.

    A single turn, the assistant's, is a document: a text learned as it stands, without a template around it.

    Raises:
        DataError: the number of `<image>` differs from the number of media, or no turn is to be learned.
    """

    turns: tuple[Turn, ...]
    media: tuple[Medium | None, ...] = ()
    history: int = 0
    """How many of the leading media are history frames of a navigation step."""
    source: str = ""
    """Dataset the sample is from."""
    record: str = ""
    """What names the record in its file, for messages."""
    group: str = ""
    """Samples of one group (an episode, an image) share media."""

    def __post_init__(self) -> None:
        places = sum(turn.text.count(IMAGE_TOKEN) for turn in self.turns)
        if places != len(self.media):
            raise DataError(
                f"{self.source} record {self.record} has {places} <image> in its text and {len(self.media)} media: "
                "mend the record."
            )
        if not any(turn.role == "assistant" for turn in self.turns):
            raise DataError(f"{self.source} record {self.record} has no answer to learn: mend the record.")


def messages(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """The turns as `ConversationTemplate.spans` takes them."""
    return [(turn.role, turn.text) for turn in turns]
