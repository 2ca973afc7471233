"""Flags and recipes to arguments."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import navila.model  # noqa: F401  silences warnings that the imports of transformers below would print
import yaml
from navila.errors import ConfigError
from transformers import HfArgumentParser
from transformers import TrainingArguments as TrainerArguments
from transformers.hf_argparser import string_to_bool

from navila_train.arguments import (
    RENAMED,
    WITHOUT_EFFECT,
    AdapterArguments,
    DataArguments,
    ModelArguments,
    PlanArguments,
    TuningArguments,
)
from navila_train.deepspeed_config import check_matches, read_deepspeed
from navila_train.reports import check_reports

#: Arguments that name a part of the model, by text or by a config.
PARTS = ("llm", "vision_tower", "mm_projector")


@dataclass(kw_only=True)
class TrainingArguments(TuningArguments, TrainerArguments):
    """The Trainer's arguments and ours."""

    # Our batches are not columns of a `datasets` table.
    remove_unused_columns: bool = False
    # It would put the mean of earlier losses in the place of one that is no number; such steps are told instead.
    logging_nan_inf_filter: bool = False


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Everything a run was told."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    adapter: AdapterArguments
    plan: PlanArguments
    given: Mapping[str, Any]
    """Recipe and flags as given, for the record."""


class _Parser(HfArgumentParser):
    def __init__(self, *kinds: Any) -> None:
        super().__init__(list(kinds), allow_abbrev=False)  # type: ignore[arg-type]
        for action in self._actions:
            # A switch that may also be left undecided: its name alone means yes, as with every other switch.
            if action.type is string_to_bool and action.nargs is None:
                action.nargs, action.const = "?", True

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"navila train: {message}; see `navila train --help`.")


def parse_flags(flags: Sequence[str]) -> Arguments:
    """Parse command-line flags, over those of `--config FILE`.

    Raises:
        ConfigError: a flag is unknown or has a value of the wrong kind, or the recipe cannot be read.
    """
    recipe_path, rest = _take_config(list(flags))
    recipe = _known_only(read_recipe(recipe_path), f"recipe {recipe_path}") if recipe_path else {}
    rest = _flags_known_only(rest)
    parser = _Parser(ModelArguments, DataArguments, TrainingArguments, AdapterArguments, PlanArguments)
    parser.set_defaults(**{**_of_job(), **{key: _as_default(value) for key, value in recipe.items()}})
    namespace, unknown = parser.parse_known_args(rest)
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), unknown[0])
        raise ConfigError(_unknown(flag.lstrip("-").partition("=")[0], "flag", "--{}"))
    values = vars(namespace)
    for part in PARTS:
        values[part] = _part(values[part], part)
    given = {**recipe, **{key: values[key] for key in _keys(rest) if key in values}}
    _choose_device(values)
    for name in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
        # Newer versions of transformers warn of these names, which recipes and scripts have.
        if values.get(new := name.replace("gradient", "activation"), values[name]) is None:
            values[new], values[name] = values[name], None
    if values["deepspeed"]:
        values["deepspeed"] = read_deepspeed(values["deepspeed"])
    try:
        model = ModelArguments(**_fields(ModelArguments, values))
        data = DataArguments(**_fields(DataArguments, values))
        adapter = AdapterArguments(**_fields(AdapterArguments, values))
        training = TrainingArguments(**_fields(TrainingArguments, values))
        plan = PlanArguments(**_fields(PlanArguments, values))
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"navila train: {' '.join(str(error).split())}") from error
    check_matches(training)
    if not plan.plan:
        check_reports(training)
    return Arguments(model=model, data=data, training=training, adapter=adapter, plan=plan, given=given)


def _of_job() -> dict[str, str]:
    """Name and folder of the job that `navila run` runs this in."""
    names = {"run_name": "RUN_NAME", "output_dir": "OUTPUT_DIR"}
    found = {name: os.environ[variable] for name, variable in names.items() if os.environ.get(variable)}
    return found if len(found) == len(names) else {}


def _fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: values[f.name] for f in dataclasses.fields(kind) if f.init and f.name in values}


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of flags without dashes.

    Raises:
        ConfigError: the file is missing or is no mapping.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Recipe {path} cannot be read ({error.strerror}): check --config.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"Recipe {path} is no text file: check --config.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"Recipe {path}{where}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    if not isinstance(recipe, dict):
        raise ConfigError(f"Recipe {path} must be a mapping of flags to values, not {type(recipe).__name__}.")
    return {str(key): value for key, value in recipe.items()}


def _names() -> list[str]:
    kinds = (ModelArguments, DataArguments, TrainingArguments, AdapterArguments, PlanArguments)
    return [field.name for kind in kinds for field in dataclasses.fields(kind)]


def _unknown(name: str, what: str, pattern: str = "{}") -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), _names(), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(pattern.format(c) for c in close)}?" if close else "see `navila train --help`."
    return f"There is no {what} {pattern.format(name)}; {hint}"


def _known_only(recipe: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = set(_names())
    kept: dict[str, Any] = {}
    for key, value in recipe.items():
        name = RENAMED.get(key, key)
        if key in WITHOUT_EFFECT:
            _check_without_effect(key, str(value))
        elif name in known:
            kept[name] = value
        else:
            raise ConfigError(_unknown(key, f"key in {where} called"))
    return kept


def _take_config(flags: list[str]) -> tuple[Path | None, list[str]]:
    for number, flag in enumerate(flags):
        if flag.startswith("--config="):
            return Path(flag.partition("=")[2]), flags[:number] + flags[number + 1 :]
        if flag == "--config":
            if number + 1 == len(flags):
                raise ConfigError("--config needs a file: --config recipe.yaml.")
            return Path(flags[number + 1]), flags[:number] + flags[number + 2 :]
    return None, flags


def _flags_known_only(flags: list[str]) -> list[str]:
    """Translate renamed flags and take out those without effect, values included."""
    words: list[str] = []
    dropped = ""
    for word in flags:
        if not word.startswith("--"):
            if dropped:
                _check_without_effect(dropped, word)
            else:
                words.append(word)
            continue
        flag, equals, value = word[2:].partition("=")
        name = flag.replace("-", "_")
        dropped = name if name in WITHOUT_EFFECT else ""
        if not dropped:
            words.append(f"--{RENAMED.get(name, flag)}{equals}{value}")
        elif equals:
            _check_without_effect(name, value)
    return words


def _check_without_effect(name: str, value: str) -> None:
    only = WITHOUT_EFFECT[name]
    if only is not None and value.lower() != only.lower():
        raise ConfigError(f"--{name} {value} is not supported: leave it out.")


def _keys(flags: Sequence[str]) -> set[str]:
    return {word[2:].partition("=")[0].replace("-", "_") for word in flags if word.startswith("--")}


def _as_default(value: Any) -> Any:
    """A recipe's value as argparse converts it, like a flag: 1e-4 is a text in YAML."""
    return value if value is None or isinstance(value, bool | dict | list) else str(value)


def _part(value: Any, name: str) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--{name} is not valid JSON ({error.msg} at character {error.pos}).") from None


def _choose_device(values: dict[str, Any]) -> None:
    """Without a GPU, say so to the Trainer: left to itself, every rank of a launched job would train alone.

    Raises:
        ConfigError: mixed precision that CPUs do not have is asked for.
    """
    import torch

    if not values["use_cpu"] and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        values["use_cpu"] = True
    if "WORLD_SIZE" not in os.environ:
        # A recipe for several processes may be tried in one, which has nobody to talk to.
        values["ddp_backend"] = None
    if values["use_cpu"]:
        # It says how GPUs multiply float32; the Trainer would stop where there are none.
        values["tf32"] = None
        if values["fp16"] and not values["plan"]:
            raise ConfigError("--fp16 needs a GPU: on a CPU give --bf16, or train in float32.")
