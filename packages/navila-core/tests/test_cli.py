"""The `navila` command: exit codes, plugin options anywhere, lazily loaded commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from navila.cli import main, take_plugin_options
from navila.errors import NavilaError

COMMANDS = '''
import sys

import click

from navila import hookimpl
from navila.specs import CommandSpec


@hookimpl
def navila_commands():
    for name in ("mistake", "bug", "resume", "wait", "answer", "stop", "flood", "full"):
        yield CommandSpec(name=name, target=f"{__name__}:{name}", summary=f"The command {name}")
    yield CommandSpec(name="absent", target="a_module_that_is_not_there:command", summary="Cannot be imported")


@click.command()
def mistake():
    """Raise what a user's mistake raises."""
    from navila.errors import ConfigError
    raise ConfigError("mend line 3 of the recipe.")


@click.command()
def bug():
    """Raise what nobody expected."""
    raise ZeroDivisionError("a bug")


@click.command()
def resume():
    """Stop early."""
    from navila.errors import EXIT_RESUME
    sys.exit(EXIT_RESUME)


@click.command()
def wait():
    """Wait to be interrupted."""
    import time
    print("waiting", flush=True)
    time.sleep(60)


@click.command()
def answer():
    """Return something, as a function called from Python would."""
    return 42


@click.command()
@click.pass_context
def stop(ctx):
    """Exit with a code of its own."""
    ctx.exit(4)


@click.command()
def flood():
    """Print more than a pipe holds."""
    for number in range(200_000):
        click.echo(number)


@click.command()
def full():
    """Write to a disk that is full."""
    with open("/dev/full", "w") as file:
        file.write("a record")
'''


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """A plugin file with commands that end in all the ways a command can."""
    path = tmp_path / "commands.py"
    path.write_text(COMMANDS)
    return str(path)


def navila(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh interpreter."""
    return subprocess.run([sys.executable, "-m", "navila", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("mistake", 2, "Error: mend line 3 of the recipe.\n"),
        ("resume", 75, ""),
        ("answer", 0, ""),
        ("stop", 4, ""),
    ],
)
def test_exit_codes(plugin: str, command: str, code: int, error: str) -> None:
    done = navila(command, "--no-plugins", "--plugin", plugin)
    assert (done.returncode, done.stderr) == (code, error)


def test_a_bug_keeps_its_traceback(plugin: str) -> None:
    done = navila("bug", "--no-plugins", "--plugin", plugin)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a bug" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_is_one_sentence(plugin: str) -> None:
    done = navila("full", "--no-plugins", "--plugin", plugin)
    assert done.returncode == 2
    assert (
        done.stderr
        == "Error: A file cannot be written (No space left on device): give another place, or make room there.\n"
    )


def test_a_command_that_cannot_be_imported_is_one_sentence_and_the_help_still_lists_it(plugin: str) -> None:
    assert "Cannot be imported" in navila("--help", "--plugin", plugin).stdout
    done = navila("absent", "--no-plugins", "--plugin", plugin)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The command 'absent' of commands")
    assert "Traceback" not in done.stderr


def test_control_c_ends_quietly_with_130(plugin: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "navila", "wait", "--no-plugins", "--plugin", plugin],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in error


def test_a_reader_that_leaves_early_causes_no_noise(plugin: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "navila", "flood", "--no-plugins", "--plugin", plugin],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    error = process.stderr.read()
    process.wait(timeout=300)
    assert error == b""


def test_an_unknown_command_brings_a_close_match_and_an_unknown_option_a_usage_line() -> None:
    done = navila("plugin", "--no-plugins")
    assert done.returncode == 2
    assert done.stderr == "Error: No installed plugin offers a command 'plugin'; did you mean 'plugins'?\n"
    done = navila("--no-such-option")
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: navila")


def test_version_and_help_leave_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("navila, version ")
    assert main(["--help", "--no-plugins"]) == 0
    assert "--plugin" in capsys.readouterr().out
    assert main(["plugins", "-h"]) == 0


@pytest.mark.parametrize(
    ("arguments", "rest", "choices"),
    [
        (["train", "--lr", "1"], ["train", "--lr", "1"], []),
        (["--plugin", "a", "train", "--plugin=no:b"], ["train"], ["a", "no:b"]),
        (["train", "--no-plugins", "--plugin", "a"], ["train"], ["no:*", "a"]),
        (["infer", "--", "--plugin", "a"], ["infer", "--", "--plugin", "a"], []),
        (["train", "--plugins", "a"], ["train", "--plugins", "a"], []),
    ],
)
def test_plugin_options_are_taken_from_anywhere(arguments: list[str], rest: list[str], choices: list[str]) -> None:
    assert take_plugin_options(arguments) == (rest, choices)


def test_a_plugin_file_is_made_absolute_for_workers_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert take_plugin_options(["--plugin", "./mine.py"]) == ([], [str(tmp_path / "mine.py")])


@pytest.mark.parametrize("arguments", [["--plugin"], ["--plugin", "--help"], ["--plugin="], ["--plugin", "a,b"]])
def test_a_plugin_option_without_a_plugin_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NavilaError):
        take_plugin_options(arguments)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("Error: --plugin")


def test_workers_of_a_command_see_its_plugins_and_the_caller_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spawning.py"
    path.write_text(
        textwrap.dedent('''
        import subprocess, sys

        import click

        from navila import hookimpl
        from navila.specs import CommandSpec

        @hookimpl
        def navila_commands():
            yield CommandSpec(name="spawn", target=f"{__name__}:spawn", summary="Start a worker")

        @click.command()
        def spawn():
            """Start a worker that lists the commands it sees."""
            program = "from navila.plugins import default_host; print(default_host().registry('command').names())"
            subprocess.run([sys.executable, "-c", program], check=True)
        ''')
    )
    monkeypatch.setenv("NAVILA_PLUGINS", "no:*")
    assert main(["spawn", "--plugin", str(path)]) == 0
    assert "'spawn'" in capfd.readouterr().out
    assert os.environ["NAVILA_PLUGINS"] == "no:*"


def test_a_wrong_plugin_choice_is_an_error_but_costs_no_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "--plugin", "sim-mash"]) == 0
    captured = capsys.readouterr()
    assert "plugins" in captured.out
    assert "no plugin 'sim-mash'" in captured.err
    assert main(["simulator", "list", "--plugin", "sim-mash"]) == 2
    assert main(["plugins", "list", "--plugin", "sim-mash"]) == 0


def test_every_kind_has_a_list_that_is_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "llm",
        "encoder",
        "projector",
        "conversation",
        "dataset",
        "benchmark",
        "simulator",
        "callback",
        "command",
    ):
        assert main([command, "list", "--no-plugins"]) == 0
        listed = capsys.readouterr().out
        assert listed.startswith("NAME")
        assert main([command, "--no-plugins"]) == 0
        assert capsys.readouterr().out == listed
        assert main([command, "list", "--json", "--no-plugins"]) == 0
        assert isinstance(json.loads(capsys.readouterr().out), list)
    assert main(["conversation", "info", "hermes-2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dist"] == "navila-core"
