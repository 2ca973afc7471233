"""Word tokenizers for tiny models trained from scratch.

A model of a million parameters reads the navigation prompt as ~170 tokens of a general tokenizer, nearly all of them
the same in every sample. Here each constant phrase is one token and each word of the task is one token, so that the
prompt costs ~30 tokens and an answer one; any other text still encodes, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from navila.actions import LEGAL_ANSWERS
from navila.conversation import get_template
from navila.errors import ConfigError
from navila.prompts import navigation_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Llama 3's special tokens, in the order of their ids; `[PAD]` is the one NaVILA adds.
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[PAD]",
)


def navigation_phrases(template: str = "llama_3") -> tuple[str, ...]:
    """Texts that conversations repeat, headers included: around frames and instruction, between turns, the answers.

    The string that ends an answer stays a token of its own, for it is learned and stops the generation.
    """
    frame, text = "<image>", "\x00"
    chat = get_template(template)
    prompt = chat.render([("user", navigation_prompt(text, 3)), ("assistant", None)])
    dialogue = chat.render([("user", text), ("assistant", text), ("user", text), ("assistant", None)])
    pieces = [piece for chunk in prompt.split(frame) for piece in chunk.split(text)]
    head, to_assistant, to_user, _ = dialogue.split(text)
    for stop in chat.stop_strings:
        to_user = to_user.removeprefix(stop)
    pieces = [piece.removeprefix(SPECIAL_TOKENS[0]) for piece in (*pieces, head, to_assistant, to_user)]
    return tuple(dict.fromkeys(piece for piece in (*pieces, *LEGAL_ANSWERS, "\n\n") if len(piece) > 1))


def build_word_tokenizer(
    texts: Iterable[str],
    phrases: Sequence[str] | None = None,
    *,
    model_max_length: int = 2048,
) -> PreTrainedTokenizerFast:
    """Build a Llama-3-style tokenizer whose vocabulary is bytes, the words of `texts` and whole `phrases`.

    Args:
        texts: instructions, questions and answers of the task; each word becomes one token, with and without the space
            before it.
        phrases: texts that become one token each; None takes `navigation_phrases()`.
        model_max_length: tokens the model may see, stored with the tokenizer.

    Raises:
        ConfigError: a phrase is empty, is or begins with BOS, or contains `<image>`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    phrases = navigation_phrases() if phrases is None else tuple(dict.fromkeys(phrases))
    for phrase in phrases:
        if not phrase or phrase.startswith(SPECIAL_TOKENS[0]) or phrase in SPECIAL_TOKENS or "<image>" in phrase:
            raise ConfigError(
                f"Phrase {phrase!r} cannot be one token: leave <image> and a first {SPECIAL_TOKENS[0]} out."
            )

    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    words = set[str]()
    for text in texts:
        for phrase in phrases:
            text = text.replace(phrase, "\n")
        for word, _ in split.pre_tokenize_str(text):
            bare = word.removeprefix("Ġ")
            words |= {bare, f"Ġ{bare}"} if bare else {word}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *sorted(words - set(alphabet))])}

    # ignore_merges (as in Llama 3) takes a known word whole; without merges every other word falls apart into bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in phrases])
    bos = SPECIAL_TOKENS[0]
    # Llama 3's tokenizer puts BOS before the template's own; the pair is what NaVILA's tokenisation rule expects.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="<|end_of_text|>",
        pad_token="[PAD]",
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
        padding_side="right",
    )
