"""Wordings that many published prompts share: lists of options, and how an answer is asked for. Light."""

from __future__ import annotations

from collections.abc import Mapping

#: Ends a question with a short answer in lmms-eval and LLaVA.
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
#: Ends a question with options there.
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."


def option_lines(options: Mapping[str, str]) -> list[str]:
    """Options by letter, each a line `A. text`."""
    return [f"{letter}. {text}" for letter, text in options.items()]


def with_options(question: str, options: Mapping[str, str]) -> str:
    """A question, its options by letter, and that a letter answers it (lmms-eval)."""
    return "\n".join([question, *option_lines(options)]) + LETTER_ANSWER
