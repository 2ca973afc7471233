"""The hooks a plugin may implement: one a kind, no arguments, each yielding frozen descriptions."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from navila.specs import (
    BenchmarkSpec,
    CallbackSpec,
    CommandSpec,
    ConversationSpec,
    DatasetSpec,
    LLMSpec,
    ProjectorSpec,
    SimulatorSpec,
    VisionEncoderSpec,
)

PROJECT = "navila"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class NavilaHooks:
    """One hook a kind; a plugin module implements those it needs."""

    @hookspec
    def navila_llms(self) -> Iterable[LLMSpec]:
        """Language-model backends.

        Example::

            from navila import hookimpl
            from navila.specs import LLMSpec


            @hookimpl
            def navila_llms():
                yield LLMSpec(
                    name="llama",
                    target="navila_llm_llama.llm:LlamaBackend",
                    summary="Llama 2, 3 and 3.x",
                    model_types=("llama",),
                    conversations=("llama_3",),
                )
        """
        raise NotImplementedError

    @hookspec
    def navila_vision_encoders(self) -> Iterable[VisionEncoderSpec]:
        """Vision encoders.

        Example::

            from navila import hookimpl
            from navila.specs import VisionEncoderSpec


            @hookimpl
            def navila_vision_encoders():
                yield VisionEncoderSpec(
                    name="siglip-so400m-384",
                    target="navila_encoder_siglip.encoder:SiglipEncoder",
                    summary="SigLIP So400m at 384 px",
                    model_types=("siglip_vision_model",),
                    image_size=384,
                    patch_size=14,
                    num_tokens=729,
                    hidden_size=1152,
                )
        """
        raise NotImplementedError

    @hookspec
    def navila_projectors(self) -> Iterable[ProjectorSpec]:
        """Projectors.

        Example::

            from navila import hookimpl
            from navila.specs import ProjectorSpec


            @hookimpl
            def navila_projectors():
                yield ProjectorSpec(
                    name="mlp-downsample",
                    aliases=("mlp_downsample",),
                    target="navila_projector_mlp.projector:DownsampleProjector",
                    summary="2x2 token merging and a two-layer MLP",
                )
        """
        raise NotImplementedError

    @hookspec
    def navila_conversations(self) -> Iterable[ConversationSpec]:
        """Conversation templates.

        Example::

            from navila import hookimpl
            from navila.specs import ConversationSpec


            @hookimpl
            def navila_conversations():
                yield ConversationSpec(
                    name="my-chat",
                    target="my_plugin.templates:MY_CHAT",
                    summary="The template of My LM",
                )
        """
        raise NotImplementedError

    @hookspec
    def navila_datasets(self) -> Iterable[DatasetSpec]:
        """Training datasets.

        Example::

            from navila import hookimpl
            from navila.specs import DatasetSpec


            @hookimpl
            def navila_datasets():
                yield DatasetSpec(
                    name="r2r",
                    target="navila_dataset_vln.dataset:VLNDataset",
                    summary="R2R steps",
                    kind="navigation",
                    expected_files=("R2R/annotations.json", "R2R/train/"),
                )
        """
        raise NotImplementedError

    @hookspec
    def navila_benchmarks(self) -> Iterable[BenchmarkSpec]:
        """Benchmarks.

        Example::

            from navila import hookimpl
            from navila.specs import BenchmarkSpec, MetricSpec


            @hookimpl
            def navila_benchmarks():
                yield BenchmarkSpec(
                    name="houses",
                    target="navila_bench_vln.benchmark:Houses",
                    summary="Go to a landmark in unseen houses",
                    tags=("navigation", "local"),
                    simulator="mesh",
                    metrics=(MetricSpec(name="sr", summary="Success rate", scale="0-1"),),
                )
        """
        raise NotImplementedError

    @hookspec
    def navila_simulators(self) -> Iterable[SimulatorSpec]:
        """Simulators.

        Example::

            from navila import hookimpl
            from navila.specs import SimulatorSpec


            @hookimpl
            def navila_simulators():
                yield SimulatorSpec(
                    name="mesh",
                    target="navila_sim_mesh.simulator:MeshSimulator",
                    summary="Any GLB/PLY scan on the CPU",
                    scenes=("procedural", "glb", "ply"),
                    sensors=("rgb", "depth"),
                )
        """
        raise NotImplementedError

    @hookspec
    def navila_callbacks(self) -> Iterable[CallbackSpec]:
        """Training callbacks.

        Example::

            from navila import hookimpl
            from navila.specs import CallbackSpec


            @hookimpl
            def navila_callbacks():
                yield CallbackSpec(
                    name="beep",
                    target="my_plugin.beep:BeepCallback",
                    summary="Beep when training ends",
                )
        """
        raise NotImplementedError

    @hookspec
    def navila_commands(self) -> Iterable[CommandSpec]:
        """Sub-commands of `navila`.

        Example::

            from navila import hookimpl
            from navila.specs import CommandSpec


            @hookimpl
            def navila_commands():
                yield CommandSpec(name="train", target="navila_train.command:train", summary="Train a model")
        """
        raise NotImplementedError
