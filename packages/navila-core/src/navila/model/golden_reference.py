"""Recordings of NaVILA's own code as a golden: `golden.json` and `golden.safetensors` beside a folder of frames.

A prompt is an object with `prompt`, `input_ids`, frame numbers, `logits_positions` and `generate`; its tensors are
named after it. A batch has rows of training conversations, padded; each row becomes a case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from navila.conversation import Message, Style
from navila.errors import DataError
from navila.images import read_image
from navila.model.golden import Case, Golden, read_object
from navila.templates import TEMPLATES

_FRAMES = ("frames", "sampled_frame_indices(-1=black 512x512)")
_ROLES = ("user", "assistant")
_MARK = "\x00"
#: Where its answers were cut off.
_MAX_NEW_TOKENS = 32
_NAMES = {"vision_tower_out": "encoder", "projector_out": "projector"}


def read_reference(folder: Path) -> Golden:
    """The prompts and batches of a recording, in float32.

    Raises:
        DataError: a file or field is missing.
    """
    path = folder / "golden.json"
    raw = read_object(path)
    if not (folder / "golden.safetensors").is_file():
        raise DataError(f"{folder / 'golden.safetensors'} is missing: fetch the recording again.")
    tensors = load_file(folder / "golden.safetensors")
    media = folder.parent / "frames"
    try:
        prompts = [_prompt(name, v, tensors, media) for name, v in raw.items() if _has(v, "prompt", "input_ids")]
        batches = [
            case
            for name, v in raw.items()
            if _has(v, "rows", "eval", "prepare")
            for case in _batch(name, v, raw["iv_samples"], tensors, media)
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path} lacks a field, or has it otherwise than recorded ({error!r}).") from None
    if not prompts and not batches:
        raise DataError(f"{path} holds no prompt with its ids: give another recording.")
    return Golden(cases=(*prompts, *batches), dtype="float32")


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, Mapping) and all(key in value for key in keys)


def _prompt(name: str, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], media: Path) -> Case:
    """A prompt and its greedy answer."""
    numbers = next((raw[key] for key in _FRAMES if key in raw), [])
    own = {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    kept = {_NAMES.get(key, key): tensor for key, tensor in own.items()}
    if "logits" in kept:
        kept["logits"] = kept["logits"][0]
    generated = raw.get("generate", {})
    ids = generated.get("new_ids")
    return Case(
        name=name,
        messages=_messages(raw["prompt"]),
        images=_frames(media, numbers),
        prompt=raw["prompt"],
        input_ids=tuple(raw["input_ids"][0]),
        tensors=kept,
        logits_positions=_positions(raw),
        greedy_ids=None if ids is None else tuple(ids),
        margins=tuple(generated.get("step_margins", ())),
        max_new_tokens=_MAX_NEW_TOKENS,
    )


def _batch(
    name: str, raw: Mapping[str, Any], samples: Mapping[str, Any], tensors: Mapping[str, Tensor], media: Path
) -> Iterator[Case]:
    """The rows of a batch that show images, without their padding, which is on the right."""
    for row, letter in enumerate(raw["rows"]):
        sample = samples[letter]
        if not sample["frames"]:
            continue
        ids = raw["input_ids"][row][: sum(map(bool, raw["attention_mask"][row]))]
        length = sum(map(bool, raw["prepare"]["attention_mask"][row]))
        places = [i for i, position in enumerate(raw["eval"]["logits_positions"]) if position < length]
        turns = [(role, text) for turn in sample["turns"] for role, text in zip(_ROLES, turn, strict=True)]
        yield Case(
            name=f"{name}.{letter}",
            messages=tuple(turns),
            images=_frames(media, sample["frames"]),
            input_ids=tuple(ids),
            tensors={
                "embeddings": tensors[f"{name}.prepare.inputs_embeds"][row, :length],
                "logits": tensors[f"{name}.eval.logits"][row, places],
            },
            logits_positions=tuple(raw["eval"]["logits_positions"][i] for i in places),
        )


def _messages(prompt: str) -> tuple[Message, ...] | None:
    """The user's message in a prompt of one of core's templates; None when it is of none of them."""
    found: list[tuple[int, str]] = []
    for template in TEMPLATES:
        if template.style in (Style.AUTO, Style.PLAIN):
            continue
        before, _, after = template.render([("user", _MARK), ("assistant", None)]).partition(_MARK)
        if prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before) + len(after):
            found.append((len(before) + len(after), prompt[len(before) : len(prompt) - len(after)]))
    # Some templates are others without their system text; the longest fit leaves the message alone.
    return (("user", max(found)[1]), ("assistant", None)) if found else None


def _positions(raw: Mapping[str, Any]) -> tuple[int, ...]:
    positions = raw.get("logits_positions", ())
    return tuple(range(raw["logits_shape"][1])) if positions == "all" else tuple(positions)


def _frames(media: Path, numbers: Sequence[int]) -> tuple[Image.Image, ...]:
    """Recorded frames, black for -1."""
    return tuple(
        read_image(media / f"frame_{number:02d}.png") if number >= 0 else Image.new("RGB", (512, 512))
        for number in numbers
    )
