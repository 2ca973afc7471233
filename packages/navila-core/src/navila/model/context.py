"""How long a sequence may be: rotary positions stretched beyond a language model's own, and the length on record."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from navila.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)


def check_length(length: Any) -> None:
    """Make sure a `model_max_length` is None or a number of positions.

    Raises:
        ConfigError: it is neither.
    """
    if length is not None and (type(length) is not int or length < 1):
        raise ConfigError(f"model_max_length is {length!r}: give a number of positions, e.g. 4096.")


def stretched(rope: Mapping[str, Any], own: int, length: int) -> dict[str, Any]:
    """Rotary parameters with which a model of `own` positions takes `length`, more than that.

    Positions are divided by ceil(length / own), linear scaling, as in VILA's training. A scaling that is there already
    stays as it is where it reaches that far; a linear one that does not is replaced, and told.

    Raises:
        ConfigError: there is a scaling of another kind, which does not reach that far.
    """
    kind = rope.get("rope_type", "default")
    factor = float(math.ceil(length / own))
    linear = {**rope, "rope_type": "linear", "factor": factor}
    if kind == "default":
        return linear
    given = rope.get("factor") or 1.0
    reach = max(own, int(given * (rope.get("original_max_position_embeddings") or own)))
    if length <= reach:
        return dict(rope)
    if kind == "linear":
        _log.warning("Rotary positions were divided by %g; for %d positions it is %g now.", given, length, factor)
        return linear
    raise ConfigError(
        f"model_max_length is {length}, but the language model's rotary positions, scaled by {kind!r}, reach {reach}: "
        "ask for no more, or take rope_scaling (rope_parameters) out of its config.json."
    )


def record_length(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    """Note the longest sequence a model is meant for where released checkpoints keep it: it is checked in use."""
    llm.config.model_max_length = length
    llm.config.tokenizer_model_max_length = length
    llm.config.tokenizer_padding_side = "right"
    tokenizer.model_max_length = length
