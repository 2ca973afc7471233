"""From prompts to token ids, with images as `IMAGE_TOKEN_INDEX`, and to labels. Needs a tokenizer object, no torch."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from navila.constants import IGNORE_INDEX, IMAGE_END_TOKEN, IMAGE_START_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from navila.conversation import Message, Span, Template
from navila.errors import ConfigError


def tokenize_with_images(prompt: str, tokenizer: Any, image_ids: Sequence[int] | None = None) -> list[int]:
    """Tokenise a prompt piece by piece between its `<image>`s, with -200 for each; exactly as checkpoints were trained.

    Every piece is tokenised with special tokens; where the first one starts with BOS, the first id of every later one
    is dropped. With a tokenizer that adds no BOS and a prompt that spells it out (llama_3), that drops a real token
    after every image: released weights were trained so, do not mend it.

    Args:
        prompt: text with `<image>` placeholders.
        tokenizer: a transformers tokenizer; left as it is.
        image_ids: what each `<image>` becomes in a prompt that is tokenised at once, `<image>` being a token of the
            vocabulary (NVILA); -200 stands for the image.
    """
    return _tokenize(prompt, tokenizer, image_ids, with_ends=False)[0]


def enclose_images(text: str) -> str:
    """Put `<im_start>` and `<im_end>` around each `<image>` that does not stand between them already."""
    enclosed = f"{IMAGE_START_TOKEN}{IMAGE_TOKEN}{IMAGE_END_TOKEN}"
    return text.replace(enclosed, IMAGE_TOKEN).replace(IMAGE_TOKEN, enclosed)


def tokenize_supervised(
    spans: Sequence[Span], tokenizer: Any, image_ids: Sequence[int] | None = None
) -> tuple[list[int], list[int]]:
    """Tokenise spans to (input_ids, labels); the ids are those of the whole prompt by `tokenize_with_images`.

    A token carries its id as label if its last character lies in an answer, or if it is the first one that reaches into
    what stops the answer. Everything else, images included, carries -100. Only positions decide, never which tokens
    they are, so an answer that quotes the template is labelled like any other.

    Raises:
        ConfigError: the tokenizer neither gives offsets nor spells its input back.
    """
    ids, ends = _tokenize("".join(span.text for span in spans), tokenizer, image_ids, with_ends=True)
    labels = [IGNORE_INDEX] * len(ids)
    start = 0
    for span in spans:
        end = start + len(span.text)
        # The tokens that end in (start, end]; they are neighbours, for ends never decrease.
        tokens = range(bisect_right(ends, start), bisect_right(ends, end))
        if span.kind == "stop":
            tokens = range(tokens.start, min(tokens.start + 1, len(ids)))
        if span.supervised:
            for position in tokens:
                labels[position] = IGNORE_INDEX if ids[position] == IMAGE_TOKEN_INDEX else ids[position]
        start = end
    return ids, labels


def _tokenize(
    prompt: str, tokenizer: Any, image_ids: Sequence[int] | None, *, with_ends: bool
) -> tuple[list[int], list[int]]:
    """Ids, and where in the prompt the text of each ends, in characters (all 0 unless `with_ends`)."""
    if image_ids is not None:
        token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        whole = [
            (image_ids if i == token else (i,), end)
            for i, end in zip(*_encode(prompt, tokenizer, with_ends=with_ends), strict=True)
        ]
        return [i for expanded, _ in whole for i in expanded], [end for expanded, end in whole for _ in expanded]
    ids: list[int] = []
    ends: list[int] = []
    position = 0
    drop = 0
    # A navigation prompt has the same newline between all its frames.
    encoded: dict[str, tuple[list[int], list[int]]] = {}
    for number, chunk in enumerate(prompt.split(IMAGE_TOKEN)):
        if chunk not in encoded:
            encoded[chunk] = _encode(chunk, tokenizer, with_ends=with_ends)
        chunk_ids, chunk_ends = encoded[chunk]
        if number:
            position += len(IMAGE_TOKEN)
            ids.append(IMAGE_TOKEN_INDEX)
            ends.append(position)
        elif chunk_ids and chunk_ids[0] == tokenizer.bos_token_id:
            drop = 1
            ids.append(chunk_ids[0])
            ends.append(chunk_ends[0])
        ids += chunk_ids[drop:]
        ends += [position + end for end in chunk_ends[drop:]]
        position += len(chunk)
    return ids, ends


def _encode(text: str, tokenizer: Any, *, with_ends: bool) -> tuple[list[int], list[int]]:
    """Ids, and where in `text` the text of each ends; tokens put in front end at 0, tokens put behind at the end."""
    padded = _restore_prefix_space(text, tokenizer)
    if not with_ends:
        ids: list[int] = tokenizer(padded).input_ids
        return ids, [0] * len(ids)
    if getattr(tokenizer, "is_fast", False):
        encoding = tokenizer(padded, return_offsets_mapping=True)
        shift = len(padded) - len(text)
        # A token for the space put in front counts with the first character.
        ends = (max(end - shift, min(end, 1)) for _, end in encoding.offset_mapping)
        # Tokens put behind have no offset; the running maximum keeps them at the end.
        return encoding.input_ids, list(accumulate(ends, max))
    ids = tokenizer(text).input_ids
    body: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    lead = next((i for i in range(len(ids) - len(body) + 1) if ids[i : i + len(body)] == body), 0)
    ends = _decoded_ends(text, body, tokenizer)
    return ids, [0] * lead + ends + [len(text)] * (len(ids) - lead - len(body))


def _restore_prefix_space(text: str, tokenizer: Any) -> str:
    """Text to give to a tokenizer converted from SentencePiece so that its ids are those of the original.

    SentencePiece (Llama 2, Vicuna, Mistral 0.1) puts a space in front of every text; the conversion to `tokenizers`
    omits it where the text already starts with one.
    """
    pre_tokenizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "pre_tokenizer", None)
    first_only = getattr(pre_tokenizer, "prepend_scheme", None) == "first"
    return f" {text}" if first_only and text.startswith((" ", "\u2581")) else text


def _decoded_ends(text: str, ids: list[int], tokenizer: Any) -> list[int]:
    """Where each token ends, for a tokenizer without offsets: as far as the tokens up to it spell the text.

    Printed characters are compared, and white space is counted behind them, since tokenizers add and swallow it.
    """
    # positions[n]: where the n-th printed character of the text ends.
    positions = [0, *(index + 1 for index, character in enumerate(text) if not character.isspace())]
    printed = "".join(text.split())
    decoded = [tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False) for count in range(len(ids) + 1)]
    if "".join(decoded[-1].split()) != printed:
        raise ConfigError(
            f"The tokenizer {type(tokenizer).__name__} gives no offsets and spells {text[:40]!r} back as "
            f"{decoded[-1][:40]!r}, so labels cannot be placed; use a fast tokenizer."
        )
    ends: list[int] = []
    for before, after in zip(decoded[-2::-1], decoded[:0:-1], strict=True):
        spelled = "".join(after.split())
        if ends and (before == after or not printed.startswith(spelled)):
            # A part of a character's bytes: it ends where the token that completes the character does.
            ends.append(ends[-1])
            continue
        end = positions[len(spelled)]
        space = len(after) - len(after.rstrip())
        following = positions[len(spelled) + 1] - 1 if len(spelled) < len(printed) else len(text)
        ends.append(min(end + space, following))
    return ends[::-1]


def stop_token_ids(tokenizer: Any, template: Template) -> tuple[int, ...]:
    """Ids that end an answer: the tokenizer's EOS and the first token of each stop string, the one that is trained."""
    anchor = tokenizer.eos_token or ""
    before = len(tokenizer(anchor, add_special_tokens=False).input_ids)
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for stop in template.stop_strings:
        # Behind a special token, as in a conversation: alone, SentencePiece would put a space in front.
        ids.append(tokenizer(anchor + stop, add_special_tokens=False).input_ids[before])
    return tuple(dict.fromkeys(ids))


#: Control tokens of the checkpoints' families, whichever the tokenizer at hand has.
_CONTROL_TOKENS = (
    r"</?s>|<(?:unk|pad|bos|eos|mask)>|</?Image>|<(?:image|video|im_start|im_end|im_patch|image-placeholder)>"
    r"|<vila/sentinel>|<(?:start|end)_of_turn>|<\|[^<>|\s]+\|>|\[(?:PAD|UNK|BOS|EOS|CLS|SEP|MASK|/?INST)\]|<</?SYS>>"
)


def escape_user_text(text: str, tokenizer: Any = None) -> str:
    """Break up `<image>` and control tokens in text from outside: neither the splitter nor a tokenizer sees any.

    A space goes in after the first character (`<image>` -> `< image>`, `<|eot_id|>` -> `< |eot_id|>`): visible, and
    taking it out gives the text back. Text without such tokens comes back unchanged.

    Args:
        text: what a user wrote.
        tokenizer: breaks up its special tokens too, beyond the well-known ones; single characters stay.
    """
    pattern = _CONTROL_TOKENS
    if tokenizer is not None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {token.content for token in added if token.special}
        special.update(tokenizer.all_special_tokens)
        pattern = "|".join([pattern, *(re.escape(token) for token in sorted(special) if len(token) > 1)])
    # Looking ahead finds tokens that overlap, too.
    return re.sub(rf"(?=(?:{pattern}))(.)", r"\1 ", text, flags=re.DOTALL)


def normalise_image_placeholders(
    messages: Sequence[Message], *, image_tags: bool = False, start_end_tokens: bool = False
) -> list[Message]:
    """Give the `<image>`s of a conversation the training data's spacing; where there is none, put one in front.

    Args:
        messages: (role, text) pairs; left as they are.
        image_tags: wrap images in `<Image>…</Image>`, as templates with `image_tags` have it.
        start_end_tokens: wrap images in `<im_start>…<im_end>` (`mm_use_im_start_end`).
    """
    normalised = list(messages)
    if normalised and not any(isinstance(text, str) and IMAGE_TOKEN in text for _, text in normalised):
        role, text = normalised[0]
        normalised[0] = (role, f"{IMAGE_TOKEN}\n{text}")
    image = f"<Image>{IMAGE_TOKEN}</Image>" if image_tags else IMAGE_TOKEN
    if start_end_tokens:
        image = f"<im_start>{image}<im_end>"
    for number, (role, text) in enumerate(normalised):
        if isinstance(text, str) and IMAGE_TOKEN in text:
            *before, last = (chunk.strip() for chunk in text.split(IMAGE_TOKEN))
            text = f"{IMAGE_TOKEN}\n".join([*(f"{chunk} " for chunk in before), last]).strip()
            text = re.sub(f"{IMAGE_TOKEN}\n?", f"{IMAGE_TOKEN}\n", text.replace(IMAGE_TOKEN, image))
            normalised[number] = (role, text)
    return normalised
