"""The commands of navila-sim-remote keep the contract of commands."""

import py_compile
from pathlib import Path

import pytest
from navila.cli import main
from navila.testing import CommandContract


class TestSimRemote(CommandContract):
    name = "sim-remote"


class TestServe(CommandContract):
    name = "serve"


def test_the_file_for_another_python_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim-remote", "server-file", str(tmp_path)]) == 0
    path = tmp_path / "navila_sim_server.py"
    assert capsys.readouterr().out.startswith(f"{path} is written")
    py_compile.compile(str(path), doraise=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("check localhost", "must read HOST:PORT"),
        ("check localhost:1 --timeout 1", "No simulator server can be reached at localhost:1"),
        ("serve nothing", "No installed plugin offers a simulator 'nothing'"),
        ("serve mesh -o colour=red", "The simulator mesh has no option 'colour'"),
        ("serve mesh --host 203.0.113.1", "203.0.113.1:54322 cannot be listened at"),
    ],
)
def test_mistakes_are_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim-remote", *arguments.split()]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Error: ")
    assert told.count("\n") == 1
    assert sentence in told
