"""`navila train` keeps the contract of commands, and its help names every flag of ours."""

import dataclasses

from click.testing import CliRunner
from navila.testing import CommandContract
from navila_train.arguments import GROUPS
from navila_train.command import train


class TestTrain(CommandContract):
    name = "train"


def test_help_names_every_flag():
    text = CliRunner().invoke(train, ["--help"]).output
    for _, group in GROUPS:
        for field in dataclasses.fields(group):
            assert f"--{field.name}" in text


def test_the_common_trainer_flags_exist():
    from navila_train.arguments import COMMON_TRAINER_FLAGS
    from transformers import TrainingArguments

    known = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    for name, text in COMMON_TRAINER_FLAGS:
        assert name in known
        _, _, default = text.partition("[default: ")
        if default and name != "use_cpu":
            value = known[name].default
            assert (
                float(default.rstrip("]")) == value
                if isinstance(value, int | float)
                else default.rstrip("]") in str(value)
            )
