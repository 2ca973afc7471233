"""Golden bundles: what a checkpoint computed, frozen stage by stage, so that any later difference can be placed.

A bundle is a folder: `bundle.json` (written last), `tensors.safetensors` and `media/`. docs/reference/model.md has it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor

from navila.constants import IMAGE_TOKEN
from navila.conversation import Message
from navila.errors import ConfigError, DataError
from navila.files import write_atomically
from navila.images import read_image
from navila.model import stages
from navila.model.fingerprint import fingerprint
from navila.plugins import default_host
from navila.prompts import navigation_prompt

if TYPE_CHECKING:
    from navila.model.modeling import NavilaForCausalLM

FORMAT, VERSION = "navila-golden", 1
BUNDLE, TENSORS = "bundle.json", "tensors.safetensors"
#: Distributions whose versions can move a number.
_PACKAGES = ("navila-core", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a model is asked: a conversation that ends in an open assistant message, and an image for each `<image>`."""

    name: str
    messages: tuple[Message, ...]
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request and what came of it; None, or no tensor, where a stage was not recorded."""

    name: str
    messages: tuple[Message, ...] | None = None
    images: tuple[Image.Image, ...] = ()
    prompt: str | None = None
    input_ids: tuple[int, ...] | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """By stage: pixel_values (N, 3, H, W), encoder (N, P, C), projector (N, T, D), embeddings (L, D), logits (K, V)."""
    logits_positions: tuple[int, ...] = ()
    """The K positions of the expanded prompt that `logits` has."""
    greedy_ids: tuple[int, ...] | None = None
    margins: tuple[float, ...] = ()
    """By how much the likeliest token led at each step of the greedy answer, in logits."""
    max_new_tokens: int = 0

    def recorded(self, stage: str) -> Any:
        """Result of a stage, or None."""
        return self.tensors.get(stage) if stage in stages.TENSORS else getattr(self, stage)


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Cases and where they come from."""

    cases: tuple[Case, ...]
    dtype: str
    """What the weights were in."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """Of the checkpoint; empty when it was not recorded."""


def synthetic_images(count: int, seed: int) -> list[Image.Image]:
    """Seeded pictures of coloured blocks on a gradient, 320 x 240 pixels: sharp edges, so that resizing matters."""
    pictures = []
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        down, right = np.mgrid[0:240, 0:320]
        ramp = np.stack([right * 255 // 319, down * 255 // 239, (right + down) * 255 // 558], axis=2)
        blocks = np.kron(draw.integers(0, 256, (8, 10, 3)), np.ones((30, 32, 1), dtype=np.int64))
        shown = np.kron(draw.random((8, 10, 1)) < 0.6, np.ones((30, 32, 1), dtype=bool))
        pictures.append(Image.fromarray(np.where(shown, blocks, ramp).astype(np.uint8)))
    return pictures


def default_requests(num_frames: int, seed: int) -> tuple[Request, ...]:
    """Text alone, one image, and a navigation prompt of `num_frames` frames."""
    pictures = synthetic_images(num_frames, seed)
    instruction = "Walk past the table, turn left at the door and stop beside the sofa."
    return (
        ask("text", "Which rooms does a flat have?"),
        ask("image", "Describe the image.", pictures[:1]),
        ask("navigation", navigation_prompt(instruction, num_frames), pictures),
    )


def ask(name: str, text: str, images: Sequence[Image.Image] = ()) -> Request:
    """A request of one user message; images come first unless the text says `<image>` where they go."""
    if IMAGE_TOKEN not in text:
        text = f"{IMAGE_TOKEN}\n" * len(images) + text
    if text.count(IMAGE_TOKEN) != len(images):
        raise DataError(
            f"The prompt holds {text.count(IMAGE_TOKEN)} times {IMAGE_TOKEN}, but {len(images)} images were given: "
            "make them equal, or leave it out to have the images first."
        )
    return Request(name=name, messages=(("user", text), ("assistant", None)), images=tuple(images))


def record(model: NavilaForCausalLM, request: Request, *, max_new_tokens: int = 32, keep_logits: int = 64) -> Case:
    """What the model makes of a request; logits at `keep_logits` positions at most."""
    with stages.exact():
        text = stages.prompt(model, request.messages)
        ids = stages.input_ids(model, text)
        tensors: dict[str, Tensor] = {}
        if request.images:
            tensors["pixel_values"] = stages.pixel_values(model, request.images)
            tensors["encoder"] = stages.encoder(model, tensors["pixel_values"])
            tensors["projector"] = stages.projector(model, tensors["encoder"])
        projected = tensors.get("projector")
        tensors["embeddings"] = stages.embeddings(model, ids, projected)
        positions = stages.logits_positions(len(tensors["embeddings"]), keep_logits)
        tensors["logits"] = stages.logits(model, tensors["embeddings"], positions)
        answer, margins = stages.greedy_ids(model, ids, projected, max_new_tokens)
    return Case(
        name=request.name,
        messages=request.messages,
        images=request.images,
        prompt=text,
        input_ids=tuple(ids),
        tensors={stage: tensor.detach().cpu().contiguous() for stage, tensor in tensors.items()},
        logits_positions=tuple(positions),
        greedy_ids=tuple(answer),
        margins=tuple(margins),
        max_new_tokens=max_new_tokens,
    )


def freeze(
    model: NavilaForCausalLM,
    requests: Sequence[Request],
    folder: Path,
    *,
    checkpoint: Path,
    seed: int = 0,
    max_new_tokens: int = 32,
    keep_logits: int = 64,
    report: Callable[[str], None] = lambda _line: None,
) -> None:
    """Record requests and write a bundle; `bundle.json` comes last, so that a bundle that has it is whole.

    Args:
        model: loaded from `checkpoint`, whose fingerprint goes into the bundle.
        seed: that of the synthetic images, for the record.
        report: is told of each case.

    Raises:
        ConfigError: two requests have one name.
    """
    if len({request.name for request in requests}) < len(requests):
        raise ConfigError("Two requests have one name: give each its own.")
    (folder / BUNDLE).unlink(missing_ok=True)
    (folder / "media").mkdir(parents=True, exist_ok=True)
    described, tensors, files = [], {}, {}
    for request in requests:
        report(f"Recording {request.name} …")
        case = record(model, request, max_new_tokens=max_new_tokens, keep_logits=keep_logits)
        media = [f"media/{request.name}-{number:02d}.png" for number in range(len(case.images))]
        for name, image in zip(media, case.images, strict=True):
            image.convert("RGB").save(folder / name)
            files[name] = _sha256(folder / name)
        tensors |= {f"{case.name}.{stage}": tensor for stage, tensor in case.tensors.items()}
        described.append(
            {
                "name": case.name,
                "messages": case.messages,
                "images": media,
                "prompt": case.prompt,
                "input_ids": case.input_ids,
                "logits_positions": case.logits_positions,
                "greedy_ids": case.greedy_ids,
                "margins": case.margins,
                "max_new_tokens": case.max_new_tokens,
            }
        )
    write_atomically(folder / TENSORS, save(tensors, metadata={"format": "pt"}))
    files[TENSORS] = _sha256(folder / TENSORS)
    bundle = {
        "format": FORMAT,
        "version": VERSION,
        "checkpoint": {"name": checkpoint.resolve().name, "fingerprint": fingerprint(checkpoint)},
        "dtype": str(model.llm.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": model.llm.config._attn_implementation,
        "seed": seed,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
        "plugins": default_host().provenance(),
        "files": files,
        "cases": described,
    }
    write_atomically(folder / BUNDLE, json.dumps(bundle, indent=1, ensure_ascii=False) + "\n")


def read_golden(folder: Path) -> Golden:
    """A bundle, or a folder of recordings of NaVILA's own code (`golden.json` and `golden.safetensors`).

    Raises:
        DataError: it is neither, unfinished, damaged, or of a later version.
    """
    if (folder / BUNDLE).is_file():
        return _read_bundle(folder)
    if (folder / "golden.json").is_file():
        from navila.model.golden_reference import read_reference

        return read_reference(folder)
    if (folder / "media").is_dir():
        raise DataError(
            f"{folder} has no {BUNDLE}: its recording did not end, so run `navila model freeze-golden` again."
        )
    raise DataError(f"{folder} is no golden bundle, as it has no {BUNDLE}: check the path.")


def _read_bundle(folder: Path) -> Golden:
    path = folder / BUNDLE
    raw = read_object(path)
    if raw.get("format") != FORMAT or raw.get("version") != VERSION:
        raise DataError(
            f"{path} is {raw.get('format')!r}, version {raw.get('version')!r}, where {FORMAT!r}, version {VERSION} is "
            "expected: record it again, or use a newer navila."
        )
    for name, digest in raw.get("files", {}).items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise DataError(f"{folder / name} is missing or not what was recorded: fetch the bundle again.")
    tensors = load_file(folder / TENSORS)
    try:
        cases = tuple(_case(folder, described, tensors) for described in raw["cases"])
        return Golden(cases=cases, dtype=raw["dtype"], fingerprint=raw["checkpoint"]["fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has a field that is missing or wrong ({error!r}): fetch the bundle again.") from None


def _case(folder: Path, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Case:
    prefix = described["name"] + "."
    return Case(
        name=described["name"],
        messages=tuple((role, text) for role, text in described["messages"]),
        images=tuple(read_image(folder / name) for name in described["images"]),
        prompt=described["prompt"],
        input_ids=tuple(described["input_ids"]),
        tensors={name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)},
        logits_positions=tuple(described["logits_positions"]),
        greedy_ids=tuple(described["greedy_ids"]),
        margins=tuple(described["margins"]),
        max_new_tokens=described["max_new_tokens"],
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): fetch it again.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__} where an object is expected: fetch it again.")
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
