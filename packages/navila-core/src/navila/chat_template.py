"""Conversations in the words of a tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from navila.conversation import ROLES, Message, Span
from navila.errors import ConfigError, DataError


class ChatTemplate:
    """A tokenizer's own chat template (Jinja), as a `navila.conversation.Template` named `auto`.

    Where the answers stand in the prompt is found by rendering the conversation with place holders instead of them.
    """

    name = "auto"

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a tokenizer, which stays as it is.

        Raises:
            ConfigError: the tokenizer has no chat template, or one that fails on a plain question and answer.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "The tokenizer has no chat template; name another conversation template in the model's config.json."
            )
        self._tokenizer = tokenizer
        question = ("user", "?")
        self.generation_prompt = self.render([question, ("assistant", None)]).removeprefix(self.render([question]))
        _, self._end = self._around_answers([question, ("assistant", "")], None)
        self.stop_strings: tuple[str, ...] = (self._end.strip(),) if self._end.strip() else ()

    def render(self, messages: Sequence[Message], *, system: str | None = None) -> str:
        """Render (role, text) pairs; a last ("assistant", None) leaves the slot open, `system` goes in front.

        Raises:
            DataError: a role is unknown or a message has no text.
            ConfigError: the template cannot render the conversation.
        """
        turns = [{"role": role, "content": text} for role, text in _checked(messages)]
        is_open = len(messages) > len(turns)
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        try:
            # Templates of models that can think aloud (Qwen 3) close the thought before the answer; others ignore it.
            return self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=is_open, enable_thinking=False
            )
        except Exception as error:  # whatever the template's own code raises
            raise ConfigError(
                f"The tokenizer's chat template cannot render the conversation ({error}); mend it or name another "
                "conversation template in the model's config.json."
            ) from error

    def spans(self, messages: Sequence[Message], *, system: str | None = None) -> list[Span]:
        """Render messages to spans; joined, they are `render(messages)`.

        Raises:
            DataError: as `render`.
            ConfigError: as `render`, or the template rewrites what the assistant says, so that it cannot be found.
        """
        prompt = self.render(messages, system=system)
        around = self._around_answers(messages, system)
        answers = [text for role, text in _checked(messages) if role == "assistant"]
        # Many templates trim the answers.
        for said in (answers, [answer.strip() for answer in answers]):
            spans = [Span(around[0])]
            for answer, after in zip(said, around[1:], strict=True):
                stop = _common_prefix(after, self._end)
                spans += [Span(answer, "answer"), Span(stop, "stop"), Span(after[len(stop) :])]
            if "".join(span.text for span in spans) == prompt:
                return [span for span in spans if span.text]
        raise ConfigError(
            "The tokenizer's chat template rewrites assistant messages, so their tokens cannot be told for training; "
            "name another conversation template in the model's config.json."
        )

    def _around_answers(self, messages: Sequence[Message], system: str | None) -> list[str]:
        """The prompt's text before, between and after the answers."""
        # A private use character: templates neither have nor trim it, but a text might have it.
        said = "".join(text for _, text in _checked(messages))
        holder = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in said)
        held = [
            (role, holder if ROLES.get(role) == "assistant" and text is not None else text) for role, text in messages
        ]
        return self.render(held, system=system).split(holder)


def _checked(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """The messages that have text, roles by their usual names; all but an open slot at the end must have one."""
    turns: list[tuple[str, str]] = []
    for number, (role, text) in enumerate(messages):
        if role not in ROLES:
            raise DataError(f"Message {number} is from {role!r}; use 'user' or 'assistant'.")
        if isinstance(text, str):
            turns.append((ROLES[role], text))
        elif text is not None or ROLES[role] != "assistant" or number != len(messages) - 1:
            raise DataError(f"Message {number} has no text; only a last assistant message may be left open.")
    return turns


def _common_prefix(a: str, b: str) -> str:
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:length]
