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


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(name="llm", hook="navila_llms", spec=LLMSpec, label="language model", command="llm"),
            Kind(
                name="vision-encoder",
                hook="navila_vision_encoders",
                spec=VisionEncoderSpec,
                label="vision encoder",
                command="encoder",
            ),
            Kind(
                name="projector", hook="navila_projectors", spec=ProjectorSpec, label="projector", command="projector"
            ),
            Kind(
                name="conversation",
                hook="navila_conversations",
                spec=ConversationSpec,
                label="conversation template",
                command="conversation",
            ),
            Kind(name="dataset", hook="navila_datasets", spec=DatasetSpec, label="dataset", command="dataset"),
            Kind(
                name="benchmark", hook="navila_benchmarks", spec=BenchmarkSpec, label="benchmark", command="benchmark"
            ),
            Kind(
                name="simulator", hook="navila_simulators", spec=SimulatorSpec, label="simulator", command="simulator"
            ),
            Kind(name="callback", hook="navila_callbacks", spec=CallbackSpec, label="callback", command="callback"),
            Kind(name="command", hook="navila_commands", spec=CommandSpec, label="command", command="command"),
        )
    }
)
