"""The projectors of LLaVA, VILA and NVILA."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import ProjectorSpec

MODULE = "navila_projector_mlp.projector"


@hookimpl
def navila_projectors() -> Iterable[ProjectorSpec]:
    """Linear, identity, MLP and token-merging MLP."""
    yield ProjectorSpec(name="linear", target=f"{MODULE}:LinearProjector", summary="One linear layer")
    yield ProjectorSpec(name="identity", target=f"{MODULE}:IdentityProjector", summary="The features as they are")
    yield ProjectorSpec(
        name="mlp",
        target=f"{MODULE}:MLPProjector",
        summary="N linear layers with GELU between, written mlp2x_gelu for N = 2",
        pattern=r"mlp[1-9]\d*x_gelu",
    )
    yield ProjectorSpec(
        name="mlp-downsample",
        aliases=("mlp_downsample",),
        target=f"{MODULE}:DownsampleProjector",
        summary="2x2 patches to one token, then LayerNorm and a two-layer MLP",
        url="https://arxiv.org/abs/2312.07533",
    )
    for size, target, summary in (
        ("2x2-fix", "Downsample2x2FixProjector", "2x2 patches to one token, row by row (NVILA)"),
        ("3x3-fix", "Downsample3x3FixProjector", "3x3 patches to one token, row by row (NVILA)"),
        ("3x3-s2", "Downsample3x3S2Projector", "3x3 patches of three scales to one token (NVILA)"),
        ("3x3-s2-new", "Downsample3x3S2NewProjector", "3x3 patches of three scales to one token, narrowing slowly"),
    ):
        name = f"mlp-downsample-{size}"
        yield ProjectorSpec(
            name=name,
            aliases=(name.replace("-", "_"),),
            target=f"{MODULE}:{target}",
            summary=summary,
            url="https://arxiv.org/abs/2412.04468",
        )
