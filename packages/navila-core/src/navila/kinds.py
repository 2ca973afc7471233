"""The nine kinds of component: the hook that offers each and the description it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from navila.specs import (
    BenchmarkSpec,
    CallbackSpec,
    CommandSpec,
    ComponentSpec,
    ConversationSpec,
    DatasetSpec,
    LLMSpec,
    ProjectorSpec,
    SimulatorSpec,
    VisionEncoderSpec,
)

KindName = Literal[
    "llm",
    "vision-encoder",
    "projector",
    "conversation",
    "dataset",
    "benchmark",
    "simulator",
    "callback",
    "command",
]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of component."""

    name: KindName
    hook: str
    """Name of the hook a plugin implements to offer components of this kind."""
    spec: type[ComponentSpec]
    label: str
    """What a sentence calls one of them."""
    command: str
    """The sub-command of `navila` that lists them."""
    interface: str
    """`"package.module:Class"` that a component is a subclass of, or an instance of if it is no class."""


_ALL = (
    Kind(
        name="llm",
        hook="navila_llms",
        spec=LLMSpec,
        label="language model",
        command="llm",
        interface="navila.model.llm:LLMBackend",
    ),
    Kind(
        name="vision-encoder",
        hook="navila_vision_encoders",
        spec=VisionEncoderSpec,
        label="vision encoder",
        command="encoder",
        interface="navila.model.vision:VisionEncoder",
    ),
    Kind(
        name="projector",
        hook="navila_projectors",
        spec=ProjectorSpec,
        label="projector",
        command="projector",
        interface="navila.model.projector:Projector",
    ),
    Kind(
        name="conversation",
        hook="navila_conversations",
        spec=ConversationSpec,
        label="conversation template",
        command="conversation",
        interface="navila.conversation:ConversationTemplate",
    ),
    Kind(
        name="dataset",
        hook="navila_datasets",
        spec=DatasetSpec,
        label="dataset",
        command="dataset",
        interface="navila_data.dataset:Dataset",
    ),
    Kind(
        name="benchmark",
        hook="navila_benchmarks",
        spec=BenchmarkSpec,
        label="benchmark",
        command="benchmark",
        interface="navila_eval.benchmark:Benchmark",
    ),
    Kind(
        name="simulator",
        hook="navila_simulators",
        spec=SimulatorSpec,
        label="simulator",
        command="simulator",
        interface="navila.simulation:Simulator",
    ),
    Kind(
        name="callback",
        hook="navila_callbacks",
        spec=CallbackSpec,
        label="callback",
        command="callback",
        interface="transformers:TrainerCallback",
    ),
    Kind(
        name="command",
        hook="navila_commands",
        spec=CommandSpec,
        label="command",
        command="command",
        interface="click:Command",
    ),
)

#: Every kind by name.
KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ALL})
