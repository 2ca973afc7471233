"""What first-party distributions offer, so that a missing name can end in the line to type."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One first-party distribution and the components of one kind that it brings."""

    dist: str
    kind: str
    names: tuple[str, ...]
    """Component names and aliases."""
    model_types: tuple[str, ...] = ()
    """`model_type` values of `config.json` that it loads."""


CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(dist="navila-llm-llama", kind="llm", names=("llama",), model_types=("llama",)),
    CatalogueEntry(
        dist="navila-encoder-siglip",
        kind="vision-encoder",
        names=("siglip", "siglip-so400m-384"),
        model_types=("siglip_vision_model",),
    ),
    CatalogueEntry(
        dist="navila-projector-mlp",
        kind="projector",
        names=("linear", "identity", "mlp", "mlp-downsample", "mlp_downsample", "mlp2x_gelu"),
        model_types=("v2l_projector",),
    ),
    CatalogueEntry(
        dist="navila-dataset-vln", kind="dataset", names=("vln", "r2r", "rxr", "r2r-ce", "rxr-ce", "houses")
    ),
    CatalogueEntry(dist="navila-sim-mesh", kind="simulator", names=("mesh", "houses")),
    CatalogueEntry(dist="navila-bench-vln", kind="benchmark", names=("houses", "r2r-ce", "rxr-ce")),
    CatalogueEntry(dist="navila-data", kind="command", names=("data",)),
    CatalogueEntry(dist="navila-train", kind="command", names=("train", "run")),
    CatalogueEntry(dist="navila-eval", kind="command", names=("eval",)),
    CatalogueEntry(dist="navila-demo", kind="command", names=("demo",)),
)


def distribution_offering(kind: str, name: str) -> str | None:
    """Name of the first-party distribution that brings this component, or None when none is known to."""
    for entry in CATALOGUE:
        if entry.kind == kind and (name in entry.names or name in entry.model_types):
            return entry.dist
    return None
