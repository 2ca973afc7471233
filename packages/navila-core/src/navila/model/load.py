"""`navila.load`: a composed model from a folder or a Hub id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from navila.errors import (
    AmbiguousComponentError,
    CheckpointError,
    ConfigError,
    NavilaError,
    NoTemplateError,
    UnknownComponentError,
    reason,
)
from navila.model.components import llm_backend, projector, vision_encoder
from navila.model.config import NavilaConfig, part_config
from navila.model.context import check_length, record_length
from navila.model.layouts import Part, sources
from navila.model.location import checkpoint_folder, read_json, read_root, split_adapter
from navila.model.nvila import add_media_tokens, is_nvila
from navila.model.placement import (
    Device,
    Placement,
    by_memory,
    divided,
    from_map,
    main_device,
    spread,
    stored_bytes,
)
from navila.model.quantization import check_quantizable, default_dtype, quantization_config
from navila.model.vocabulary import add_config_tokens
from navila.model.weights import cast_parameters, read_renamed, without_init

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from navila.conversation import Template
    from navila.model.modeling import NavilaForCausalLM

_DTYPES = {
    "float32": torch.float32,
    "float": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "half": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def load(
    path: str | Path,
    *,
    model_base: str | Path | None = None,
    vision_tower: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    template: str | None = None,
    model_max_length: int | None = None,
    quantization: str | QuantizationConfigMixin | None = None,
    device_map: str | Mapping[str, Device] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    devices: Sequence[int] | None = None,
    offload_folder: str | Path | None = None,
) -> NavilaForCausalLM:
    """Load a checkpoint, ready for evaluation: of the released layout, or of another that `navila.model.layouts` knows.

    Args:
        path: a folder, or the id of a repository on the Hugging Face Hub.
        model_base: the whole model under an adapter, when `path` is one, what it names when None; or the language model
            of a projector that was trained alone.
        vision_tower: folder or Hub id of the vision encoder, where the checkpoint only names one.
        device: `cuda` where there is one, else `cpu`, when None.
        dtype: `float16` on a GPU, as NaVILA was evaluated, and `float32` on a CPU when None.
        attn_implementation: an attention of transformers (`sdpa`, `eager`, `flash_attention_2`); its choice when None.
        template: name of the conversation template; what the checkpoint says when None.
        model_max_length: longest sequence to train on from here, see `navila.model.build`; as saved when None.
        quantization: load the language model in 8 or 4 bits: a name of `navila.model.quantization.SCHEMES`, or a
            quantisation config of transformers; as saved when None.
        device_map: spread the model over several devices instead of `device`: a strategy (`auto`, `balanced`,
            `balanced_low_0`, `sequential`), or a device for each module (see `navila.model.placement.from_map`).
        max_memory: limits for a strategy, e.g. `{0: "10GiB", "cpu": "30GiB"}`; alone it means `auto`.
        devices: GPUs to spread over, all memory of each: short for `max_memory`.
        offload_folder: where modules on disk are kept if they cannot be read from the checkpoint's own files.

    Returns:
        The model, with `tokenizer`, `image_processor` and `template`.

    Raises:
        CheckpointError: the checkpoint is missing, partial, corrupt or of an unknown layout.
        UnknownComponentError: no installed plugin loads one of its parts.
        ConfigError: dtype, device, quantization or device_map is none, or they do not go together.
        MissingDependencyError: the quantization needs a package.
    """
    from navila.model.modeling import NavilaForCausalLM

    device_map, max_memory = spread(device, device_map, max_memory, devices)
    main = resolve_device(device) if device_map is None else main_device(device_map, max_memory)
    kind = resolve_dtype(dtype) or default_dtype(quantization, main)
    check_attention(attn_implementation)
    check_length(model_max_length)
    quantizer = quantization_config(quantization, device=main, dtype=kind)
    folder, adapter = split_adapter(checkpoint_folder(path), model_base)
    parts = sources(
        folder, read_root(folder), vision_tower=vision_tower, model_base=None if adapter is not None else model_base
    )
    config = composed_config(parts.config, folder / "config.json")

    llm_folder = parts.llm.folder
    with named_in_errors(llm_folder / "config.json"):
        backend = llm_backend(part_type(parts.llm, config.llm_cfg))
    llm_source = parts.llm.config or read_json(llm_folder / "config.json")
    quantised = check_quantizable(quantization, llm_folder, llm_source, main)
    if adapter is not None and device_map is not None:
        raise ConfigError(
            f"{path} is an adapter, which is merged on one device: merge it with `navila model merge-lora` first, and "
            "load what that writes."
        )
    sides = (parts.vision_tower, parts.mm_projector)
    placement = _placement(sides, main, kind, device_map, max_memory, offload_folder)
    if isinstance(placement.llm, dict) and list(placement.llm) != [""]:
        with torch.device("meta"), without_init():
            placement = replace(placement, llm=divided(placement.llm, backend.build(llm_source)))
    if quantised and isinstance(placement.llm, dict) and "disk" in placement.llm.values():
        raise ConfigError("Quantised modules are not kept on disk: name a GPU or 'cpu' for them in device_map.")
    options: dict[str, Any] = {"quantization_config": quantizer} if quantizer is not None else {}
    if quantised or device_map is not None or main.type != "cpu":
        options |= placement.llm_options()
    llm = backend.from_pretrained(
        llm_folder,
        parts.llm.config,
        names=parts.llm.names,
        dtype=kind,
        attn_implementation=attn_implementation,
        model_max_length=model_max_length,
        **options,
    )
    tokenizer = backend.load_tokenizer(llm_folder)
    if nvila := is_nvila(parts.config):
        add_media_tokens(tokenizer)
    if not parts.text_template:
        tokenizer.chat_template = None
    if model_max_length is not None:
        record_length(llm, tokenizer, model_max_length)
    add_config_tokens(config, tokenizer, llm)

    with named_in_errors(parts.vision_tower.folder / "config.json"):
        encoder_class = vision_encoder(part_type(parts.vision_tower, config.vision_tower_cfg))
    with named_in_errors(folder / "config.json"):
        encoder = encoder_class.from_pretrained(
            parts.vision_tower.folder,
            parts.vision_tower.config,
            weights=part_weights(parts.vision_tower),
            select_layer=config.mm_vision_select_layer,
            select_feature=config.mm_vision_select_feature,
            attn_implementation=attn_implementation,
            **config.s2_options(),
        )

    mm_projector = load_projector(
        parts.mm_projector,
        part_config(config.mm_projector_cfg),
        downsample_order="row" if nvila else "column",
        mm_hidden_size=config.mm_hidden_size or encoder.out_features,
        hidden_size=config.hidden_size or llm.config.hidden_size,
    )
    model = NavilaForCausalLM(config, llm=llm, vision_tower=encoder, mm_projector=mm_projector)
    with named_in_errors(folder / "config.json") if template is None else nullcontext():
        spoken = template_for(template, config, tokenizer)
    model.attach(tokenizer=tokenizer, template=spoken, llm_source=llm_source)
    for part, device_of_part in ((encoder, placement.vision_tower), (mm_projector, placement.mm_projector)):
        cast_parameters(part, kind)
        part.to(device_of_part)
    if adapter is not None:
        from navila.model.adapters import load_adapter, merge

        load_adapter(model, adapter)
        if template is not None:
            model.template = template_for(template, config, tokenizer)
        if not getattr(llm, "is_quantized", False):
            # Merged, it costs nothing; rounding to 8 or 4 bits again would.
            merge(model)
    return model.eval()


def check_loading(
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    quantization: str | QuantizationConfigMixin | None = None,
    device_map: str | Mapping[str, Device] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    devices: Sequence[int] | None = None,
    **_: Any,
) -> None:
    """Tell now what of the options of `load` would be refused later; raises as `load`."""
    device_map, max_memory = spread(device, device_map, max_memory, devices)
    main = resolve_device(device) if device_map is None else main_device(device_map, max_memory)
    kind = resolve_dtype(dtype) or default_dtype(quantization, main)
    check_attention(attn_implementation)
    quantization_config(quantization, device=main, dtype=kind)


def _placement(
    sides: Sequence[Part],
    main: torch.device,
    dtype: torch.dtype,
    device_map: str | Mapping[str, Device] | None,
    max_memory: Mapping[int | str, int | str] | None,
    offload_folder: str | Path | None,
) -> Placement:
    """Where the parts of a checkpoint go; `sides` are those beside the language model."""
    offload = None if offload_folder is None else Path(offload_folder).expanduser()
    if device_map is None:
        return from_map({"": main})
    if not isinstance(device_map, str):
        return from_map(device_map, offload)
    side_bytes = sum(stored_bytes(part.weights or part.folder, part.names, dtype) for part in sides)
    return by_memory(device_map, max_memory, side_bytes, offload)


def part_type(part: Part, fallback: Any) -> str:
    """`model_type` of a part, as `model_type_of`."""
    return model_type_of(part.folder, fallback) if part.config is None else str(part.config.get("model_type"))


def part_weights(part: Part) -> dict[str, Tensor] | None:
    """The tensors of a part that are among others; None when its folder has them."""
    return None if part.weights is None else read_renamed(part.weights, part.names or {}) or None


def load_projector(
    part: Part, root_config: Mapping[str, Any], *, downsample_order: str, mm_hidden_size: int, hidden_size: int
) -> Any:
    """The projector of a checkpoint; the sizes and the order of tokens given count where its own config lacks them."""
    path = part.folder / "config.json"
    own = read_json(path) if part.weights is None and path.is_file() else {}
    sizes = {"mm_hidden_size": mm_hidden_size, "hidden_size": hidden_size}
    config = {**sizes, **(own or root_config)}
    type_string = config.get("mm_projector_type")
    if not isinstance(type_string, str):
        raise CheckpointError(f"{path} has no mm_projector_type: the checkpoint is partial.")
    if type_string == "mlp_downsample":
        # Before NVILA the tokens went down the columns.
        config.setdefault("downsample_order", downsample_order)
    weights = None if part.weights is None else part_weights(part) or {}
    with named_in_errors(path):
        projector_class = projector(type_string)
    return projector_class.from_pretrained(part.folder, config, weights=weights)


def read_config(folder: Path) -> NavilaConfig:
    """The top `config.json` of a checkpoint of the released layout; raises as `read_root`."""
    return composed_config(read_root(folder), folder / "config.json")


def composed_config(raw: Mapping[str, Any], path: Path) -> NavilaConfig:
    """The config of a composed model from what `path` says, which errors name.

    Raises:
        CheckpointError: a field has a value of a wrong kind.
    """
    try:
        config = NavilaConfig(**{k: v for k, v in raw.items() if k != "model_type"})
    except Exception as error:
        raise CheckpointError(f"{path} has a field of a wrong kind: {reason(error)}") from error
    with named_in_errors(path, CheckpointError):
        config.check()
    return config


@contextmanager
def named_in_errors(path: Path, kind: type[NavilaError] | None = None) -> Iterator[None]:
    """Put the file whose contents are read before what is said of them, in an error of type `kind` when given."""
    try:
        yield
    except (ConfigError, UnknownComponentError, AmbiguousComponentError) as error:
        raise (kind or type(error))(f"{path}: {error}") from error


def model_type_of(folder: Path, fallback: Any) -> str:
    """`model_type` of a part, from its folder, else from the top config."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else part_config(fallback)
    model_type = config.get("model_type")
    if model_type is None and "architecture" in config and "pretrained_cfg" in config:
        # timm's own files have these two instead.
        return "timm"
    if model_type is None and (folder / "open_clip_config.json").is_file():
        return "open_clip"
    if not model_type and config.get("architectures") == ["RADIOModel"]:
        # NVIDIA's own files name their class only.
        return "radio"
    if not isinstance(model_type, str):
        raise CheckpointError(f"{path} has no model_type: without it the part cannot be told.")
    return model_type


def template_for(name: str | None, config: NavilaConfig, tokenizer: Any) -> Template | None:
    """The conversation template of that name, else the checkpoint's; None when nothing tells it."""
    from navila.conversation import template_for_checkpoint

    name = name or config.conversation or _template_of_vila(config, tokenizer)
    if name:
        return template_for_checkpoint({"conversation": name}, tokenizer)
    try:
        return template_for_checkpoint(config, tokenizer)
    except NoTemplateError:
        # Only conversations need one: a bare model still computes logits.
        return None


def _template_of_vila(config: NavilaConfig, tokenizer: Any) -> str | None:
    """What VILA's own loader knew by `chat_template` (NVILA) or by the name of the checkpoint (VILA 1.5 40B)."""
    if getattr(config, "chat_template", None) == "qwen2":
        return "qwen_2"
    # Before NVILA, no template of a tokenizer was ever used.
    llama = part_config(config.llm_cfg).get("model_type") == "llama"
    if llama and not is_nvila(config.to_dict()) and "<|im_end|>" in tokenizer.get_vocab():
        return "hermes-2"
    return None


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device to load on.

    Raises:
        ConfigError: no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError):
        resolved = None
    if resolved is None or resolved.type == "meta":
        raise ConfigError(
            f"The device {str(device)!r} cannot be used here: give 'cpu', or 'cuda:N' of a GPU that torch sees."
        )
    return resolved


def check_attention(name: str | None) -> None:
    """Make sure an attention implementation exists and can run here.

    Raises:
        ConfigError: it does not or cannot.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.utils.import_utils import is_flash_attn_2_available

    known = {"eager", *ALL_ATTENTION_FUNCTIONS.keys()}
    if name is not None and name not in known:
        raise ConfigError(f"There is no attention {name!r}: use one of {', '.join(sorted(known))}.")
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError(
            f"{name} needs the package flash-attn and a GPU: run `pip install flash-attn`, or use 'sdpa'."
        )


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A floating-point type by name (`float16`, `torch.float16`, `fp16`) or itself.

    Raises:
        ConfigError: it is none of float32, float16, bfloat16.
    """
    if dtype is None or dtype in _DTYPES.values():
        return dtype if isinstance(dtype, torch.dtype) else None
    known = _DTYPES.get(str(dtype).removeprefix("torch."))
    if known is None:
        raise ConfigError(f"dtype is {str(dtype)!r}: use float32, float16 or bfloat16.")
    return known
