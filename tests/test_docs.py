"""The pages can be followed: their commands exist, with the flags that are shown, and their links lead somewhere."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from navila.cli import take_plugin_options
from navila.cli.root import navila
from navila.errors import NavilaError
from navila_train.arguments import GROUPS, RENAMED, WITHOUT_EFFECT

#: How a line begins that runs navila, up to its arguments.
COMMAND = re.compile(r"(?:uv run |python -m |torchrun .* -m |.* && uv run )?navila (.*)")
#: What a page writes for "and so on".
AND_SO_ON = "…"


@pytest.fixture(scope="module")
def pages(workspace: Path) -> dict[Path, str]:
    """The text of every page for users."""
    folders = ("*", "docs/**/*", "packages/*/*", "plugins/*/*", "examples/*/*")
    return {path: path.read_text(encoding="utf-8") for folder in folders for path in workspace.glob(f"{folder}.md")}


def commands(page: str) -> Iterator[list[str]]:
    """The arguments of each `navila` command of a page; those within sentences need not be whole."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE):
        # A command goes on behind a backslash, and inside of braces.
        for line in re.sub(r"\\\n|(?<=[{,])\n", " ", block).splitlines() if language == "bash" else ():
            if match := COMMAND.fullmatch(line):
                yield shlex.split(match[1], comments=True)
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`navila ([a-z][^`]*)`", prose):
        yield [*shlex.split(code), AND_SO_ON]


def check(words: Sequence[str]) -> None:
    """Parse a command without running it; raises click.UsageError or NavilaError."""
    whole = words[-1:] != [AND_SO_ON]
    words, _ = take_plugin_options(words if whole else words[:-1])
    command: click.Command = navila
    context = click.Context(command, info_name="navila", **navila.context_settings)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"there is no command {words[0]}", context)
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context, **command.context_settings)
    if command.name == "train":
        check_flags_of_training(words)
        return
    if command.name == "run" and "--" in words:
        inner = words[words.index("--") + 1 :]
        if inner[:1] == ["navila"]:
            check(inner[1:])
    assert command.get_help(context)
    if not whole and not words:
        return
    try:
        command.make_context(str(command.name), words, parent=context.parent)
    except (click.MissingParameter, click.BadOptionUsage):
        if whole:
            raise
    except click.BadParameter as error:
        # Files of examples are not there.
        if "does not exist" not in error.message:
            raise
    except click.exceptions.Exit:
        pass  # --help


def check_flags_of_training(words: Sequence[str]) -> None:
    """Raise click.UsageError for a flag that `navila train` does not know; it has a parser of its own."""
    own = {field.name for _, group in GROUPS for field in dataclasses.fields(group)}
    for flag in (word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")):
        if flag not in {"config", "help", *own, *RENAMED, *WITHOUT_EFFECT} and flag not in trainer_flags():
            raise click.UsageError(f"navila train has no flag --{flag}")


@functools.cache
def trainer_flags() -> frozenset[str]:
    """Fields of `transformers.TrainingArguments`, by its source: importing it takes longer than all else here."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("training_args.py").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^    (\w+): ", source, flags=re.MULTILINE))


def test_commands_of_all_pages_exist_with_their_flags(
    pages: dict[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, checked = [], 0
    for path, text in pages.items():
        for words in commands(text):
            checked += 1
            try:
                check(words)
            except (click.UsageError, NavilaError) as error:
                wrong.append(f"{path}: navila {shlex.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)
    assert checked > 150


def anchors(page: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere(pages: dict[Path, str]) -> None:
    broken, checked = [], 0
    for path, text in pages.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
            if "://" in target:
                continue
            checked += 1
            name, _, anchor = target.partition("#")
            there = (path.parent / name).resolve() if name else path
            if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
                broken.append(f"{path}: {target}")
    assert not broken, "\n".join(broken)
    assert checked > 30
