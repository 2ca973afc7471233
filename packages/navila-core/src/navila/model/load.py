"""`navila.load`: a composed model from a folder or a Hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from navila.errors import CheckpointError, ConfigError, NoTemplateError
from navila.model.components import llm_backend, projector, vision_encoder
from navila.model.config import NavilaConfig, part_config
from navila.model.context import check_length, record_length
from navila.model.location import checkpoint_folder, read_json, read_root
from navila.model.vocabulary import add_config_tokens
from navila.model.weights import cast_parameters

if TYPE_CHECKING:
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
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    template: str | None = None,
    model_max_length: int | None = None,
) -> NavilaForCausalLM:
    """Load a checkpoint of the released layout, ready for evaluation.

    Args:
        path: a folder, or the id of a repository on the Hugging Face Hub.
        device: `cuda` where there is one, else `cpu`, when None.
        dtype: `float16` on a GPU, as NaVILA was evaluated, and `float32` on a CPU when None.
        attn_implementation: an attention of transformers (`sdpa`, `eager`, `flash_attention_2`); its choice when None.
        template: name of the conversation template; what the checkpoint says when None.
        model_max_length: longest sequence to train on from here, see `navila.model.build`; as saved when None.

    Returns:
        The model, with `tokenizer`, `image_processor` and `template`.

    Raises:
        CheckpointError: the checkpoint is missing, partial, corrupt or of an unknown layout.
        UnknownComponentError: no installed plugin loads one of its parts.
        ConfigError: dtype or device is none.
    """
    from navila.model.modeling import NavilaForCausalLM

    where = resolve_device(device)
    check_attention(attn_implementation)
    check_length(model_max_length)
    kind = resolve_dtype(dtype) or (torch.float16 if where.type == "cuda" else torch.float32)
    folder = checkpoint_folder(path)
    config = read_config(folder)

    llm_folder = folder / "llm"
    backend = llm_backend(model_type_of(llm_folder, config.llm_cfg))
    llm = backend.from_pretrained(
        llm_folder, dtype=kind, attn_implementation=attn_implementation, model_max_length=model_max_length
    )
    tokenizer = backend.load_tokenizer(llm_folder)
    if model_max_length is not None:
        record_length(llm, tokenizer, model_max_length)
    add_config_tokens(config, tokenizer, llm)

    vision_folder = folder / "vision_tower"
    encoder_class = vision_encoder(model_type_of(vision_folder, config.vision_tower_cfg))
    vision_tower = encoder_class.from_pretrained(
        vision_folder,
        select_layer=config.mm_vision_select_layer,
        select_feature=config.mm_vision_select_feature,
        attn_implementation=attn_implementation,
        **config.s2_options(),
    )

    mm_projector = load_projector(
        folder / "mm_projector",
        part_config(config.mm_projector_cfg),
        mm_hidden_size=config.mm_hidden_size or vision_tower.out_features,
        hidden_size=config.hidden_size or llm.config.hidden_size,
    )
    model = NavilaForCausalLM(config, llm=llm, vision_tower=vision_tower, mm_projector=mm_projector)
    model.attach(
        tokenizer=tokenizer,
        template=template_for(template, config, tokenizer),
        llm_source=read_json(llm_folder / "config.json"),
    )
    cast_parameters(model, kind)
    torch.nn.Module.to(model, where)
    return model.eval()


def load_projector(folder: Path, root_config: Mapping[str, Any], *, mm_hidden_size: int, hidden_size: int) -> Any:
    """The projector of a checkpoint; its sizes come from the top config when its own lacks them."""
    path = folder / "config.json"
    own = read_json(path) if path.is_file() else {}
    sizes = {"mm_hidden_size": mm_hidden_size, "hidden_size": hidden_size}
    config = {**sizes, **(own or root_config)}
    type_string = config.get("mm_projector_type")
    if not isinstance(type_string, str):
        raise CheckpointError(f"{path} has no mm_projector_type: the checkpoint is partial.")
    return projector(type_string).from_pretrained(folder, config)


def read_config(folder: Path) -> NavilaConfig:
    """The top `config.json` of a checkpoint; raises as `read_root`."""
    raw = read_root(folder)
    try:
        config = NavilaConfig(**{k: v for k, v in raw.items() if k != "model_type"})
    except Exception as error:
        raise CheckpointError(f"{folder / 'config.json'} has a field of a wrong kind: {error}") from error
    for name in ("num_video_frames", "mm_vision_select_layer", "num_time_tokens"):
        if type(getattr(config, name)) is not int:
            raise CheckpointError(
                f"{folder / 'config.json'} has {name} {getattr(config, name)!r} where a whole number is expected."
            )
    return config


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

    if name:
        return template_for_checkpoint({"conversation": name}, tokenizer)
    try:
        return template_for_checkpoint(config, tokenizer)
    except NoTemplateError:
        # Only conversations need one: a bare model still computes logits.
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
        return resolved
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"The device {str(device)!r} cannot be used here: give 'cpu', 'cuda' or 'cuda:N'.") from None


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
