"""Room in the embedding tables for tokens a tokenizer has gained. Tables only ever grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

PAD_TOKEN = "[PAD]"


def add_pad_token(tokenizer: PreTrainedTokenizerBase, llm: PreTrainedModel) -> None:
    """Make sure there is a pad token, as NaVILA's training does: the unknown token, else a new `[PAD]`."""
    if tokenizer.pad_token_id is None:
        if tokenizer.unk_token is not None:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    llm.config.tokenizer_padding_side = "right"


def grow_vocabulary(llm: PreTrainedModel, size: int) -> None:
    """Grow the tables to `size` rows, the new ones the mean of the old; a larger (padded) vocabulary stays as it is."""
    embeddings: Any = llm.get_input_embeddings()
    old = embeddings.weight.shape[0]
    if size <= old:
        return
    llm.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for table in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            weight: Any = getattr(table, "weight", None)
            if weight is not None:
                weight[old:] = weight[:old].mean(0)
