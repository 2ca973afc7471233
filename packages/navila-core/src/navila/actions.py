"""The action language: answers the model gives, the primitives they stand for, and the way back.

Primitives are numbered as in habitat: 0 stop, 1 forward 25 cm, 2 turn left 15 degrees, 3 turn right 15 degrees.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from navila.errors import ConfigError, DataError

STOP, FORWARD, LEFT, RIGHT = range(4)

Kind = Literal["stop", "forward", "left", "right"]
Profile = Literal["lenient", "strict"]
#: How answers are decoded, greedily: over the whole vocabulary, or over the ten `LEGAL_ANSWERS`.
Decoding = Literal["free", "grammar"]
Status = Literal["ok", "default-magnitude", "snapped", "out-of-range", "unparsed"]

KINDS: tuple[Kind, ...] = ("stop", "forward", "left", "right")
#: Centimetres or degrees one primitive covers, by primitive.
UNITS = (0, 25, 15, 15)
#: Primitives the longest answer of the training data stands for: 75 cm, 45 degrees.
MAX_RUN = 3
#: An answer is cut to so many primitives; an episode ends after 500, so no score changes, and a model that answers
#: "move forward 99999999999 cm" cannot exhaust the memory.
MAX_PRIMITIVES = 10_000

STOP_ANSWER = "I think I should stop because I have finished the instruction."
#: The other way the release says stop.
SHORT_STOP_ANSWER = "The next action is stop."

_ANSWERS = (
    STOP_ANSWER,
    "The next action is move forward {} cm.",
    "The next action is turn left {} degree.",
    "The next action is turn right {} degree.",
)


@dataclass(frozen=True, kw_only=True)
class Action:
    """One decision of the model."""

    primitives: tuple[int, ...]
    """What to execute, in order; never empty."""
    kind: Kind
    magnitude: int
    """Centimetres or degrees that `primitives` cover; 0 for stop."""
    text: str
    """What the model said, cleaned."""
    status: Status = "ok"
    """`ok`; `default-magnitude`: no readable amount, so one primitive; `snapped`: the amount was moved to the nearest
    legal one; `out-of-range`: a multiple beyond 75 cm or 45 degrees, executed as said; `unparsed`: no action found,
    so one step forward."""


def parse(text: str, profile: Profile = "lenient") -> Action:
    """Read an action from the model's answer.

    Args:
        text: decoded answer.
        profile: `lenient` reads as NaVILA's evaluation does, for comparable numbers: `stop` anywhere wins, then
            `is move forward`, `is turn left`, `is turn right`. `strict` accepts exactly one sentence of the training
            data's grammar, and moves its amount to the nearest legal one.

    Returns:
        The action; with status `unparsed` and one step forward where there is none to read.

    Raises:
        ConfigError: there is no such profile.
    """
    if profile not in ("lenient", "strict"):
        raise ConfigError(f"There is no parse profile {profile!r}: use 'lenient' or 'strict'.")
    cleaned = clean(text)
    return _parse_strict(cleaned) if profile == "strict" else _parse_lenient(cleaned)


def clean(text: str) -> str:
    """Strip white space and a trailing `<|eot_id|>`."""
    return text.strip().removesuffix("<|eot_id|>").strip()


# First hit wins, and the amounts are case-sensitive where the action words are not: the order and spelling that
# published numbers were parsed with.
_LENIENT = (
    (re.compile(r"\bstop\b", re.IGNORECASE), None),
    (re.compile(r"\bis move forward\b", re.IGNORECASE), re.compile(r"move forward (\d+) cm")),
    (re.compile(r"\bis turn left\b", re.IGNORECASE), re.compile(r"turn left (\d+) degree")),
    (re.compile(r"\bis turn right\b", re.IGNORECASE), re.compile(r"turn right (\d+) degree")),
)


def _parse_lenient(text: str) -> Action:
    for primitive, (words, amount) in enumerate(_LENIENT):
        if not words.search(text):
            continue
        if amount is None:
            return _stop(text)
        match = amount.search(text)
        if match is None:
            return _action(primitive, 1, text, "default-magnitude")
        unit = UNITS[primitive]
        value = _amount(match[1])
        if value % unit:
            return _action(primitive, _nearest_count(value, unit), text, "snapped")
        count = value // unit
        if count == 0:
            return _action(primitive, 1, text, "snapped")
        return _action(primitive, min(count, MAX_PRIMITIVES), text, "ok" if count <= MAX_RUN else "out-of-range")
    return _unparsed(text)


_STRICT = re.compile(
    r"The next action is (?:(?P<forward>move forward) (?P<cm>[0-9]+) cm"
    r"|turn (?P<side>left|right) (?P<degree>[0-9]+) degrees?)\.?"
)
_STRICT_STOPS = {answer.removesuffix(".") for answer in (STOP_ANSWER, SHORT_STOP_ANSWER)}


def _parse_strict(text: str) -> Action:
    if text.removesuffix(".") in _STRICT_STOPS:
        return _stop(text)
    match = _STRICT.fullmatch(text)
    if match is None:
        return _unparsed(text)
    primitive = FORWARD if match["forward"] else LEFT if match["side"] == "left" else RIGHT
    value = _amount(match["cm"] or match["degree"])
    if value == 0:
        return _unparsed(text)
    count = _nearest_count(value, UNITS[primitive])
    return _action(primitive, count, text, "ok" if count * UNITS[primitive] == value else "snapped")


def _amount(digits: str) -> int:
    """Value of a run of digits, without the cost of numbers beyond any sense."""
    return int(digits[-18:]) if len(digits) <= 18 else 10**18


def _nearest_count(value: int, unit: int) -> int:
    """Number of units (1 to 3) nearest to `value`; there are no ties between integers and multiples of 25 or 15."""
    return min(range(1, MAX_RUN + 1), key=lambda count: abs(count * unit - value))


def _action(primitive: int, count: int, text: str, status: Status) -> Action:
    return Action(
        primitives=(primitive,) * count,
        kind=KINDS[primitive],
        magnitude=count * UNITS[primitive],
        text=text,
        status=status,
    )


def _stop(text: str) -> Action:
    return _action(STOP, 1, text, "ok")


def _unparsed(text: str) -> Action:
    return _action(FORWARD, 1, text, "unparsed")


def action_answer(kind: Kind, magnitude: int = 0) -> str:
    """Sentence of the training data for an action.

    Args:
        kind: `stop`, `forward`, `left` or `right`.
        magnitude: 25, 50 or 75 cm; 15, 30 or 45 degrees; ignored for `stop`.

    Raises:
        DataError: the training data has no such sentence.
    """
    if kind not in KINDS:
        raise DataError(f"There is no action {kind!r}; use one of {', '.join(KINDS)}.")
    primitive = KINDS.index(kind)
    if primitive == STOP:
        return STOP_ANSWER
    legal = [UNITS[primitive] * count for count in range(1, MAX_RUN + 1)]
    if magnitude not in legal:
        raise DataError(f"There is no answer for {kind} {magnitude}; use one of {', '.join(map(str, legal))}.")
    return _ANSWERS[primitive].format(magnitude)


#: Every answer of the released training data: 3 forward, 3 left, 3 right, stop.
LEGAL_ANSWERS: tuple[str, ...] = (
    *(action_answer(KINDS[p], UNITS[p] * n) for p in (FORWARD, LEFT, RIGHT) for n in range(1, MAX_RUN + 1)),
    STOP_ANSWER,
)
#: What each of `LEGAL_ANSWERS` stands for, in the same order.
LEGAL_ACTIONS: tuple[Action, ...] = tuple(parse(answer, "strict") for answer in LEGAL_ANSWERS)


def split_runs(primitives: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Cut a sequence of primitives into the runs that one answer each can name: equal ones, at most 3; stop alone.

    Raises:
        DataError: a number is no primitive.
    """
    runs: list[tuple[int, ...]] = []
    for primitive in primitives:
        if primitive not in (STOP, FORWARD, LEFT, RIGHT):
            raise DataError(f"{primitive!r} is no primitive; use 0 stop, 1 forward, 2 turn left, 3 turn right.")
        run = runs[-1] if runs else ()
        if primitive != STOP and primitive in run and len(run) < MAX_RUN:
            runs[-1] = (*run, primitive)
        else:
            runs.append((primitive,))
    return tuple(runs)


def answer_for_primitives(primitives: Sequence[int]) -> str:
    """Sentence for what comes first in a sequence of primitives: its leading run, at most 75 cm or 45 degrees.

    Raises:
        DataError: the sequence is empty or holds something else than primitives.
    """
    if not primitives:
        raise DataError("There is no answer for an empty sequence of primitives; pass at least one.")
    run = split_runs(primitives)[0]
    return action_answer(KINDS[run[0]], UNITS[run[0]] * len(run))
