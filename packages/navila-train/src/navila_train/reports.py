"""`--report_to`: what TensorBoard and Weights & Biases need."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from navila.errors import MissingDependencyError
from transformers import TrainingArguments

#: Packages that do it, any of them, by the name that the flag takes.
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def check_reports(training: TrainingArguments) -> None:
    """Make sure that figures can be reported where they are wanted.

    Raises:
        MissingDependencyError: a package is missing.
    """
    for name in training.report_to or ():
        packages = _PACKAGES.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise MissingDependencyError(f"--report_to {name} needs a package: run `pip install {packages[0]}`.")


def name_reports(training: TrainingArguments) -> None:
    """Call the run after its folder and the project `navila`, unless `--run_name` and `WANDB_PROJECT` say otherwise."""
    os.environ.setdefault("WANDB_PROJECT", "navila")
    training.run_name = training.run_name or Path(training.output_dir or "").name
