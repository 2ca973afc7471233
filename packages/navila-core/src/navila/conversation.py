"""Conversation templates: how a dialogue becomes the prompt string a checkpoint was trained on.

A template renders messages to *spans*, pieces of text that say whether they are the assistant's; the concatenated spans
are the prompt. Labels are made from the spans (`navila.tokenization.tokenize_supervised`), never by matching tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

from navila.constants import IMAGE_TOKEN
from navila.errors import ConfigError, DataError, NoTemplateError

#: Who speaks: `user` or `assistant`; `human` and `gpt`, as dataset files have it, mean the same.
Role = str
#: Text, or None for the slot the model is to fill. A triple (text, image, mode), as LLaVA's demos have it, is accepted:
#: its image goes in front of the text when it opens the conversation.
Content = str | tuple[str, Any, Any] | None
Message = tuple[Role, Content]

#: Accepted names of the two roles, those of dataset files included.
ROLES: Mapping[str, str] = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True)
class Span:
    """A piece of a prompt."""

    text: str
    kind: Literal["context", "answer", "stop"] = "context"
    """`answer` is what the model is to say behind `generation_prompt`; `stop` the string that ends it, of which the
    model says the first token only, for generation stops there."""

    @property
    def supervised(self) -> bool:
        """Whether the model is trained to produce it."""
        return self.kind != "context"


class Template(Protocol):
    """What renders a conversation: a `ConversationTemplate`, or a tokenizer's own `ChatTemplate`."""

    @property
    def name(self) -> str: ...

    @property
    def stop_strings(self) -> tuple[str, ...]: ...

    @property
    def generation_prompt(self) -> str: ...

    def render(self, messages: Sequence[Message], *, system: str | None = None) -> str: ...

    def spans(self, messages: Sequence[Message], *, system: str | None = None) -> list[Span]: ...


class Style(Enum):
    """How a template joins system text, roles and messages."""

    SINGLE = "ROLE: message, every one closed by the same separator"
    TWO = "ROLE: message, user and assistant closed by different separators"
    MPT = "role header, message, separator"
    TURNS = "role header, message, separator, nothing in front where there is no system text"
    LLAMA_3 = "role header, message, separator, a different one after the very last message"
    LLAMA_2 = "[INST] user [/INST] assistant, the system text inside the first message"
    MISTRAL = "[INST] user [/INST]assistant, <s> in front"
    PLAIN = "messages and separators only"
    AUTO = "the tokenizer's own chat template"


@dataclass(frozen=True, kw_only=True)
class ConversationTemplate:
    """A prompt format, as data.

    The rules are those of NaVILA's `conversation.py`; prompts are equal byte for byte.
    """

    name: str
    style: Style
    system: str = ""
    user: str = ""
    """Role name or header in front of a user message."""
    assistant: str = ""
    sep: str = ""
    sep2: str | None = None
    aliases: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    """Messages in front of every conversation; NaVILA's training left them out (`dataclasses.replace`)."""
    image_tags: bool = False
    """Whether images stand in `<Image>…</Image>` tags."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings that end an assistant message, the usual one first."""
        match self.style:
            case Style.SINGLE | Style.MPT | Style.TURNS | Style.PLAIN:
                ends = (self.sep,)
            case Style.LLAMA_3:
                ends = (self.sep2, self.sep)
            case Style.TWO | Style.LLAMA_2 | Style.MISTRAL:
                ends = (self.sep2,)
            case Style.AUTO:
                ends = ()
        return tuple(end for end in ends if end)

    @property
    def generation_prompt(self) -> str:
        """What an open assistant slot adds to the prompt."""
        has_headers = self.style in (Style.SINGLE, Style.TWO, Style.MPT, Style.TURNS, Style.LLAMA_3)
        return self._header(assistant=True) if has_headers else ""

    def render(self, messages: Sequence[Message], *, system: str | None = None) -> str:
        """Render messages to the prompt string.

        Args:
            messages: (role, text) pairs, user first, alternating; a last ("assistant", None) leaves the slot open.
            system: replaces the template's system text, headers included.

        Raises:
            DataError: the messages do not alternate, or the style cannot express them.
            ConfigError: the template is `auto`, whose text is in the tokenizer.
        """
        return "".join(span.text for span in self.spans(messages, system=system))

    def spans(self, messages: Sequence[Message], *, system: str | None = None) -> list[Span]:
        """Render messages to spans; joined, they are `render(messages)`. Arguments and errors as there."""
        template = self if system is None else dataclasses.replace(self, system=system)
        turns = template._turns(messages)
        match self.style:
            case Style.SINGLE | Style.TWO | Style.MPT | Style.TURNS | Style.LLAMA_3:
                spans = template._with_headers(turns)
            case Style.LLAMA_2 | Style.MISTRAL:
                spans = template._with_inst(turns)
            case Style.PLAIN:
                spans = template._plain(turns)
            case Style.AUTO:
                raise ConfigError(
                    "The template 'auto' is the tokenizer's own; use navila.chat_template.ChatTemplate(tokenizer)."
                )
        return [span for span in spans if span.text]

    def _turns(self, messages: Sequence[Message]) -> list[tuple[bool, str | None]]:
        """Check and simplify messages to (is assistant, text), the examples in front."""
        messages = list(messages)
        examples = list(self.examples)
        if examples and messages[: len(examples)] == examples:
            examples = []
        messages = examples + messages
        if messages and isinstance(messages[0][1], tuple):
            messages[:1] = self._image_first(messages[0][1][0])
        turns: list[tuple[bool, str | None]] = []
        for number, (role, content) in enumerate(messages):
            if role not in ROLES:
                raise DataError(f"Message {number} is from {role!r}; use 'user' or 'assistant'.")
            assistant = ROLES[role] == "assistant"
            if assistant != bool(number % 2):
                raise DataError(
                    f"Message {number} is from the {role}, but user and assistant take turns, the user first; "
                    "merge or drop messages until they do."
                )
            turns.append((assistant, content[0] if isinstance(content, tuple) else content))
        return turns

    def _image_first(self, text: str) -> list[Message]:
        """The messages a leading (text, image, mode) stands for."""
        text = text.replace(IMAGE_TOKEN, "").strip()
        if self.image_tags:
            return [("user", f"<Image>{IMAGE_TOKEN}</Image>"), ("assistant", "Received."), ("user", text)]
        return [("user", f"{IMAGE_TOKEN}\n{text}")]

    def _header(self, assistant: bool) -> str:
        """What stands in front of a message, and alone for an open slot."""
        role = self.assistant if assistant else self.user
        return f"{role}:" if self.style in (Style.SINGLE, Style.TWO) else role

    def _with_headers(self, turns: list[tuple[bool, str | None]]) -> Iterator[Span]:
        if self.system or self.style is not Style.TURNS:
            yield Span(self.system + self.sep)
        for number, (assistant, text) in enumerate(turns):
            yield Span(self._header(assistant))
            if not text:
                continue
            if self.style in (Style.SINGLE, Style.TWO):
                # The open slot ends with the colon, so the space is the model's to say.
                text = f" {text}"
            if self.style is Style.TWO:
                end = self.sep2 if assistant else self.sep
            elif self.style is Style.LLAMA_3:
                end = self.sep2 if number == len(turns) - 1 else self.sep
            else:
                end = self.sep
            yield from _message(assistant, text, end or "")

    def _with_inst(self, turns: list[tuple[bool, str | None]]) -> Iterator[Span]:
        if turns and not turns[0][1]:
            raise DataError(f"Message 0 is empty, but the template {self.name!r} puts its system text there; fill it.")
        llama_2 = self.style is Style.LLAMA_2
        if not llama_2:
            yield Span("<s>")
        for number, (assistant, text) in enumerate(turns):
            if not text:
                continue
            if assistant:
                yield from _message(True, f" {text} " if llama_2 else text, self.sep2 or "")
                continue
            if number == 0 and llama_2:
                text = f"<<SYS>>\n{self.system}\n<</SYS>>\n\n{text}"
            elif number == 0 and self.system:
                text = f"{self.system}\n{text}"
            yield Span(f"{self.sep if number else ''}[INST] {text} [/INST]")

    def _plain(self, turns: list[tuple[bool, str | None]]) -> Iterator[Span]:
        yield Span(self.system)
        for assistant, text in turns:
            if not text:
                continue
            if assistant and self.sep2 is None:
                raise DataError(
                    f"The template {self.name!r} renders one message; for an image and its caption use "
                    "navila.conversation.caption_spans."
                )
            yield from _message(assistant, text, (self.sep2 or "") if assistant else self.sep)


def _message(assistant: bool, text: str, end: str) -> list[Span]:
    if not assistant:
        return [Span(text + end)]
    return [Span(text, "answer"), Span(end, "stop")]


def caption_spans(messages: Sequence[Message]) -> list[Span]:
    """Spans of an image and its caption, to pre-train a projector: `<image>`, the caption, a newline; no question.

    Raises:
        DataError: it is not one user message with `<image>` and one assistant message.
    """
    texts = [text for _, text in messages if isinstance(text, str)]
    if len(messages) != 2 or len(texts) != 2:
        raise DataError("A caption sample is one user message and one assistant message; use another template.")
    question, caption = texts
    if IMAGE_TOKEN not in question:
        raise DataError(f"The user message of a caption sample lacks {IMAGE_TOKEN}; add it.")
    return [Span(IMAGE_TOKEN), Span(f"{caption}\n", "answer")]


def clean_messages(messages: Sequence[Message]) -> list[Message]:
    """Prepare a dataset's conversation for training: strip every text, drop an assistant message in front."""
    cleaned: list[Message] = [(role, text.strip() if isinstance(text, str) else text) for role, text in messages]
    return cleaned[1:] if cleaned and ROLES.get(cleaned[0][0]) == "assistant" else cleaned


def get_template(name: str) -> ConversationTemplate:
    """Find a template by name or alias: in `navila.templates` first, then among those that plugins contribute.

    Raises:
        UnknownComponentError: there is none of that name; the message lists close matches.
    """
    from navila.templates import TEMPLATES

    for template in TEMPLATES:
        if name == template.name or name in template.aliases:
            return template
    from navila.plugins import default_host

    return default_host().registry("conversation").load(name)


def template_for_checkpoint(config: Any, tokenizer: Any = None) -> Template:
    """Template of a checkpoint: the one its config names, else the one its tokenizer's control tokens belong to.

    Args:
        config: the root `config.json`, as a mapping or an object; its field `conversation` (or `template`) decides.
        tokenizer: the checkpoint's tokenizer, asked where the config names none: Llama 3's headers mean `llama_3`, a
            chat template `auto`, `<|im_end|>` `hermes-2`, `</s>` `vicuna_v1`.

    Raises:
        UnknownComponentError: the config names an unknown template.
        NoTemplateError: nothing tells which it is.
        ConfigError: the tokenizer's chat template cannot be used.
    """
    read = config.get if isinstance(config, Mapping) else lambda key: getattr(config, key, None)
    name = read("conversation") or read("template")
    if name is None and tokenizer is not None:
        vocabulary = tokenizer.get_vocab()
        if "<|start_header_id|>" in vocabulary and "<|eot_id|>" in vocabulary:
            name = "llama_3"
        elif getattr(tokenizer, "chat_template", None):
            name = "auto"
        elif "<|im_end|>" in vocabulary:
            name = "hermes-2"
        elif "</s>" in vocabulary:
            name = "vicuna_v1"
    if name is None:
        raise NoTemplateError(
            "The checkpoint's config.json names no conversation template and its tokenizer has no known one; "
            'add a field such as "conversation": "llama_3".'
        )
    if name == "auto" and tokenizer is not None:
        from navila.chat_template import ChatTemplate

        return ChatTemplate(tokenizer)
    return get_template(name)


_LEGACY_NAMES = (
    ("vila1.5-3b", "vicuna_v1"),
    ("vila1.5-8b", "llama_3"),
    ("vila1.5-13b", "vicuna_v1"),
    ("vila1.5-40b", "hermes-2"),
    ("llama-2", "llava_llama_2"),
    ("llama2", "llava_llama_2"),
    ("llama-3", "llama_3"),
    ("llama3", "llama_3"),
    ("mpt", "mpt"),
)


def legacy_template_for_name(name_or_path: str) -> ConversationTemplate:
    """Guess the template from a model's name as NaVILA's loader did: the first known substring wins.

    Only for reproducing that loader ("mpt" is found in "prompts"); `template_for_checkpoint` is the way to load.

    Raises:
        ConfigError: the name holds none of the known ones.
    """
    lowered = name_or_path.lower()
    for part, template in _LEGACY_NAMES:
        if part in lowered:
            return get_template(template)
    raise ConfigError(
        f"The model name {name_or_path!r} does not tell its conversation template; "
        'name it in config.json, e.g. "conversation": "llama_3".'
    )
