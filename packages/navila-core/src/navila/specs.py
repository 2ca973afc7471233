"""Descriptions of components: what a plugin says about itself before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """Facts every kind of component states; `Registry.load` imports `target` only when the component is used."""

    name: str
    """Lower-case name of the thing with its size, e.g. `siglip-so400m-384`."""
    target: str
    """`"package.module:Attribute"`, imported on use."""
    summary: str
    aliases: tuple[str, ...] = ()
    """Other accepted names, e.g. those that released checkpoints carry."""
    requires: tuple[str, ...] = ()
    """Importable names, checked before `target` is imported; `"import_name=distribution"` where the two differ."""
    url: str = ""
    deprecated: str = ""
    """Why not to use it any more and what to use instead; empty when current."""


@dataclass(frozen=True, kw_only=True)
class LLMSpec(ComponentSpec):
    """A language-model backend: one class of `transformers` models and how it is driven."""

    model_types: tuple[str, ...]
    """`model_type` values of `config.json` this backend loads."""
    conversations: tuple[str, ...] = ()
    """Conversation templates its chat models use, the default first."""


@dataclass(frozen=True, kw_only=True)
class VisionEncoderSpec(ComponentSpec):
    """A vision encoder (vision tower)."""

    model_types: tuple[str, ...]
    image_size: int | None = None
    """Side of the square input in pixels; None when the checkpoint decides."""
    patch_size: int | None = None
    num_tokens: int | None = None
    """Patch tokens per image, without a class token."""
    hidden_size: int | None = None
    has_cls_token: bool = False


@dataclass(frozen=True, kw_only=True)
class ProjectorSpec(ComponentSpec):
    """A projector from vision features to language-model embeddings."""

    model_types: tuple[str, ...] = ("v2l_projector",)
    pattern: str = ""
    """Regular expression of the type strings it builds where one class serves many, e.g. `mlp(\\d+)x_gelu`."""


@dataclass(frozen=True, kw_only=True)
class ConversationSpec(ComponentSpec):
    """A conversation template; `target` names a `navila.conversation.ConversationTemplate` object."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(ComponentSpec):
    """A training dataset that mixtures refer to by name."""

    kind: Literal["navigation", "trajectory", "image", "video", "text", "mixed"]
    expected_files: tuple[str, ...] = ()
    """Paths under the data root, with a word on each."""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A number a benchmark reports."""

    name: str
    summary: str
    higher_is_better: bool = True
    scale: str = ""
    """Range or unit: `0-1`, `0-100`, `m`, `steps`, `count`; nothing is shown where it is not told."""
    path: str = ""
    """Another place of it in `results.json`, such as `results/pope/pope_accuracy,none`: only `/` divides levels."""

    def __post_init__(self) -> None:
        root, *levels = self.path.split("/")
        if self.path and (root != "results" or len(levels) < 2 or not all(levels)):
            raise ValueError(f"the path {self.path!r} of the metric {self.name!r} is not of the form results/TASK/NAME")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec(ComponentSpec):
    """A benchmark (task) that `navila eval` runs."""

    tags: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("val",)
    default_split: str = "val"
    metrics: tuple[MetricSpec, ...] = ()
    data: tuple[str, ...] = ()
    """Paths below the data root that must exist; empty when the data is made on the spot."""
    simulator: str | None = None
    """Name of the simulator it drives; None for question answering."""


@dataclass(frozen=True, kw_only=True)
class SimulatorSpec(ComponentSpec):
    """An environment an agent moves in."""

    scenes: tuple[str, ...] = ()
    """Kinds of scene it loads, e.g. `procedural`, `glb`, `ply`."""
    sensors: tuple[str, ...] = ("rgb",)


@dataclass(frozen=True, kw_only=True)
class CallbackSpec(ComponentSpec):
    """A `transformers.TrainerCallback` that `navila train --callback NAME` installs; one that is also a
    `navila.callbacks.Evaluator` scores the model during training."""


@dataclass(frozen=True, kw_only=True)
class CommandSpec(ComponentSpec):
    """A sub-command of `navila`; `target` names a `click.Command`, imported when the command is invoked."""
