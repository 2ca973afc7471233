"""Facts about a checkpoint, without its weights: what it is made of, how many tokens, how much memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from navila.errors import CheckpointError, ConfigError, NavilaError, UnknownComponentError
from navila.images import FILE_NAME, ImageProcessor
from navila.model.components import (
    llm_backend,
    llm_spec,
    projector,
    projector_spec,
    vision_encoder,
    vision_encoder_spec,
)
from navila.model.config import NavilaConfig, part_config
from navila.model.headers import StoredTensor, stored_tensors, tensors_in
from navila.model.layouts import MODEL_TYPES, Part, Sources, sources
from navila.model.load import composed_config, part_type, template_for
from navila.model.location import ADAPTER_CONFIG, read_json, read_root
from navila.model.nvila import Nvila
from navila.model.vision import VisionEncoder
from navila.model.weights import check_shapes
from navila.plugins import default_host
from navila.registry import one_line

ResultT = TypeVar("ResultT")

PARTS = {"llm": "llm", "vision_tower": "vision-encoder", "mm_projector": "projector"}
"""Folders of a checkpoint, and the kinds of component that load them."""
_SPECS = {"llm": llm_spec, "vision_tower": vision_encoder_spec, "mm_projector": projector_spec}


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """One of the three parts; None where nothing tells."""

    part: str
    model_type: str | None = None
    """`model_type` of its config; of a projector, its `mm_projector_type`."""
    loaded_by: str | None = None
    """Distribution and version of the plugin that loads it."""
    target: str | None = None
    """`"package.module:Class"` of that plugin."""
    parameters: int | None = None
    dtypes: dict[str, int] = field(default_factory=dict)
    """Type on disk to number of values."""
    size: int | None = None
    """Bytes of its tensors on disk."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint's files tell; None where they do not."""

    folder: str
    parts: tuple[PartFacts, ...]
    parameters: int | None
    tokens_per_image: int | None
    token_order: str | None
    """`column` or `row`, of projectors that have a choice."""
    image_size: int | None
    """Side in pixels of what the encoder is given."""
    image_aspect_ratio: str | None
    select_layer: int | None
    select_feature: str | None
    num_video_frames: int | None
    tokens_per_video: int | None
    """Of `num_video_frames` frames, without any text."""
    context_length: int | None
    """Longest prompt it was trained with, in tokens."""
    max_positions: int | None
    """Positions its language model can tell apart."""
    template: str | None
    vocabulary: int | None
    """Tokens of the tokenizer."""
    weight_memory: dict[str, int]
    """Bytes of the weights loaded in float32, float16, int8 and int4; see `weight_memory`."""
    kv_cache: int | None
    """Bytes that 1000 tokens take in a float16 cache, where no layer has a sliding window."""
    made_by: dict[str, str]
    """Plugins and versions that wrote it."""
    files: dict[str, int]
    """File to bytes."""
    problems: tuple[str, ...]
    """Why it would not load, a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self)


def inspect_checkpoint(folder: Path) -> CheckpointFacts:
    """Read all that the files tell, as far as they are there and whole; what is wrong is in `problems`.

    Takes seconds and little memory whatever the size: weights are known from the headers of their files, and modules
    are built without memory (torch's meta device).

    Raises:
        CheckpointError: it is an adapter, which is no checkpoint without its base.
    """
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "llm").is_dir():
        raise CheckpointError(
            f"{folder} is an adapter: look at its base, or merge them with `navila model merge-lora` first."
        )
    problems = _Problems()
    path = folder / "config.json"
    parts = problems.attempt(lambda: sources(folder, read_root(folder)), path)
    if parts is None:
        # What is left of the released layout.
        raw = (problems.attempt(lambda: read_json(path), path) if path.is_file() else None) or {}
        raw = raw if raw.get("model_type") in MODEL_TYPES else {}
        at = [Part(folder=folder / part) for part in PARTS]
        parts = Sources(config=raw, llm=at[0], vision_tower=at[1], mm_projector=at[2])
    root = problems.attempt(lambda: composed_config(parts.config, path), path) or NavilaConfig()
    places = {part: _Source(part=part, at=getattr(parts, part), top=parts.config.get(f"{part}_cfg")) for part in PARTS}
    llm, tower, joint = places.values()

    nvila = problems.attempt(lambda: Nvila.of(parts.config), path)
    # A part that is not there at all has been told.
    live = problems.attempt(lambda: _live_llm(llm), llm.folder) if llm.known else None
    encoder = problems.attempt(lambda: _encoder(tower, root), tower.folder) if tower.known else None
    sizes = None
    if encoder is not None and live is not None:
        scales = 1 if nvila is None else nvila.width_factor
        sizes = {"mm_hidden_size": encoder.out_features * scales, "hidden_size": live.hidden_size}
    mapped = problems.attempt(lambda: _projector(joint, sizes, nvila is not None), joint.folder) if sizes else None
    tokenizer = template = None
    if llm.known:
        tokenizer = problems.attempt(lambda: llm_backend(llm.model_type()).load_tokenizer(llm.folder), llm.folder)
    if tokenizer is not None:
        template = problems.attempt(lambda: template_for(None, root, tokenizer), path)

    tensors: dict[str, list[StoredTensor] | None] = {}
    for part, place in places.items():
        if part == "mm_projector" and mapped is not None and not mapped.state_dict():
            # A projector without parameters has no weight file.
            tensors[part] = []
        elif place.folder.is_dir():
            tensors[part] = problems.attempt(lambda place=place: place.tensors(parts), place.folder)
        else:
            tensors[part] = None
    problems.attempt(lambda: _check_encoder(encoder, tensors["vision_tower"], tower), tower.folder)
    if encoder is not None and (encoder.needs_processor_file or (tower.folder / FILE_NAME).is_file()):
        problems.attempt(lambda: ImageProcessor.from_pretrained(tower.folder), tower.folder)
    problems.attempt(lambda: _check_projector(mapped, tensors["mm_projector"], joint.folder), joint.folder)
    problems.attempt(lambda: _check_llm(llm, tensors["llm"]), llm.folder)

    facts = tuple(_part_facts(place, tensors[part]) for part, place in places.items())
    counts = [part.parameters for part in facts if part.parameters is not None]
    complete = len(counts) == len(facts)
    frames = root.num_video_frames if type(root.num_video_frames) is int else None
    tokens = None if mapped is None or encoder is None else mapped.num_tokens(encoder.num_tokens)
    return CheckpointFacts(
        folder=str(folder),
        parts=facts,
        parameters=sum(counts) if complete else None,
        tokens_per_image=tokens,
        token_order=None if mapped is None else mapped.config.get("downsample_order"),
        image_size=None if encoder is None else encoder.input_size,
        image_aspect_ratio=root.image_aspect_ratio,
        select_layer=None if encoder is None else encoder.select_layer,
        select_feature=None if encoder is None else encoder.select_feature,
        num_video_frames=frames,
        tokens_per_video=None if tokens is None or frames is None else tokens * frames,
        context_length=getattr(live, "tokenizer_model_max_length", None),
        max_positions=getattr(live, "max_position_embeddings", None),
        template=None if template is None else template.name,
        vocabulary=None if tokenizer is None else len(tokenizer),
        weight_memory=weight_memory(tensors["llm"] or [], sum(counts)) if complete else {},
        kv_cache=None if live is None else kv_cache(live),
        made_by={name: str(version) for name, version in part_config(parts.config.get("navila_plugins")).items()},
        files={str(f.relative_to(folder)): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()},
        problems=tuple(problems.found),
    )


class _Problems:
    """Collects why a checkpoint would not load, so that reading goes on with what is left."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def attempt(self, read: Callable[[], ResultT], where: Path) -> ResultT | None:
        """What `read` gives; None, and a sentence more, when it fails."""
        try:
            return read()
        except (ConfigError, UnknownComponentError) as error:
            # Neither names the file it was read from.
            problem = f"{where}: {error}"
        except NavilaError as error:
            problem = str(error)
        except Exception as error:
            # transformers and torch refuse what makes no sense in words of their own.
            problem = f"{where} describes nothing that can be built ({one_line(error)}): fetch it again."
        if problem not in self.found:
            self.found.append(problem)
        return None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a part is and what the top `config.json` says of it."""

    part: str
    at: Part
    top: Any

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.at.folder

    @property
    def known(self) -> bool:
        """Whether anything is there of it."""
        return self.folder.is_dir() or bool(part_config(self.top))

    def config(self) -> Mapping[str, Any]:
        """Its own `config.json`, else what the top one says."""
        if self.at.config is not None:
            return self.at.config
        path = self.folder / "config.json"
        # A projector among other weights has no file of its own.
        own = path.is_file() and not (self.part == "mm_projector" and self.at.weights is not None)
        return read_json(path) if own else part_config(self.top)

    def model_type(self) -> str:
        """What its component is found by."""
        if self.part != "mm_projector":
            return part_type(self.at, self.top)
        type_string = self.config().get("mm_projector_type")
        if not isinstance(type_string, str):
            raise CheckpointError(f"{self.folder} has no mm_projector_type: the checkpoint is partial.")
        return type_string

    def tensors(self, parts: Sources) -> list[StoredTensor]:
        """Its tensors under its own names, where other parts' lie among them too."""
        at = self.at
        if at.weights is not None:
            files = tensors_in(at.weights) if at.weights.is_file() else stored_tensors(at.weights)
            if found := _renamed(files, at.names or {}):
                return found
        if self.part == "llm" and at.config is not None:
            others = [*(parts.vision_tower.names or {}), *(parts.mm_projector.names or {})]
            own = [t for t in stored_tensors(self.folder) if not any(re.search(p, t.name) for p in others)]
            return _renamed(own, at.names) if at.names else own
        return stored_tensors(self.folder)


def _renamed(stored: list[StoredTensor], names: Mapping[str, str]) -> list[StoredTensor]:
    """The tensors whose names one of `names` matches, under the new names, as `navila.model.weights.read_renamed`."""
    found = ((tensor, next((p for p in names if re.search(p, tensor.name)), None)) for tensor in stored)
    return [replace(tensor, name=re.sub(p, names[p], tensor.name)) for tensor, p in found if p is not None]


def weight_memory(llm: list[StoredTensor], parameters: int) -> dict[str, int]:
    """Bytes of all weights by the type they are loaded in.

    int8 and int4 hold the matrices of the language model but for embeddings and head, as bitsandbytes does; the rest is
    in float16, and int4 keeps a float32 scale for every 64 weights.
    """
    packed = sum(t.count for t in llm if len(t.shape) > 1 and not re.search(r"embed|lm_head", t.name))
    rest = 2 * (parameters - packed)
    return {
        "float32": 4 * parameters,
        "float16": 2 * parameters,
        "int8": rest + packed,
        "int4": rest + packed // 2 + packed // 64 * 4,
    }


def kv_cache(config: Any, tokens: int = 1000, bytes_per_value: int = 2) -> int:
    """Bytes of the keys and values of `tokens` positions in every layer."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return 2 * config.num_hidden_layers * kept * width * bytes_per_value * tokens


def _live_llm(source: _Source) -> Any:
    """The language model's config with every default that its file leaves out."""
    return llm_backend(source.model_type()).live_config(source.config()).get_text_config()


def _encoder(source: _Source, root: NavilaConfig) -> Any:
    """The encoder, without memory for its weights."""
    encoder_class = vision_encoder(source.model_type())
    with torch.device("meta"):
        return encoder_class(
            encoder_class.select_config(source.config()),
            select_layer=root.mm_vision_select_layer,
            select_feature=root.mm_vision_select_feature,
            **root.s2_options(),
        )


def _projector(source: _Source, sizes: Mapping[str, int], rows: bool) -> Any:
    """The projector, without memory for its weights; its tokens go row by row (NVILA) where it does not say."""
    type_string = source.model_type()
    order = {"downsample_order": "row"} if rows and type_string == "mlp_downsample" else {}
    with torch.device("meta"):
        return projector(type_string)({**sizes, **order, **source.config()})


def _check_encoder(encoder: Any, stored: list[StoredTensor] | None, source: _Source) -> None:
    """Raise CheckpointError where the files lack a tensor of the encoder, or have it in another shape."""
    # An encoder that reads files in its own way knows more names than its own.
    if (
        encoder is None
        or stored is None
        or type(encoder).read_weights.__func__ is not VisionEncoder.read_weights.__func__
    ):
        return
    saved = {tensor.name.removeprefix(encoder.weight_prefix): tensor for tensor in stored}
    check_shapes(encoder.vision_tower.state_dict(), saved, source.folder)


def _check_projector(module: Any, stored: list[StoredTensor] | None, folder: Path) -> None:
    """Raise CheckpointError where the files lack a tensor of the projector, or have it in another shape."""
    if module is not None and stored is not None:
        check_shapes(module.state_dict(), {tensor.name: tensor for tensor in stored}, folder)


def _check_llm(source: _Source, stored: list[StoredTensor] | None) -> None:
    """Raise CheckpointError where a language model's files hold too little, or a tensor in another shape.

    Numbers are compared for what is missing, as transformers renames tensors while loading.
    """
    if stored is None or "quantization_config" in source.config():
        return
    with torch.device("meta"):
        model = llm_backend(source.model_type()).build(source.config())
    saved = {tensor.name: tensor for tensor in stored}
    check_shapes({name: t for name, t in model.state_dict().items() if name in saved}, saved, source.folder)
    needed, held = sum(p.numel() for p in model.parameters()), sum(t.count for t in stored)
    if held < needed:
        raise CheckpointError(
            f"{source.folder} holds {held} parameters where its config.json asks for {needed}: the checkpoint is "
            "partial."
        )


def _part_facts(source: _Source, tensors: list[StoredTensor] | None) -> PartFacts:
    """Facts of one part; what cannot be found out here has been told where it was read."""
    known: dict[str, Any] = {}
    with suppress(NavilaError):
        known["model_type"] = source.model_type()
        spec = _SPECS[source.part](known["model_type"])
        known["target"] = spec.target
        known["loaded_by"] = str(default_host().registry(PARTS[source.part]).origin(spec.name))
    if tensors is not None:
        dtypes = Counter[str]()
        for tensor in tensors:
            dtypes[tensor.dtype] += tensor.count
        known |= {"parameters": dtypes.total(), "dtypes": dict(dtypes.most_common())}
        known["size"] = sum(tensor.size for tensor in tensors)
    return PartFacts(part=source.part, **known)
