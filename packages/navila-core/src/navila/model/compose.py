"""Compose a model from parts: by registered name or config with random weights, or from folders with trained ones."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from navila.errors import ConfigError, NavilaError
from navila.model.components import llm_backend, projector, projector_spec, vision_encoder, vision_encoder_spec
from navila.model.config import NavilaConfig
from navila.model.context import check_length, record_length
from navila.model.load import check_attention, model_type_of, resolve_dtype, template_for
from navila.model.location import MODEL_TYPES, checkpoint_folder, read_json
from navila.model.vocabulary import add_config_tokens, add_pad_token, grow_vocabulary
from navila.model.weights import cast_parameters
from navila.plugins import default_host
from navila.registry import one_line

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from navila.model.llm import LLMBackend
    from navila.model.modeling import NavilaForCausalLM
    from navila.model.projector import Projector
    from navila.model.vision import VisionEncoder

_log = logging.getLogger(__name__)

#: A registered name, a folder or Hub id with weights, or a `config.json` as a mapping.
Part = str | Path | Mapping[str, Any]


def build(
    llm: Part,
    vision_tower: Part,
    mm_projector: Part,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    *,
    template: str | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    model_max_length: int | None = None,
    **config: Any,
) -> NavilaForCausalLM:
    """Compose a model for training.

    Args:
        llm, vision_tower, mm_projector: each a mapping (a `config.json` with `model_type`, or `mm_projector_type`, for
            random weights), a folder or Hub id (trained weights), or a registered name (random weights; a projector is
            usually named so, `mlp_downsample`). A language model's mapping takes its vocabulary size and special ids
            from the tokenizer.
        tokenizer: a tokenizer or its folder; the language model's folder when None. A pad token is added when it has
            none, and the vocabulary grows to what the tokenizer needs.
        template: name of the conversation template.
        dtype: float32 when None.
        attn_implementation: an attention of transformers; its choice when None.
        model_max_length: longest sequence in positions, images expanded; beyond the language model's own, its rotary
            positions are scaled linearly, as VILA does. Its own, and no limit on record, when None.
        config: fields of `NavilaConfig`, e.g. `num_video_frames`, `image_aspect_ratio`, `mm_vision_select_layer`.

    Raises:
        UnknownComponentError: no installed plugin offers a part.
        CheckpointError: a folder is missing, partial or corrupt.
        ConfigError: the parts do not fit, or there is no tokenizer.
    """
    from navila.model.modeling import NavilaForCausalLM

    check_attention(attn_implementation)
    check_length(model_max_length)
    kind = resolve_dtype(dtype) or torch.float32
    root = NavilaConfig(**{"image_aspect_ratio": "resize", **config})
    root.check()
    backend, llm_folder = _llm_source(llm)
    words = _tokenizer(tokenizer if tokenizer is not None else llm_folder, backend)
    options: dict[str, Any] = {
        "dtype": kind,
        "attn_implementation": attn_implementation,
        "model_max_length": model_max_length,
    }
    if isinstance(llm, Mapping):
        # A family's default pad id may lie beyond this vocabulary, and its row would never learn.
        ids = {
            "vocab_size": len(words),
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": None,
        }
        with _described("llm", "language model"):
            language_model = backend.build({**ids, **llm}, **options)
    else:
        assert llm_folder is not None
        language_model = backend.from_pretrained(llm_folder, **options)
    add_pad_token(words, language_model)
    grow_vocabulary(language_model, len(words))
    add_config_tokens(root, words, language_model)
    if model_max_length is not None:
        record_length(language_model, words, model_max_length)

    encoder = _vision_tower(
        vision_tower,
        root.vision_side(),
        select_layer=root.mm_vision_select_layer,
        select_feature=root.mm_vision_select_feature,
        attn_implementation=attn_implementation,
        **root.s2_options(),
    )
    if (side := root.vision_side()) is not None and encoder.image_size != side:
        raise ConfigError(
            f"vision_resolution is {side}, but the encoder that is built takes {encoder.image_size} pixels: give "
            "image_size in its config, as only trained encoders are resized."
        )
    joint = _projector(mm_projector, encoder.out_features, language_model.config.hidden_size)
    root.hidden_size, root.mm_hidden_size = joint.out_features, joint.in_features
    model = NavilaForCausalLM(root, llm=language_model, vision_tower=encoder, mm_projector=joint)
    source = {} if llm_folder is None else read_json(llm_folder / "config.json")
    model.attach(tokenizer=words, template=template_for(template, root, words), llm_source=source)
    cast_parameters(model, kind)
    return model


def _llm_source(part: Part) -> tuple[type[LLMBackend], Path | None]:
    """The backend of a language model and, unless it is built from a config, its folder."""
    if isinstance(part, Mapping):
        return llm_backend(_type_of(part, "model_type", "llm")), None
    if not Path(part).is_dir() and str(part) in default_host().registry("llm"):
        raise ConfigError(
            f"llm={str(part)!r} is a family, not a size: give a config with model_type and sizes, a folder or a Hub id."
        )
    folder = _part_folder(part, "llm", "llm")
    return llm_backend(model_type_of(folder, None)), folder


def _part_folder(part: str | Path, kind: str, name: str) -> Path:
    """The folder of a trained part.

    Raises:
        UnknownComponentError: it is a name that nobody registered.
        ConfigError: it is a whole checkpoint.
    """
    if "/" not in str(part) and not Path(part).exists():
        raise default_host().registry(kind).unknown(str(part))
    folder = checkpoint_folder(part)
    if (folder / name).is_dir() and read_json(folder / "config.json").get("model_type") in MODEL_TYPES:
        raise ConfigError(f"{part} is a whole checkpoint where its {name} is asked for: give {folder / name}.")
    return folder


def _tokenizer(source: Any, backend: type[LLMBackend]) -> Any:
    """The tokenizer of a folder, or the one given."""
    if source is None:
        raise ConfigError(
            "There is no tokenizer: give tokenizer= a folder or object, as the language model is not a folder."
        )
    if isinstance(source, str | Path):
        return backend.load_tokenizer(checkpoint_folder(source))
    # A pad token may be added to it.
    return copy.deepcopy(source)


def _vision_tower(part: Part, resolution: int | None, **options: Any) -> VisionEncoder:
    if isinstance(part, Mapping):
        encoder_class = vision_encoder(_type_of(part, "model_type", "vision_tower"))
        with _described("vision_tower", "vision encoder"):
            return encoder_class(part, **options)
    if not Path(part).is_dir() and str(part) in default_host().registry("vision-encoder"):
        spec = vision_encoder_spec(str(part))
        encoder_class = vision_encoder(spec.name)
        config = encoder_class.default_config(spec.name)
        _log.warning("%s gets random weights: for trained ones, give its folder or Hub id as vision_tower.", spec.name)
        return encoder_class(config, **options)
    folder = _part_folder(part, "vision-encoder", "vision_tower")
    return vision_encoder(model_type_of(folder, None)).from_pretrained(folder, image_size=resolution, **options)


def _projector(part: Part, in_features: int, out_features: int) -> Projector:
    sizes = {"mm_hidden_size": in_features, "hidden_size": out_features}
    if isinstance(part, Mapping):
        projector_class = projector(_type_of(part, "mm_projector_type", "mm_projector"))
        with _described("mm_projector", "projector"):
            return projector_class({**sizes, **part})
    if Path(part).is_dir():
        config = read_json(Path(part) / "config.json")
        return projector(_type_of(config, "mm_projector_type", "mm_projector")).from_pretrained(part, sizes)
    # The name that is saved is the one released checkpoints carry, where there is one.
    spec = projector_spec(str(part))
    known = spec.aliases[0] if str(part) == spec.name and spec.aliases else str(part)
    return projector(spec.name)({**sizes, "mm_projector_type": known})


@contextmanager
def _described(part: str, what: str) -> Iterator[None]:
    """Make what a library says of sizes that do not fit together a ConfigError."""
    try:
        yield
    except NavilaError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The config given as {part} describes no {what} ({one_line(error)}): correct its sizes."
        ) from error


def _type_of(config: Mapping[str, Any], key: str, part: str) -> str:
    value = config.get(key)
    if not isinstance(value, str):
        raise ConfigError(f"The config given as {part} has no {key}: add it, so that its component can be found.")
    return value
