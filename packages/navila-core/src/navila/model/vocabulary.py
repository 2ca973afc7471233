"""Tokens a tokenizer gains, and room for them in the embedding tables. Tables only ever grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from navila.constants import IMAGE_END_TOKEN, IMAGE_START_TOKEN
from navila.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from navila.model.config import NavilaConfig

PAD_TOKEN = "[PAD]"


def add_pad_token(tokenizer: PreTrainedTokenizerBase, llm: PreTrainedModel) -> None:
    """Make sure there is a pad token, as NaVILA's training does: the unknown token, else a new `[PAD]`."""
    if tokenizer.pad_token_id is None:
        if tokenizer.unk_token is not None:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    llm.config.tokenizer_padding_side = "right"


def add_config_tokens(config: NavilaConfig, tokenizer: PreTrainedTokenizerBase, llm: PreTrainedModel) -> None:
    """Add the tokens a config asks for and the tokenizer lacks.

    With `mm_use_im_start_end`, those around images; with `num_time_tokens` n, n points in time written as
    `time_token_format` says, whose ids are put on record as `time_token_ids` (see `navila.model.losses`).

    Raises:
        ConfigError: the format gives no n different tokens, or a number makes no sense.
    """
    if config.mm_use_im_start_end:
        add_tokens((IMAGE_START_TOKEN, IMAGE_END_TOKEN), tokenizer, llm, special=True)
    count = config.num_time_tokens
    if not count:
        return
    for name, value in (("num_time_tokens", count), ("soft_ce_std", config.soft_ce_std)):
        if not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{name} is {value!r}: give a number above 0.")
    pattern = config.time_token_format
    try:
        times = [pattern.format(t=t) for t in range(count)]
    except (KeyError, IndexError, ValueError, AttributeError):
        times = []
    if len(set(times)) < count:
        raise ConfigError(f"time_token_format is {pattern!r}: write the number of the token as {{t}}, e.g. '<t{{t}}>'.")
    config.time_token_ids = add_tokens(times, tokenizer, llm, special=False)


def add_tokens(
    tokens: Sequence[str], tokenizer: PreTrainedTokenizerBase, llm: PreTrainedModel, *, special: bool
) -> list[int]:
    """Ids of tokens; those the tokenizer lacks are added, and their rows are the mean of those it had."""
    known = len(tokenizer)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    ids: Any = tokenizer.convert_tokens_to_ids(list(tokens))
    grow_vocabulary(llm, max(ids) + 1)
    # A vocabulary padded beyond the tokenizer has rows for them, which nothing has learned.
    _fill_with_mean(llm, [number for number in ids if number >= known], known)
    return ids


def grow_vocabulary(llm: PreTrainedModel, size: int) -> None:
    """Grow the tables to `size` rows, the new ones the mean of the old; a larger (padded) vocabulary stays as it is."""
    embeddings: Any = llm.get_input_embeddings()
    old = embeddings.weight.shape[0]
    if size <= old:
        return
    llm.resize_token_embeddings(size, mean_resizing=False)
    _fill_with_mean(llm, list(range(old, size)), old)


def _fill_with_mean(llm: PreTrainedModel, rows: list[int], known: int) -> None:
    """Set rows of both tables to the mean of the first `known`."""
    with torch.no_grad():
        for table in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            weight: Any = getattr(table, "weight", None)
            if weight is not None and rows:
                weight[rows] = weight[:known].mean(0)
