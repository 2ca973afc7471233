"""What a language-model backend offers: one family of transformers' models, its files and its tokenizer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from navila.errors import CheckpointError, ConfigError, reason
from navila.model.context import stretched
from navila.model.location import read_json
from navila.model.weights import cast_parameters, check_files, merged_config, warn_of_unused, weight_files, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class LLMBackend(ABC):
    """A family of causal language models, driven by `inputs_embeds` and `position_ids` as transformers has it.

    The class is never instantiated: its methods make `transformers` models.
    """

    @classmethod
    @abstractmethod
    def model_class(cls) -> type[PreTrainedModel]:
        """The causal language model of transformers."""

    @classmethod
    @abstractmethod
    def tiny_config(cls) -> dict[str, Any]:
        """The config of a model small enough for tests."""

    @classmethod
    def live_config(cls, config: Mapping[str, Any]) -> PretrainedConfig:
        """What transformers makes of a `config.json`; a family whose files mean something else says so here.

        Raises:
            ConfigError: transformers' class would not compute what the config describes.
        """
        if "text_config" in config:
            raise ConfigError(
                f"A config with text_config (model_type {config.get('model_type')!r}) is that of a model that sees "
                "already: give a language model alone."
            )
        return _config_class(cls.model_class()).from_dict({k: v for k, v in config.items() if k != "model_type"})

    @classmethod
    def attention(cls, config: PretrainedConfig, wanted: str | None) -> str | None:
        """The attention to run, transformers' choice when None.

        Raises:
            ConfigError: the one wanted does not compute what the config describes.
        """
        return wanted

    @classmethod
    def stretch(cls, config: PretrainedConfig, length: int) -> None:
        """Make a config's positions reach `length`, by linear scaling beyond its own (see `navila.model.context`).

        Raises:
            ConfigError: its positions cannot be scaled, or are so already in another way and reach less.
        """
        own = getattr(config, "max_position_embeddings", None)
        if own is None or length <= own:
            return
        rope = getattr(config, "rope_parameters", None)
        if not rope:
            raise ConfigError(
                f"model_max_length is {length}, but the language model has {own} positions and no rotary ones that "
                "could be scaled: ask for no more."
            )
        config.rope_parameters = stretched(rope, own, length)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        *,
        dtype: torch.dtype | None = None,
        attn_implementation: str | None = None,
        model_max_length: int | None = None,
    ) -> PreTrainedModel:
        """A model with random weights, for sequences of `model_max_length` when given."""
        model_class = cls.model_class()
        live = cls.live_config(config)
        if model_max_length is not None:
            cls.stretch(live, model_max_length)
        attention = cls.attention(live, attn_implementation)
        if attention is not None:
            live._attn_implementation = attention
        model = model_class(live)
        cast_parameters(model, dtype or torch.float32)
        return model

    @classmethod
    def tiny(cls) -> PreTrainedModel:
        """A small random model for tests."""
        return cls.build(cls.tiny_config())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        config: Mapping[str, Any] | None = None,
        *,
        names: Mapping[str, str] | None = None,
        dtype: torch.dtype | None = None,
        attn_implementation: str | None = None,
        model_max_length: int | None = None,
        **options: Any,
    ) -> PreTrainedModel:
        """Load `config.json` and weights from a folder, for sequences of `model_max_length` when given.

        `options` are further ones of transformers' `from_pretrained`, such as `quantization_config` and `device_map`.

        Where the folder holds a larger model, `config` is the language model's part of its `config.json`, and `names`
        (patterns to replacements) makes the names of its tensors those of a language model.

        Raises:
            CheckpointError: a file or tensor is missing, corrupt or of another shape.
        """
        folder = Path(folder)
        raw = read_json(folder / "config.json") if config is None else config
        weight_files(folder)
        try:
            live = cls.live_config(raw)
            if model_max_length is not None:
                cls.stretch(live, model_max_length)
            with _quietly():
                loaded: Any = cls.model_class().from_pretrained(
                    folder,
                    config=live,
                    dtype=dtype or torch.float32,
                    attn_implementation=cls.attention(live, attn_implementation),
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    local_files_only=True,
                    key_mapping=dict(names) if names else None,
                    **options,
                )
            model, info = loaded
        except ConfigError as error:
            raise ConfigError(f"{folder / 'config.json'}: {error}") from None
        except Exception as error:
            # transformers does not say which file it is.
            check_files(folder)
            if isinstance(error, KeyError) and (known := _key_of(raw, error.args[0])):
                raise CheckpointError(
                    f"{folder / 'config.json'} has {known} {error.args[0]!r}, which transformers does not know."
                ) from error
            raise CheckpointError(f"{folder} cannot be loaded as a language model: {reason(error)}") from error
        if missing := sorted(info["missing_keys"]):
            raise CheckpointError(
                f"{folder} lacks {len(missing)} tensors, the first being {missing[0]!r}: the checkpoint is partial."
            )
        if mismatched := sorted(info["mismatched_keys"]):
            name, saved, wanted = mismatched[0]
            raise CheckpointError(
                f"{folder} has {name!r} of shape {tuple(saved)} where its config.json asks for {tuple(wanted)}: "
                "the two do not belong together."
            )
        if names:
            # transformers would save under the old names again.
            model._weight_conversions = None
        if config is None:
            # Else the folder is that of a larger model.
            warn_of_unused(info["unexpected_keys"], folder)
        return model

    @classmethod
    def save_pretrained(
        cls, model: PreTrainedModel, folder: str | Path, raw_config: Mapping[str, Any], **options: Any
    ) -> None:
        """Write the model; keys of `raw_config` that transformers does not know are kept."""
        folder = Path(folder)
        with _quietly():
            model.save_pretrained(folder, **options)
        write_json(folder / "config.json", cls.config_to_save(model, raw_config))

    @classmethod
    def config_to_save(cls, model: PreTrainedModel, raw_config: Mapping[str, Any]) -> dict[str, Any]:
        """The model's config with the unknown keys of the file it came from, in the form older readers know too."""
        live = model.config.to_diff_dict()
        rope = live.get("rope_parameters")
        if isinstance(rope, dict) and "rope_theta" in rope:
            # Before transformers 5 these were two keys; without them such a reader would fall back to theta 10000.
            live["rope_theta"] = rope["rope_theta"]
            live["rope_scaling"] = _old_rope_scaling(rope)
        if "dtype" in live:
            live["torch_dtype"] = live["dtype"]
        return merged_config(raw_config, live)

    @classmethod
    def load_tokenizer(cls, folder: str | Path) -> PreTrainedTokenizerBase:
        """The tokenizer of a folder, padding on the right.

        Raises:
            CheckpointError: its files are missing or cannot be read.
        """
        folder = Path(folder)
        read_json(folder / "tokenizer_config.json")
        try:
            with _quietly():
                if (folder / "tokenizer.json").is_file():
                    from transformers import PreTrainedTokenizerFast

                    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
                else:
                    from transformers import AutoTokenizer

                    tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:
            raise CheckpointError(f"The tokenizer in {folder} cannot be loaded: {reason(error)}") from error
        tokenizer.padding_side = "right"
        # Since transformers 5, the clean-up of spaces that a tokenizer's config asks for is ignored with byte-pair
        # encodings; answers of released checkpoints were decoded with it.
        tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
        return tokenizer

    @classmethod
    def save_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
        """Write the tokenizer's files, in the form that transformers 4 reads too."""
        folder = Path(folder)
        tokenizer.save_pretrained(folder)
        settings = read_json(folder / "tokenizer_config.json")
        if settings.get("tokenizer_class") == "TokenizersBackend":
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        # Says where this process found it, which is nobody else's concern.
        settings.pop("is_local", None)
        write_json(folder / "tokenizer_config.json", settings)
        if not (folder / "tokenizer.json").is_file():
            return
        whole = read_json(folder / "tokenizer.json")
        merges = whole.get("model", {}).get("merges") or []
        if merges and all(isinstance(pair, list) and not any(" " in part for part in pair) for pair in merges):
            whole["model"]["merges"] = [" ".join(pair) for pair in merges]
            (folder / "tokenizer.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False), encoding="utf-8")


def _old_rope_scaling(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    """`rope_scaling` as transformers 4 writes it, of `rope_parameters`; None when nothing is scaled."""
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind in ("linear", "dynamic"):
        # The readers before 4.43 take these two fields and no others.
        return {"type": kind, "factor": rope["factor"]}
    return {k: v for k, v in rope.items() if k != "rope_theta"}


def _key_of(config: Mapping[str, Any], value: Any) -> str | None:
    """The key that has a value, `hidden_act` or `rope_scaling.type`; None when there is none."""
    for key, found in config.items():
        if found == value:
            return key
        if isinstance(found, Mapping) and (inner := _key_of(found, value)):
            return f"{key}.{inner}"
    return None


def _config_class(model_class: type[PreTrainedModel]) -> type[PretrainedConfig]:
    config_class = model_class.config_class
    if config_class is None:
        raise TypeError(f"{model_class.__name__} names no config class")
    return config_class


@contextmanager
def _quietly() -> Iterator[None]:
    """Loading and saving a part is no event worth a bar of its own; what is wrong is told here, in our own words."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
