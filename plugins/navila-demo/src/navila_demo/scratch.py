"""Making the demonstration's checkpoint anew: the steps of `recipe.yaml`, each the command a user would type."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from navila.errors import EXIT_RESUME, ConfigError, Interrupted


def make_checkpoint(folder: Path, recipe: Path | None = None) -> Path:
    """Run every step in `folder` and return the checkpoint of the last training; finished steps are skipped.

    Raises:
        NavilaError: the recipe is malformed, or a step failed; it has said why.
    """
    steps = read_steps(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps, start=1):
        ((kind, settings),) = step.items()
        command = record_command(settings) if kind == "record" else train_command(folder, number, settings)
        print(f"step {number} of {len(steps)}: navila {' '.join(command)}", file=sys.stderr, flush=True)
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        code = subprocess.run(
            [sys.executable, "-m", "navila", *command], cwd=folder, env=environment, check=False
        ).returncode
        if code == EXIT_RESUME:
            raise Interrupted(f"Step {number} was stopped early: run the same command again to go on.")
        if code:
            raise ConfigError(f"Step {number} ({kind}) failed with exit code {code}: see above.")
    return folder / steps[-1]["train"]["output_dir"]


def read_steps(recipe: Path | None) -> list[dict[str, dict[str, Any]]]:
    """The steps of a recipe, the shipped one when None: `[{"record": {…}}, {"train": {…}}, …]`.

    Raises:
        ConfigError: the file cannot be read, or its steps are no such list ending in a training.
    """
    source = recipe or files("navila_demo") / "recipe.yaml"
    try:
        steps = yaml.safe_load(source.read_text(encoding="utf-8"))["steps"]
        kinds = [kind for step in steps for kind in step]
        named = all(("output_dir" if kind == "train" else "output") in step[kind] for step in steps for kind in step)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"The recipe {source} cannot be read ({error!r}): see the shipped one for its form."
        ) from None
    if len(kinds) != len(steps) or set(kinds) - {"record", "train"} or kinds[-1:] != ["train"] or not named:
        raise ConfigError(
            f"The recipe {source} must be a list of steps, each a `record` with an output or a `train` with an "
            "output_dir, the last one a `train`."
        )
    return steps


def record_command(settings: Mapping[str, Any]) -> list[str]:
    """`navila data record` with the settings as flags; a list repeats its flag."""
    command = ["data", "record"]
    for name, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            command += [f"--{name.replace('_', '-')}", str(item)]
    return command


def train_command(folder: Path, number: int, settings: Mapping[str, Any]) -> list[str]:
    """`navila train` with the settings written down as a recipe."""
    recipe = f"train-{number}.yaml"
    (folder / recipe).write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
    return ["train", "--config", recipe]
