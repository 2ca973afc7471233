"""Tokenising for a checkpoint whose weights are not needed."""

from __future__ import annotations

from functools import cache

from navila.errors import CheckpointError
from navila.model.components import llm_backend
from navila.model.inspect import inspect_checkpoint
from navila.model.layouts import sources
from navila.model.load import composed_config, part_type, template_for
from navila.model.location import checkpoint_folder, read_root
from navila.model.nvila import Nvila, add_media_tokens, is_nvila

from navila_data.processor import Processor

#: No sample is longer.
WHOLE = 10**9


@cache
def processors_of(model: str) -> tuple[Processor, Processor]:
    """What tokenises samples as a training of that checkpoint does: one without a limit, one with the model's.

    Raises:
        CheckpointError: it is no whole checkpoint, or does not say how long its sequences may be.
    """
    folder = checkpoint_folder(model)
    facts = inspect_checkpoint(folder)
    limit = facts.context_length or facts.max_positions
    if facts.tokens_per_image is None or limit is None:
        problem = facts.problems[0] if facts.problems else f"{folder} does not say how long its sequences may be."
        raise CheckpointError(problem)
    parts = sources(folder, read_root(folder))
    config = composed_config(parts.config, folder / "config.json")
    tokenizer = llm_backend(part_type(parts.llm, config.llm_cfg)).load_tokenizer(parts.llm.folder)
    nvila = Nvila.of(parts.config)
    if is_nvila(parts.config):
        add_media_tokens(tokenizer)
    if not parts.text_template:
        tokenizer.chat_template = None
    template = template_for(None, config, tokenizer)
    if template is None:
        raise CheckpointError(f'{folder} names no conversation template: add a field such as "conversation" to it.')
    whole, limited = (
        Processor(
            tokenizer=tokenizer,
            template=template,
            tokens_per_image=facts.tokens_per_image,
            max_length=length,
            enclose=config.mm_use_im_start_end,
            image_ids=None if nvila is None else nvila.image_ids(tokenizer),
        )
        for length in (WHOLE, limit)
    )
    return whole, limited
