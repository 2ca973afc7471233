"""The options by which every command loads a model: where it goes, in what precision, and quantised or not."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import click

from navila.cli.sections import Option
from navila.errors import ConfigError

#: How `click.option` makes one of them.
_option = functools.partial(click.option, cls=Option, section="Loading the model")

_OPTIONS = (
    _option(
        "--model-base",
        "--model_base",
        metavar="PATH",
        help="The whole model under an adapter, if that is what is loaded.",
    ),
    _option(
        "--vision-tower",
        "--vision_tower",
        metavar="PATH",
        help="Folder or Hub id of the vision encoder, if the checkpoint only names one (LLaVA).",
    ),
    _option("--device", metavar="NAME", help="cpu, cuda or cuda:N; a GPU where there is one by default."),
    _option(
        "--dtype", metavar="NAME", help="float16, bfloat16 or float32; float16 on a GPU, else float32, by default."
    ),
    _option(
        "--quantization",
        metavar="NAME",
        help="Load the language model's layers as int8, int8-dynamic or int4 (torchao), or bnb-int8, bnb-nf4 or "
        "bnb-fp4 (bitsandbytes).",
    ),
    _option("--load-8bit", is_flag=True, help="Short for --quantization bnb-int8."),
    _option("--load-4bit", is_flag=True, help="Short for --quantization bnb-nf4."),
    _option(
        "--device-map",
        metavar="MAP",
        help="Spread the model: auto, balanced, balanced_low_0, sequential, or a JSON object from modules to devices.",
    ),
    _option(
        "--max-memory",
        metavar="LIST",
        help="Limits for --device-map, e.g. 0=10GiB,1=10GiB,cpu=30GiB; alone it means auto.",
    ),
    _option(
        "--offload-folder",
        type=click.Path(file_okay=False),
        help="Where modules on disk are kept if they cannot be read from the checkpoint.",
    ),
    _option("--attn-implementation", metavar="NAME", help="sdpa, eager or flash_attention_2."),
)


#: What a command gets from `loading_options`: arguments of `navila.load`, None where nothing was given.
LOADING = (
    "model_base",
    "vision_tower",
    "device",
    "dtype",
    "quantization",
    "device_map",
    "max_memory",
    "offload_folder",
    "attn_implementation",
)


def loading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `navila.load`; they arrive as the keywords `LOADING`."""

    @functools.wraps(command)
    def with_loading(*arguments: Any, **options: Any) -> Any:
        read = {
            "quantization": _quantization(*(options.pop(n) for n in ("quantization", "load_8bit", "load_4bit"))),
            "device_map": _device_map(options.pop("device_map")),
            "max_memory": _max_memory(options.pop("max_memory")),
        }
        return command(*arguments, **options, **read)

    for option in reversed(_OPTIONS):
        with_loading = option(with_loading)
    return with_loading


#: The option of another conversation template than the checkpoint's; it arrives as `template`.
conversation_option = click.option(
    "--conversation",
    "--template",
    "template",
    metavar="NAME",
    help="Conversation template; the checkpoint's by default.",
)


#: The values of `navila.actions.Decoding`, which is not imported for the help of a command.
DECODING = ("free", "grammar")
_DECIDING = (
    click.option(
        "--num-frames", type=click.IntRange(min=1), help="Frames a decision sees; the checkpoint's by default."
    ),
    click.option(
        "--decoding",
        type=click.Choice(DECODING),
        default="free",
        show_default=True,
        help="Answers over all words, or only the ten of the training data.",
    ),
    conversation_option,
)


def deciding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a `Navigator`; they arrive as `num_frames`, `decoding` and `template`."""
    for option in reversed(_DECIDING):
        command = option(command)
    return command


def _quantization(name: str | None, load_8bit: bool, load_4bit: bool) -> str | None:
    given = [*([name] if name else []), *(["bnb-int8"] if load_8bit else []), *(["bnb-nf4"] if load_4bit else [])]
    if len(given) > 1:
        raise ConfigError("--quantization, --load-8bit and --load-4bit each say how to quantise: give one of them.")
    return given[0] if given else None


def _device_map(text: str | None) -> str | dict[str, Any] | None:
    """A strategy, or a JSON object."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--device-map {text!r} is no JSON ({error}): write it as '{{\"\": 0}}'.") from None


def _max_memory(text: str | None) -> dict[int | str, str] | None:
    """`0=10GiB,cpu=30GiB` as a mapping."""
    if text is None:
        return None
    limits: dict[int | str, str] = {}
    for word in text.split(","):
        device, equals, limit = (piece.strip() for piece in word.partition("="))
        if not (device and equals and limit):
            raise ConfigError(f"--max-memory {text!r} must read DEVICE=SIZE,…, e.g. 0=10GiB,cpu=30GiB.")
        limits[int(device) if device.isdecimal() else device] = limit
    return limits
