"""One checkpoint of the released layout out of what a training leaves: whole, or divided by ZeRO or FSDP."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from navila.errors import CheckpointError, NavilaError, reason
from navila.images import FILE_NAME, ImageProcessor
from navila.model.adapter_names import memory_name
from navila.model.components import llm_backend, projector, vision_encoder
from navila.model.config import part_config
from navila.model.dcp import METADATA, dcp_weights
from navila.model.load import load, model_type_of, read_config, resolve_dtype, template_for
from navila.model.location import ADAPTER_CONFIG, checkpoint_folder, read_json
from navila.model.modeling import PARTS, NavilaForCausalLM
from navila.model.weights import check_shapes, replacing, weight_files, without_init
from navila.model.zero import MODEL_STATES, zero_weights

#: What wrappers put before the names of parts.
_WRAPPERS = re.compile(r"^(?:model\.|module\.|_orig_mod\.)*(?=(?:llm|vision_tower|mm_projector)\.)")


def consolidate(
    source: Path,
    output: Path,
    *,
    model_base: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Write the newest checkpoint of a training in the released layout, without the state of its optimizer.

    Args:
        source: the folder of a run, of one of its checkpoints, or of its shards. Where a checkpoint is whole already,
            its files are copied.
        output: where to write.
        model_base: where configs and tokenizer come from; the checkpoint, else the run, when None.
        dtype: of the weights; as they were kept when None, which is float32 where they were trained under ZeRO.
        report: called with a line for each step.

    Raises:
        CheckpointError: there are no complete weights, they are broken, or no config tells what they are.
    """
    kind = resolve_dtype(dtype)
    checkpoint = _newest(source)
    if _is_whole(checkpoint):
        report(f"{checkpoint} is whole")
        if kind is None:
            _copy_parts(checkpoint, output)
        else:
            load(checkpoint, device="cpu", dtype=kind).save_pretrained(output)
        return
    shards, weights = _shards(checkpoint)
    configs = _configs(checkpoint, model_base)
    report(f"reading {shards}; configs of {configs}")
    model = skeleton(configs)
    state = {}
    for name, tensor in weights:
        plain, found = _WRAPPERS.subn("", name)
        if found:
            value = tensor if kind is None or not tensor.is_floating_point() else tensor.to(kind)
            state[memory_name(model, plain)] = value
            if len(state) % 100 == 0:
                report(f"{len(state)} tensors put together")
    _fill(model, state, shards, configs)
    report(f"writing {output}")
    model.save_pretrained(output)


def skeleton(folder: Path) -> NavilaForCausalLM:
    """The model that the configs of a folder describe, with its tokenizer and without memory for its weights.

    Raises:
        CheckpointError: a config is missing or describes no model.
    """
    config = read_config(folder)
    llm_folder, tower, joint = (folder / part for part in PARTS)
    backend = llm_backend(model_type_of(llm_folder, config.llm_cfg))
    llm_source = read_json(llm_folder / "config.json")
    encoder_class = vision_encoder(model_type_of(tower, config.vision_tower_cfg))
    own = (
        read_json(joint / "config.json") if (joint / "config.json").is_file() else part_config(config.mm_projector_cfg)
    )
    try:
        with torch.device("meta"), without_init():
            llm = backend.build(llm_source)
            # What ties embeddings is part of the initialisation that is left out.
            llm.tie_weights()
            encoder = encoder_class(
                encoder_class.select_config(read_json(tower / "config.json")),
                select_layer=config.mm_vision_select_layer,
                select_feature=config.mm_vision_select_feature,
                **config.s2_options(),
            )
            sizes = {"mm_hidden_size": encoder.out_features, "hidden_size": llm.config.get_text_config().hidden_size}
            mm_projector = projector(str(own.get("mm_projector_type")))({**sizes, **own})
    except NavilaError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"The configs of {folder} describe no model ({reason(error)}): fetch them again."
        ) from error
    if (tower / FILE_NAME).is_file():
        encoder._prepare_with(ImageProcessor.from_pretrained(tower))
    model = NavilaForCausalLM(config, llm=llm, vision_tower=encoder, mm_projector=mm_projector)
    tokenizer = backend.load_tokenizer(llm_folder)
    model.attach(tokenizer=tokenizer, template=template_for(None, config, tokenizer), llm_source=llm_source)
    return model


def _fill(model: NavilaForCausalLM, state: dict[str, Tensor], shards: Path, configs: Path) -> None:
    """Give the model its weights."""
    adapter = next((name for name in state if ".lora_" in name), None)
    if adapter is not None:
        raise CheckpointError(
            f"{shards} holds an adapter ({adapter!r}): its base is not in it, so it is no whole model."
        )
    own = model.state_dict()
    for name, original in _tied(model).items():
        if name not in state and original in state:
            state[name] = state[original]
    strange = next((name for name in state if name not in own), None)
    if strange is not None:
        raise CheckpointError(f"{shards} holds {strange!r}, which the model of {configs} does not have: give its own.")
    check_shapes(own, state, shards)
    model.load_state_dict(state, assign=True)
    model.llm.tie_weights()


def _tied(model: NavilaForCausalLM) -> dict[str, str]:
    """Second names of the language model's parameters, to their first."""
    parameters: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in parameters:
            tied[name] = parameters[id(parameter)]
        parameters.setdefault(id(parameter), name)
    return tied


# -- what a training leaves -------------------------------------------------------------------------------------------


def _newest(source: Path) -> Path:
    """The checkpoint of a folder that has its weights: itself, else the last of its run.

    Raises:
        CheckpointError: there is none.
    """
    steps = [path for path in source.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    steps.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)
    for folder in (source, *steps):
        if _is_whole(folder) or _zero(folder) is not None or _sharded(folder) is not None:
            return folder
    for folder in (source, *steps):
        if (folder / ADAPTER_CONFIG).is_file():
            raise CheckpointError(f"{folder} is an adapter: `navila model merge-lora` makes a whole model of it.")
    raise CheckpointError(
        f"{source} holds no checkpoint: neither weights of all parts, nor global_step* of ZeRO, nor {METADATA} of FSDP."
    )


def _is_whole(folder: Path) -> bool:
    """Whether the released layout is there with its weights; under ZeRO-3 a training writes its configs alone."""
    try:
        read_config(folder)
        for part in ("llm", "vision_tower"):
            weight_files(folder / part)
    except NavilaError:
        return False
    return True


def _zero(folder: Path) -> Path | None:
    """The folder of ZeRO's files: itself, or the one that `latest` names, which DeepSpeed writes last."""
    if any(folder.glob(MODEL_STATES)):
        return folder
    if not (folder / "latest").is_file():
        return None
    named = folder / (folder / "latest").read_text(encoding="utf-8").strip()
    return named if named.is_dir() and named.parent == folder else None


def _sharded(folder: Path) -> Path | None:
    """The folder of FSDP's files in a checkpoint."""
    for path in (folder / METADATA, *sorted(folder.glob(f"*/{METADATA}"))):
        if path.is_file():
            return path.parent
    return None


def _shards(checkpoint: Path) -> tuple[Path, Iterator[tuple[str, Tensor]]]:
    """Where the weights of a checkpoint are, and they themselves."""
    zero = _zero(checkpoint)
    if zero is not None:
        return zero, zero_weights(zero)
    sharded = _sharded(checkpoint)
    assert sharded is not None
    return sharded, dcp_weights(sharded)


def _configs(checkpoint: Path, model_base: str | Path | None) -> Path:
    """The folder whose configs describe the weights of a checkpoint.

    Raises:
        CheckpointError: neither the checkpoint nor its run has them, and no base is given.
    """
    if model_base is not None:
        return checkpoint_folder(model_base)
    for folder in (checkpoint, checkpoint.parent, checkpoint.parent.parent):
        if (folder / "config.json").is_file() and (folder / "llm" / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"{checkpoint} has weights and no config.json, nor has the folder of its run: give the model that the training "
        "began with as --model-base."
    )


def _copy_parts(checkpoint: Path, output: Path) -> None:
    with replacing(output) as new:
        shutil.copyfile(checkpoint / "config.json", new / "config.json")
        for part in PARTS:
            if (checkpoint / part).is_dir():
                shutil.copytree(checkpoint / part, new / part)
