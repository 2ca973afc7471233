"""`navila model build`: parts in, a checkpoint of the released layout out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from navila.errors import ConfigError
from navila.registry import suggestion

#: Fields of `NavilaConfig` that `--set` takes, and the kind of value each has.
_FIELDS: dict[str, tuple[type, ...]] = {
    "image_aspect_ratio": (str,),
    "num_video_frames": (int,),
    "fps": (int, float),
    "mm_vision_select_layer": (int,),
    "mm_vision_select_feature": (str,),
    "vision_resolution": (int,),
    "s2": (bool,),
    "s2_scales": (str,),
    "s2_max_split_size": (int,),
}
_PART = "a folder or Hub id with weights, a config.json (file or inline), or a registered name"


@click.command()
@click.option("--llm", required=True, metavar="PART", help=f"Language model: {_PART}.")
@click.option("--encoder", required=True, metavar="PART", help="Vision encoder, given likewise.")
@click.option("--projector", required=True, metavar="PART", help="Projector, usually a name: mlp_downsample.")
@click.option("--tokenizer", metavar="FOLDER", help="Folder or Hub id; that of the language model by default.")
@click.option(
    "--conversation",
    "--template",
    "template",
    metavar="NAME",
    help="Conversation template; what the tokenizer tells by default.",
)
@click.option("--dtype", default="float32", show_default=True, help="float32, float16 or bfloat16.")
@click.option("--set", "fields", multiple=True, metavar="KEY=VALUE", help="A field of the config; may be repeated.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random weights.")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to write it.")
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def build(
    llm: str,
    encoder: str,
    projector: str,
    tokenizer: str | None,
    template: str | None,
    dtype: str,
    fields: tuple[str, ...],
    seed: int,
    output: Path,
    force: bool,
) -> None:
    """Compose a model from a language model, a vision encoder and a projector, and write it.

    What is given by name or config gets random weights; folders and Hub ids keep theirs.

    \b
        navila model build --llm Qwen/Qwen2.5-1.5B-Instruct --encoder google/siglip-so400m-patch14-384 \\
            --projector mlp_downsample --set num_video_frames=8 --output qwen-siglip
    """
    settings = read_settings(fields)
    refuse_to_overwrite(output, force)
    parts = [
        read_part(value, flag) for value, flag in ((llm, "--llm"), (encoder, "--encoder"), (projector, "--projector"))
    ]
    words = tokenizer or tokenizer_beside(llm)
    if words is None and isinstance(parts[0], Mapping):
        raise ConfigError("There is no tokenizer: give --tokenizer a folder, as --llm is a config alone.")

    from navila.cli.models.info import describe
    from navila.model.compose import build as compose
    from navila.model.inspect import inspect_checkpoint
    from navila.model.settings import seeded

    click.echo("Composing …", err=True)
    with seeded(seed):
        model = compose(*parts, tokenizer=words, template=template, dtype=dtype, **settings)
    click.echo(f"Writing {output} …", err=True)
    model.save_pretrained(output)
    click.echo(describe(inspect_checkpoint(output)))


def read_part(value: str, flag: str) -> str | Mapping[str, Any]:
    """A config where `value` is JSON or the file of one, else `value` as it is: a name, a folder or a Hub id.

    Raises:
        ConfigError: it is neither JSON nor there.
    """
    where, text = flag, value
    if value.endswith(".json"):
        where = f"{flag} {value}"
        try:
            text = Path(value).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"{where} cannot be read ({error}): check the path.") from None
    elif not value.lstrip().startswith("{"):
        return value
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON ({error}): mend it.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{where} is a {type(config).__name__}: give a JSON object as in config.json.")
    return config


def tokenizer_beside(llm: str) -> Path | None:
    """The folder of a `config.json` given as language model, where a tokenizer lies beside it."""
    folder = Path(llm).expanduser().parent
    return folder if llm.endswith(".json") and (folder / "tokenizer_config.json").is_file() else None


def read_settings(fields: Sequence[str]) -> dict[str, Any]:
    """Fields of the config from `key=value`; values are JSON, or text where they are none.

    Raises:
        ConfigError: there is no such field, or its value is of another kind.
    """
    settings: dict[str, Any] = {}
    for field in fields:
        key, equals, text = field.partition("=")
        if not equals:
            raise ConfigError(f"--set {field!r} has no value: write KEY=VALUE.")
        if key not in _FIELDS:
            advice = suggestion(key, sorted(_FIELDS)) or f"there are {', '.join(sorted(_FIELDS))}."
            raise ConfigError(f"--set knows no field {key!r}; {advice}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        # True is an int to Python and no number of frames.
        if value is not None and type(value) not in _FIELDS[key]:
            kinds = " or ".join(kind.__name__ for kind in _FIELDS[key])
            raise ConfigError(f"--set {key} is {text!r}: give a value of kind {kinds}.")
        settings[key] = value
    return settings


def refuse_to_overwrite(output: Path, force: bool) -> None:
    """Raise ConfigError where a checkpoint, or anything that is no folder, is in the way."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is no folder: give another place as --output.")
    there = next(
        (name for name in ("config.json", "llm", "vision_tower", "mm_projector") if (output / name).exists()), ""
    )
    if there and not force:
        raise ConfigError(f"{output} holds a checkpoint ({there}): give another --output, or --force to replace it.")
