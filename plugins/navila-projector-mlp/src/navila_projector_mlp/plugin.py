"""The projectors of LLaVA and VILA."""

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
