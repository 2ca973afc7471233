"""LoRA and DoRA adapters by PEFT: on the language model, the vision encoder or both, and in its file format.

PEFT is given the module that an adapter sits on (`navila.model.adapter_names`), so that an adapter of the language
model is what plain PEFT makes of the bare language model, and is read by it. Beside the adapter, a folder may hold
parameters that were trained whole (`non_lora_trainables.safetensors` or `.bin`) and a `config.json`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor, nn

from navila.errors import CheckpointError, ConfigError, MissingDependencyError, reason
from navila.model.adapter_names import (
    NAME,
    PREFIX,
    adapter_scope,
    file_name,
    memory_name,
    of_adapter,
    rename_targets,
    scope_of,
)
from navila.model.components import llm_backend
from navila.model.load import named_in_errors, template_for
from navila.model.location import ADAPTER_CONFIG, read_json
from navila.model.vocabulary import grow_vocabulary
from navila.model.weights import read_tensors, replacing, write_json

if TYPE_CHECKING:
    from peft import LoraConfig

    from navila.model.modeling import NavilaForCausalLM

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
NON_LORA = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")
#: What of `config.json` comes from training and not from the base.
TRAINED_FIELDS = ("num_video_frames", "fps", "image_aspect_ratio", "conversation")
_TABLES = ("embed_tokens.weight", "lm_head.weight")


def add_lora(
    model: NavilaForCausalLM,
    *,
    r: int = 64,
    alpha: float = 16,
    dropout: float = 0.05,
    targets: str | Iterable[str] | None = None,
    parts: Iterable[str] = ("llm",),
    use_dora: bool = False,
    **options: Any,
) -> None:
    """Put a trainable adapter on some parts and freeze what lies under it; others stay as `set_trainable` left them.

    Args:
        r, alpha, dropout: rank, scale (the update is multiplied by alpha / r) and dropout of the update's input.
        targets: names of linear layers, or their ends (`q_proj`), or a pattern; when None all that run but the head, as
            in the original.
        parts: `llm`, `vision_tower` or both.
        use_dora: learn magnitudes too (DoRA, arXiv 2402.09353).
        options: further fields of `peft.LoraConfig`, e.g. `use_rslora`, `bias`, `modules_to_save`, `rank_pattern`.

    Raises:
        ConfigError: there is an adapter already, or the targets or parts are none.
    """
    peft = import_peft()
    wanted = frozenset(parts)
    if not wanted or wanted - {"llm", "vision_tower"}:
        raise ConfigError(f"An adapter goes on llm, vision_tower or both, not on {sorted(wanted)}.")
    if has_adapter(model):
        raise ConfigError("The model has an adapter already: merge it before adding another.")
    scope = {frozenset({"llm"}): "llm", frozenset({"vision_tower"}): "vision_tower.vision_tower"}.get(wanted, "")
    module = model.get_submodule(scope)
    idle = [whole for whole in model.vision_tower.unused_modules() if isinstance(whole, nn.Module)]
    unused = {layer for whole in idle for layer in whole.modules()}
    inside = tuple(f"{part}." for part in wanted) if not scope else ("",)
    running = {n: layer for n, layer in module.named_modules() if layer not in unused and n.startswith(inside)}
    if targets is None:
        targets = [n for n, layer in running.items() if isinstance(layer, nn.Linear) and not n.endswith("lm_head")]
    elif scope != "llm" and not isinstance(targets, str):
        # PEFT would take layers of these names that never run, or of other parts.
        ends = tuple(targets)
        targets = [n for n in running if f".{n}".endswith(tuple(f".{end}" for end in ends))] or ends
    config = peft.LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  PEFT takes any number
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_dora=use_dora,
        task_type="CAUSAL_LM",
        **options,
    )
    with _unfrozen_outside(model, wanted):
        try:
            _inject(module, config)
        except ValueError as error:
            raise ConfigError(f"The adapter does not fit the model ({reason(error)}): mend its targets.") from None
    # What never runs gets no gradient, which data-parallel training would wait for.
    for layer in idle:
        layer.requires_grad_(False)


def load_adapter(model: NavilaForCausalLM, folder: str | Path, *, trainable: bool = False) -> None:
    """Put an adapter of a folder on a model, and the parameters beside it that were trained whole.

    Args:
        model: the base.
        folder: as PEFT writes it, or the original's LoRA training.
        trainable: go on training it; what lies under it is frozen either way.

    Raises:
        CheckpointError: a file is missing or corrupt, lacks a tensor, or does not fit the model: another base is meant.
    """
    peft = import_peft()
    folder = Path(folder)
    if has_adapter(model):
        raise ConfigError("The model has an adapter already: merge it before loading another.")
    config = _read_config(peft, folder)
    path, weights = _read_weights(model, folder)
    scope = scope_of(model, weights, path)
    _load_tokenizer(model, folder)
    _load_whole(model, folder)
    _make_room(model, scope, weights)

    rename_targets(model, config)
    config.inference_mode = not trainable
    module = model.get_submodule(scope)
    parts = {name.partition(".")[0] for name in weights} if not scope else {scope.partition(".")[0]}
    with _unfrozen_outside(model, parts):
        try:
            _inject(module, config)
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{folder / ADAPTER_CONFIG} does not fit this base ({reason(error)}): give the base it was trained on."
            ) from None
    _set_weights(peft, module, weights, path)
    own = folder / "config.json"
    saved = read_json(own) if own.is_file() else {}
    told = {name: saved[name] for name in TRAINED_FIELDS if saved.get(name) is not None}
    for name, value in told.items():
        setattr(model.config, name, value)
    with named_in_errors(own):
        model.config.check()
        if "conversation" in told:
            model.template = template_for(None, model.config, model.tokenizer)


def read_adapter(model: NavilaForCausalLM, folder: str | Path) -> None:
    """Read a folder's weights into the adapter that a model has, and into the parameters beside it.

    Raises:
        CheckpointError: as `load_adapter`.
        ConfigError: the model has no adapter.
    """
    peft = import_peft()
    folder = Path(folder)
    scope = adapter_scope(model)
    if scope is None:
        raise ConfigError("The model has no adapter to read weights into: use load_adapter.")
    path, weights = _read_weights(model, folder)
    _load_whole(model, folder)
    _set_weights(peft, model.get_submodule(scope), weights, path)


def save_adapter(
    model: NavilaForCausalLM,
    folder: str | Path,
    *,
    base: str | Path | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the adapter, the trained parameters that are not of it, tokenizer and `config.json`, but not the base.

    Args:
        model: with an adapter.
        folder: `adapter_config.json`, written last, says that the rest is there.
        base: folder or Hub id of the base, so that it need not be named when loading.
        state_dict: what to write instead of the weights in memory, names as in `model.state_dict()` (ZeRO-3).

    Raises:
        ConfigError: the model has no adapter.
    """
    from navila.model.save import part_state, root_config

    peft = import_peft()
    scope = adapter_scope(model)
    if scope is None:
        raise ConfigError("The model has no adapter to save: add one with add_lora, or use save_pretrained.")
    module = model.get_submodule(scope)
    state = dict(model.state_dict() if state_dict is None else state_dict)
    inside = (part_state(state, scope) or {}) if scope else state
    adapter = peft.get_peft_model_state_dict(module, state_dict=inside, adapter_name=NAME, save_embedding_layers=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    whole = {name: state[name] for name in trained if not of_adapter(name)}
    config: Any = copy.deepcopy(module.peft_config[NAME])  # type: ignore[union-attr, index]
    config.inference_mode = True
    config.base_model_name_or_path = str(base) if base is not None else config.base_model_name_or_path
    if isinstance(config.target_modules, set | list | tuple) and not scope:
        config.target_modules = sorted(file_name(model, name) for name in config.target_modules)
    backend = llm_backend(model.llm.config.model_type)
    llm_config = backend.config_to_save(model.llm, model.llm_source)
    with replacing(Path(folder)) as new:
        _write(new / WEIGHTS[0], {PREFIX + file_name(model, name): t for name, t in adapter.items()})
        if whole:
            _write(new / NON_LORA[0], {file_name(model, name): t for name, t in whole.items()})
        if model.tokenizer is not None:
            backend.save_tokenizer(model.tokenizer, new)
        write_json(new / "config.json", root_config(model, llm_config))
        config.save_pretrained(new)


def merge(model: NavilaForCausalLM) -> None:
    """Add the adapter's update to the weights and take the adapter away; the logits stay what they were.

    Raises:
        ConfigError: the model has no adapter.
        CheckpointError: the update holds values that are not finite.
    """
    import_peft()
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    scope = adapter_scope(model)
    if scope is None:
        raise ConfigError("The model has no adapter to merge.")
    module: Any = model.get_submodule(scope)
    _untie(model)
    # Outer wrappers come before what they hold; what is inside a replaced one is not looked at again.
    done: list[str] = []
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper) or name.startswith(tuple(done)):
            continue
        done.append(f"{name}.")
        special: Any = getattr(layer, "unload_and_optionally_merge_module", None)
        try:
            if special is not None:
                merged = special(merge=True, safe_merge=True, adapter_names=None)
            else:
                layer.merge(safe_merge=True)  # type: ignore[operator]
                merged = layer.get_base_layer()  # type: ignore[operator]
        except ValueError as error:
            raise CheckpointError(f"The adapter of {name} cannot be merged: {reason(error)}.") from None
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, merged)
    del module.peft_config


def has_adapter(model: NavilaForCausalLM) -> bool:
    """Whether an adapter is on the model, not merged."""
    return adapter_scope(model) is not None


def import_peft() -> Any:
    """The package peft.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise MissingDependencyError(
            "Adapters need peft, not installed here: run `pip install 'navila-core[peft]'`."
        ) from None
    return peft


def _read_weights(model: NavilaForCausalLM, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file of an adapter's tensors, and they by their names in memory."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has {ADAPTER_CONFIG} and no {WEIGHTS[0]}: the adapter is partial.")
    return path, {memory_name(model, name.removeprefix(PREFIX)): tensor for name, tensor in read_tensors(path).items()}


def _read_config(peft: Any, folder: Path) -> Any:
    path = folder / ADAPTER_CONFIG
    kind = read_json(path).get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path} has peft_type {kind!r}: only adapters of type LORA (LoRA and DoRA) are loaded.")
    try:
        return peft.LoraConfig.from_pretrained(str(folder))
    except Exception as error:
        raise CheckpointError(f"{path} describes no adapter ({reason(error)}): fetch the file again.") from error


def _load_tokenizer(model: NavilaForCausalLM, folder: Path) -> None:
    """Take the tokenizer beside an adapter where it knows more tokens than the base's, and make room for them."""
    if not (folder / "tokenizer_config.json").is_file():
        return
    tokenizer: Any = llm_backend(model.llm.config.model_type).load_tokenizer(folder)
    if model.tokenizer is None or len(tokenizer) > len(model.tokenizer):
        grow_vocabulary(model.llm, len(tokenizer))
        model.tokenizer = tokenizer


def _load_whole(model: NavilaForCausalLM, folder: Path) -> None:
    """Read the parameters that were trained whole."""
    path = next((folder / name for name in NON_LORA if (folder / name).is_file()), None)
    if path is None:
        return
    saved = {}
    for name, tensor in read_tensors(path).items():
        # The original's names begin with those of its wrappers.
        plain = re.sub(r"^(?:base_model\.)?(?:model\.)*(?=(?:llm|vision_tower|mm_projector)\.)", "", name)
        saved[memory_name(model, plain).replace(".base_layer.", ".")] = tensor
    _make_room(model, "", saved)
    own = model.state_dict()
    for name, tensor in saved.items():
        if name not in own or own[name].shape != tensor.shape:
            has = f"of shape {tuple(own[name].shape)}" if name in own else "no such tensor"
            raise CheckpointError(
                f"{path} has {name!r} of shape {tuple(tensor.shape)} where the base model has {has}: give the base it "
                "was trained on."
            )
    model.load_state_dict(saved, strict=False)


def _make_room(model: NavilaForCausalLM, scope: str, weights: Mapping[str, Tensor]) -> None:
    """Grow the vocabulary to the largest table among the weights."""
    rows = [t.shape[0] for name, t in weights.items() if name.endswith(_TABLES) and t.ndim == 2]
    if rows and scope in ("", "llm"):
        grow_vocabulary(model.llm, max(rows))


def _set_weights(peft: Any, module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy an adapter's tensors into its place; every one must be there, and fit."""
    expected = peft.get_peft_model_state_dict(module, adapter_name=NAME, save_embedding_layers=False)
    for name, tensor in weights.items():
        if name in expected and expected[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path} has {name!r} of shape {tuple(tensor.shape)} where this base asks for "
                f"{tuple(expected[name].shape)}: give the base it was trained on."
            )
    try:
        result = peft.set_peft_model_state_dict(module, dict(weights), adapter_name=NAME)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the tensor {error.args[0]!r}: the adapter is partial.") from None
    missing = [name for name in result.missing_keys if of_adapter(name)]
    if missing:
        name = missing[0].replace(f".{NAME}", "").replace(".modules_to_save", "")
        raise CheckpointError(
            f"{path} lacks the tensor {name!r}, which {ADAPTER_CONFIG} asks for: the adapter is partial or of another "
            "base."
        )
    if result.unexpected_keys:
        raise CheckpointError(
            f"{path} holds {result.unexpected_keys[0]!r}, which {ADAPTER_CONFIG} does not ask for: the two do not "
            "belong together."
        )


def _inject(module: nn.Module, config: LoraConfig) -> None:
    import warnings

    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    with warnings.catch_warnings():
        # PEFT warns of tied embeddings, which `merge` takes care of.
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        inject_adapter_in_model(config, module, adapter_name=NAME)
    # As PEFT does in its own models: small updates would vanish in half precision.
    cast_adapter_dtype(module, NAME)


@contextmanager
def _unfrozen_outside(model: NavilaForCausalLM, parts: Iterable[str]) -> Iterator[None]:
    """Keep what is trainable outside some parts: PEFT freezes all it is given but the adapter."""
    inside = tuple(f"{part}." for part in parts)
    before = {n: p.requires_grad for n, p in model.named_parameters() if not n.startswith(inside)}
    yield
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.requires_grad_(before[name])


def _untie(model: NavilaForCausalLM) -> None:
    """Part the two embedding tables where the adapter is about to make them differ."""
    tables: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    adapted = any(hasattr(table, name) for table in tables for name in ("base_layer", "modules_to_save"))
    if not adapted or not getattr(model.llm.config, "tie_word_embeddings", False):
        return
    for table in tables:
        layer = getattr(table, "base_layer", table)
        if isinstance(getattr(layer, "weight", None), nn.Parameter):
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=layer.weight.requires_grad)
    model.llm.config.tie_word_embeddings = False
    model.llm_source = {**model.llm_source, "tie_word_embeddings": False}


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})
