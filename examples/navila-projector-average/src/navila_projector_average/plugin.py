"""What this package offers."""

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import ProjectorSpec


@hookimpl
def navila_projectors() -> Iterable[ProjectorSpec]:
    """The average."""
    yield ProjectorSpec(
        name="average",
        target="navila_projector_average.projector:AverageProjector",
        summary="The mean of all patches, then one linear layer",
    )
