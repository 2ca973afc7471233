"""Bodies and cameras that published numbers were obtained with, by name. Light."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from navila.errors import ConfigError
from navila.simulation import Embodiment

#: `navila`: NaVILA on R2R-CE and, unlike the official task, on RxR-CE. `vln-ce`: the official R2R-CE. `rxr-official`:
#: the RxR-Habitat challenge. `navila-bench`: NaVILA-Bench's Go2 in Isaac, whose camera is 0.5 m above a trunk at 0.3 m;
#: its commands of 0.5 s cover 25 cm and 15 degrees. `navid`, `streamvln`: as those papers' code sets them.
EMBODIMENTS: Mapping[str, Embodiment] = MappingProxyType(
    {
        body.name: body
        for body in (
            Embodiment(),
            Embodiment(name="vln-ce", width=224, height=224),
            Embodiment(
                name="rxr-official",
                width=640,
                height=480,
                hfov=79.0,
                camera_height=0.88,
                agent_height=0.88,
                agent_radius=0.18,
                turn_angle=30.0,
                sliding=False,
            ),
            Embodiment(name="navila-bench", hfov=96.7, camera_height=0.8, agent_height=0.9),
            Embodiment(name="navid", width=640, height=480, turn_angle=30.0),
            Embodiment(name="streamvln", width=640, height=480, hfov=79.0),
        )
    }
)


def embodiment(wanted: str | Mapping[str, Any]) -> Embodiment:
    """The embodiment of a name, or the one that a mapping of `Embodiment`'s fields describes.

    A mapping starts from the profile its `name` is, else from `navila`: `{"name": "vln-ce", "height": 448}`.

    Raises:
        ConfigError: there is no such profile or field, or a value has the wrong type or is out of range.
    """
    if isinstance(wanted, str):
        if wanted not in EMBODIMENTS:
            close = difflib.get_close_matches(wanted, EMBODIMENTS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(f"There is no embodiment {wanted!r}{hint}: use one of {', '.join(EMBODIMENTS)}.")
        return EMBODIMENTS[wanted]
    if not isinstance(wanted, Mapping):
        raise ConfigError(f"An embodiment is a name or an object, not {wanted!r}: use one of {', '.join(EMBODIMENTS)}.")
    base = EMBODIMENTS.get(str(wanted.get("name")), Embodiment())
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(Embodiment)}
    changes: dict[str, Any] = {}
    for key, value in wanted.items():
        if key not in fields:
            raise ConfigError(f"An embodiment has no {key!r}: it has {', '.join(fields)}.")
        kind = type(fields[key])
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (key != "camera_pitch" and kind in (int, float) and not 0 < value < 1e6):
            raise ConfigError(f"The embodiment's {key} is {value!r}: give one like {fields[key]!r}.")
        changes[key] = kind(value)
    changed = dataclasses.replace(base, **changes)
    # A profile that was changed is no longer the one published numbers go by.
    renamed = changed.name != base.name or changed == base
    return changed if renamed else dataclasses.replace(changed, name=f"{base.name}-changed")
