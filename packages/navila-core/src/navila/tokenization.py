"""From prompts to token ids, with images as `IMAGE_TOKEN_INDEX`, and to labels. Needs a tokenizer object, no torch."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from navila.constants import IGNORE_INDEX, IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from navila.conversation import Message, Span, Template
from navila.errors import ConfigError

__all__ = [
    "IGNORE_INDEX",
    "IMAGE_TOKEN",
    "IMAGE_TOKEN_INDEX",
    "ChatTemplate",
    "escape_user_text",
    "normalise_image_placeholders",
    "stop_token_ids",
    "tokenize_supervised",
    "tokenize_with_images",
    "unescape_user_text",
]


def tokenize_with_images(prompt: str, tokenizer: Any) -> list[int]:
    """Tokenise a prompt piece by piece between its `<image>`s, one -200 for each; exactly as the checkpoints' training.

    Every piece is tokenised with special tokens; where the first one starts with BOS, the first id of every later one
    is dropped. With a tokenizer that adds no BOS and a prompt that spells it out (llama_3), that drops a real token
    after every image: the released weights were trained so, do not mend it.

    Args:
        prompt: text with `<image>` placeholders.
        tokenizer: a transformers tokenizer.
    """
    return [token for token, _ in _tokens_with_ends(prompt, tokenizer, offsets=False)]


def tokenize_supervised(spans: Sequence[Span], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokenise spans to (input_ids, labels).

    The ids are those of the whole prompt, `tokenize_with_images`. A token carries its id as label if its last character
    lies in an answer, or if it is the first to reach beyond an answer: the stop token. All others carry -100.
    """
    prompt = "".join(span.text for span in spans)
    answers: list[tuple[int, int, bool]] = []
    start = 0
    for span in spans:
        end = start + len(span.text)
        if span.kind == "answer":
            answers.append((start, end, False))
        elif span.kind == "stop" and answers and answers[-1][1] == start:
            answers[-1] = (*answers[-1][:2], True)
        start = end
    starts = [answer[0] for answer in answers]
    stopped: set[int] = set()
    ids: list[int] = []
    labels: list[int] = []
    for token, end in _tokens_with_ends(prompt, tokenizer, offsets=True):
        ids.append(token)
        label = IGNORE_INDEX
        # The last answer that starts before the token's end.
        number = bisect_right(starts, end - 1) - 1
        if token != IMAGE_TOKEN_INDEX and number >= 0:
            _, answer_end, has_stop = answers[number]
            if end <= answer_end:
                label = token
            elif has_stop and number not in stopped:
                stopped.add(number)
                label = token
        labels.append(label)
    return ids, labels


def _tokens_with_ends(prompt: str, tokenizer: Any, *, offsets: bool) -> list[tuple[int, int]]:
    """(id, index in the prompt where the token's text ends) of every token; the end is 0 where it is not asked for."""
    tokens: list[tuple[int, int]] = []
    position = 0
    drop = 0
    for number, chunk in enumerate(prompt.split(IMAGE_TOKEN)):
        if number:
            position += len(IMAGE_TOKEN)
            tokens.append((IMAGE_TOKEN_INDEX, position))
        ids = tokenizer(chunk).input_ids
        ends = _token_ends(chunk, ids, tokenizer) if offsets else [0] * len(ids)
        if number == 0 and ids and ids[0] == tokenizer.bos_token_id:
            drop = 1
            tokens.append((ids[0], position))
        tokens.extend((token, position + end) for token, end in zip(ids[drop:], ends[drop:], strict=True))
        position += len(chunk)
    return tokens


def _token_ends(text: str, ids: Sequence[int], tokenizer: Any) -> list[int]:
    """Where in `text` each token ends, in characters; 0 for tokens put in front of it."""
    if getattr(tokenizer, "is_fast", False):
        return [end for _, end in tokenizer(text, return_offsets_mapping=True).offset_mapping]
    raise NotImplementedError


def stop_token_ids(tokenizer: Any, template: Template) -> tuple[int, ...]:
    """Ids that end an answer: the tokenizer's EOS and the first token of each of the template's stop strings."""
    anchor = tokenizer.eos_token or ""
    before = len(tokenizer(anchor, add_special_tokens=False).input_ids)
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for stop in template.stop_strings:
        # After a special token, as in a conversation: alone, SentencePiece would put a space in front.
        ids.append(tokenizer(anchor + stop, add_special_tokens=False).input_ids[before])
    return tuple(dict.fromkeys(ids))


_CONTROL = re.compile(r"<(?: *)(?=image>|im_start>|im_end>|im_patch>|\||/?s>|unk>|pad>)|\[(?: *)(?=/?INST\])")


def escape_user_text(text: str, tokenizer: Any = None) -> str:
    """Break up `<image>` and control tokens in text from outside by a space after their first character."""
    text = _CONTROL.sub(lambda match: match[0] + " ", text)
    if tokenizer is not None:
        for token in sorted(_special_tokens(tokenizer), key=len, reverse=True):
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def unescape_user_text(text: str) -> str:
    raise NotImplementedError


def _special_tokens(tokenizer: Any) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def normalise_image_placeholders(
    messages: Sequence[Message], *, image_tags: bool = False, start_end_tokens: bool = False
) -> list[Message]:
    """Give every `<image>` of a conversation the training data's spacing; put one in front if there is none.

    Args:
        messages: (role, text) pairs.
        image_tags: wrap images in `<Image>…</Image>`, as the mmtag templates have it.
        start_end_tokens: wrap images in `<im_start>…<im_end>`.
    """
    normalised = list(messages)
    if normalised and not any(IMAGE_TOKEN in (text or "") for _, text in normalised):
        role, text = normalised[0]
        normalised[0] = (role, f"{IMAGE_TOKEN}\n{text or ''}")
    image = IMAGE_TOKEN
    if image_tags:
        image = f"<Image>{image}</Image>"
    if start_end_tokens:
        image = f"<im_start>{image}<im_end>"
    for number, (role, text) in enumerate(normalised):
        if not isinstance(text, str) or IMAGE_TOKEN not in text:
            continue
        *before, last = (chunk.strip() for chunk in text.split(IMAGE_TOKEN))
        text = f"{IMAGE_TOKEN}\n".join([*(f"{chunk} " for chunk in before), last]).strip().replace(IMAGE_TOKEN, image)
        normalised[number] = (role, re.sub(f"{IMAGE_TOKEN}\n?", f"{IMAGE_TOKEN}\n", text))
    return normalised


class ChatTemplate:
    """A tokenizer's own chat template (style AUTO)."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("The tokenizer has no chat template; name another conversation template in config.json.")
        self._tokenizer = tokenizer
