"""What lmms-eval asks of a model, as navila takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navila.errors import DataError
from PIL.Image import Image

if TYPE_CHECKING:
    from navila.model.media import Part

#: Longest answer where a task does not say.
MAX_NEW_TOKENS = 1024


def settings_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of generation that a task's `generation_kwargs` have; what else they hold is for other models."""
    settings: dict[str, Any] = {"max_new_tokens": int(asked.get("max_new_tokens") or MAX_NEW_TOKENS)}
    temperature = asked.get("temperature") or 0
    if temperature > 0 and asked.get("do_sample", True):
        settings |= {"do_sample": True, "temperature": float(temperature)}
        settings |= {name: asked[name] for name in ("top_p", "top_k") if asked.get(name) is not None}
    if (asked.get("num_beams") or 1) > 1:
        settings["num_beams"] = int(asked["num_beams"])
    until = asked.get("until") or ()
    stop = [text for text in ([until] if isinstance(until, str) else until) if text]
    return {**settings, "stop": stop} if stop else settings


def parts_of(visuals: Any, context: str) -> list[Part]:
    """A prompt: pictures and videos first, in order, then the text.

    Raises:
        DataError: there is something else to be shown, such as sound.
    """
    return [*map(_part, _flat(visuals)), context]


def _flat(visuals: Any) -> Iterator[Any]:
    if isinstance(visuals, Sequence) and not isinstance(visuals, str):
        for visual in visuals:
            yield from _flat(visual)
    elif visuals is not None:
        yield visuals


def _part(visual: Any) -> Part:
    if isinstance(visual, Image):
        return visual
    if isinstance(visual, str | Path):
        return Path(visual)
    raise DataError(
        f"lmms-eval shows a {type(visual).__name__}, but navila takes images and videos: leave the task out."
    )
