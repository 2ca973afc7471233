"""Plugins that break in every way they can, installed for real: none takes anything from the user but itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEADER = """
from navila import hookimpl
from navila.specs import CommandSpec, SimulatorSpec

def simulator(name):
    return SimulatorSpec(name=name, target="json:JSONDecoder", summary="a simulator of a test")
"""

PLUGINS = {
    "broken": "import a_package_that_is_not_there",
    "exiting": "import sys\nsys.exit(7)",
    "raising": HEADER + "@hookimpl\ndef navila_simulators():\n    raise RuntimeError('raised when called')",
    "late": HEADER
    + "@hookimpl\ndef navila_simulators():\n    yield simulator('early')\n    raise RuntimeError('late')",
    "misspelt": HEADER + "@hookimpl\ndef navila_simulater():\n    yield simulator('unseen')",
    "malformed": HEADER
    + "@hookimpl\ndef navila_simulators():\n    yield simulator('Not A Name')\n    yield simulator('sound')",
    "one": HEADER + "@hookimpl\ndef navila_simulators():\n    yield simulator('twice')",
    "two": HEADER
    + "@hookimpl\ndef navila_simulators():\n    yield simulator('twice')\n"
    + "@hookimpl\ndef navila_commands():\n"
    + "    yield CommandSpec(name='plugins', target='no.such:command', summary='hides the one that could remove it')",
    "healthy": HEADER
    + "@hookimpl\ndef navila_simulators():\n    yield simulator('fine')\n"
    + "@hookimpl\ndef navila_commands():\n"
    + "    yield CommandSpec(name='hello', target='navila_healthy.command:hello', summary='Greets')",
}
#: Plugin to the stage at which it breaks.
STAGES = {
    "broken": "import",
    "exiting": "import",
    "raising": "call",
    "late": "iterate",
    "misspelt": "register",
    "malformed": "iterate",
}


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, make_plugin: Callable[[str, str], Path], install: Callable[..., None]
) -> Path:
    """A folder of installed plugins, to be put on PYTHONPATH."""
    site = tmp_path_factory.mktemp("site")
    install(site, *[make_plugin(name, source) for name, source in PLUGINS.items()])
    command = "import click\n\n@click.command()\ndef hello():\n    click.echo('hello from the healthy one')\n"
    (site / "navila_healthy" / "command.py").write_text(command)
    # Distributions with destroyed metadata, with entry points that do not parse, and with ones that are not text.
    for name, entry_points in (
        ("hollow", b"[navila]\nhollow = navila_hollow.plugin\n"),
        ("garbled", b"[navila]\nthis line is no entry point\n"),
        ("binary", b"[navila]\n\xff\xfe\n"),
    ):
        info = site / f"navila_{name}-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_bytes(entry_points)
        if name != "hollow":
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: navila-{name}\n")
    return site


@pytest.fixture
def navila(site: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `navila` in a fresh interpreter that sees the plugins above and those of the workspace."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(site), **variables}
        return subprocess.run(
            [sys.executable, "-m", "navila", *arguments], env=env, capture_output=True, text=True, check=False
        )

    return run


def test_help_is_shown_and_each_broken_plugin_has_one_line(
    navila: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = navila("--help")
    assert done.returncode == 0
    assert "hello" in done.stdout
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "navila-broken" in line]
    assert len(lines) == 1
    assert "a_package_that_is_not_there" in lines[0]
    assert "no:broken" in lines[0]


@pytest.mark.parametrize(
    "arguments", [(), ("list",), ("list", "--json"), ("info", "broken"), ("info", "navila-exiting")]
)
def test_metadata_commands_import_no_plugin(
    navila: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...]
) -> None:
    done = navila("plugins", *arguments)
    assert done.returncode == 0
    assert "broken" in done.stdout or "exiting" in done.stdout
    assert "cannot be imported" not in done.stderr


def test_plugins_list_names_every_plugin_that_can_be_read(
    navila: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    listed = {row["name"]: row for row in json.loads(navila("plugins", "--json").stdout)}
    assert set(PLUGINS) <= set(listed)
    assert listed["broken"]["version"] == "1.2.3"
    assert listed["broken"]["dist"] == "navila-broken"


def test_a_list_has_what_the_healthy_plugins_offer(navila: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = navila("simulator", "list", "--json")
    assert done.returncode == 0
    names = [row["name"] for row in json.loads(done.stdout)]
    assert {"fine", "early", "sound"} <= set(names)
    assert names.count("twice") == 2
    assert "unseen" not in names


def test_commands_that_do_not_need_them_run(navila: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert navila("hello").stdout == "hello from the healthy one\n"
    assert navila("conversation", "info", "llama_3").returncode == 0


def test_doctor_says_what_broke_where_and_which_names_clash(
    navila: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = navila("plugins", "doctor", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert {f["plugin"]: f["stage"] for f in report["failures"] if f["plugin"] in PLUGINS} == STAGES
    assert all(f["version"] == "1.2.3" for f in report["failures"] if f["plugin"] in PLUGINS)
    (misspelt,) = [f for f in report["failures"] if f["plugin"] == "misspelt"]
    assert "did you mean 'navila_simulators'?" in misspelt["error"]
    clashes = {(d["kind"], d["name"]): d["use"] for d in report["duplicates"]}
    assert {"navila-hollow", "navila-garbled", "navila-binary"} <= {f["dist"] for f in report["failures"]}
    assert clashes["simulator", "twice"] == ["navila-one/twice", "navila-two/twice"]
    assert ("command", "plugins") in clashes
    assert navila("plugins", "doctor").returncode == 0


def test_a_name_two_plugins_claim_is_an_error_only_when_used(
    navila: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = navila("simulator", "info", "twice")
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert "navila-one" in error
    assert "navila-two" in error
    assert navila("simulator", "info", "navila-two/twice").returncode == 0
    assert navila("simulator", "info", "twice", "--plugin", "no:two").returncode == 0


def test_a_plugin_that_is_left_out_says_nothing(navila: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    flags = [word for name in STAGES for word in ("--plugin", f"no:{name}")]
    done = navila("simulator", "list", *flags)
    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if "1.2.3" in line]
    assert "navila-broken" not in navila("simulator", "list", NAVILA_PLUGINS="no:navila-broken").stderr


def test_no_plugins_and_one_of_them(navila: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = navila("simulator", "list", "--json", "--no-plugins", "--plugin", "healthy")
    assert [row["name"] for row in json.loads(done.stdout)] == ["fine"]
    assert done.stderr == ""


def test_strict_stops_at_the_first_broken_plugin(navila: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = navila("simulator", "list", "--no-plugins", "--plugin", "raising", NAVILA_STRICT="1")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "navila-raising" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", STAGES)
def test_check_finds_what_is_wrong_with_a_distribution(
    navila: Callable[..., subprocess.CompletedProcess[str]], name: str
) -> None:
    done = navila("plugins", "check", f"navila-{name}", "--json")
    assert done.returncode == 1
    assert any(row["problems"] for row in json.loads(done.stdout))


def test_a_component_of_a_broken_plugin_is_asked_for_by_itself(
    navila: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = navila("simulator", "info", "fime")
    assert done.returncode == 2
    assert "did you mean 'fine'" in done.stderr
