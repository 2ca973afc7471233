"""The plugin host on local plugin files: what it finds, refuses, keeps apart and reports."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import pytest
from navila.errors import (
    AmbiguousComponentError,
    ConfigError,
    MissingDependencyError,
    PluginError,
    UnknownComponentError,
)
from navila.hookspecs import NavilaHooks
from navila.kinds import KINDS
from navila.plugins import PluginHost, default_host
from navila.registry import Registry, suggestion

HEADER = "from navila import hookimpl\nfrom navila.specs import SimulatorSpec\n"


def write_plugin(folder: Path, name: str, body: str) -> str:
    """Write a plugin file; returns its path as `--plugin` takes it."""
    path = folder / f"{name}.py"
    path.write_text(HEADER + textwrap.dedent(body))
    return str(path)


def simulator(name: str, extra: str = "") -> str:
    """Source of a plugin with one simulator."""
    return f"""
    @hookimpl
    def navila_simulators():
        yield SimulatorSpec(name={name!r}, target=f"{{__name__}}:Sim", summary="a simulator"{extra})

    class Sim: ...
    """


def test_a_local_file_offers_a_component_that_loads(tmp_path: Path) -> None:
    host = PluginHost(["no:*", write_plugin(tmp_path, "mine", simulator("toy", ", aliases=('toy_old',)"))])
    registry = host.registry("simulator")
    assert [spec.name for spec in registry.specs()] == ["toy"]
    assert registry.load("toy").__name__ == "Sim"
    assert registry.load("toy_old") is registry.load("toy") is registry.load("mine/toy")
    assert registry.origin("toy").dist == "mine"
    assert host.failures == ()


def test_provenance_pins_a_local_file_by_its_content(tmp_path: Path) -> None:
    choice = write_plugin(tmp_path, "mine", simulator("toy"))
    before = PluginHost(["no:*", choice]).provenance()
    Path(choice).write_text(Path(choice).read_text() + "\n# changed\n")
    after = PluginHost(["no:*", choice]).provenance()
    assert before.keys() == after.keys() == {"navila-core", "mine"}
    assert before["mine"].startswith("sha256:")
    assert before["mine"] != after["mine"]


@pytest.mark.parametrize(
    ("stage", "body"),
    [
        ("import", "import a_package_that_is_not_there"),
        ("import", "raise SystemExit(3)"),
        ("import", "def broken(:"),
        ("import", "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd"),
        ("register", "@hookimpl\ndef navila_simulators(argument): ..."),
        ("register", "@hookimpl\ndef navila_simulatorz(): ..."),
        ("register", "def navila_simulators(): ..."),
        ("call", "@hookimpl\ndef navila_simulators():\n    raise RuntimeError('boom')"),
        ("call", "@hookimpl\ndef navila_simulators(): ..."),
        ("iterate", "@hookimpl\ndef navila_simulators():\n    yield 1"),
        ("iterate", "@hookimpl\ndef navila_simulators():\n    return 5"),
        (
            "iterate",
            "@hookimpl\ndef navila_simulators():\n    yield SimulatorSpec(name='N', target='a:b', summary='s')",
        ),
        (
            "iterate",
            "@hookimpl\ndef navila_simulators():\n    yield SimulatorSpec(name='n', target='a.b', summary='s')",
        ),
        (
            "iterate",
            "@hookimpl\ndef navila_simulators():\n"
            "    yield SimulatorSpec(name='n', target='a:b', summary='s', aliases='x')",
        ),
        ("iterate", "@hookimpl\ndef navila_simulators():\n    yield SimulatorSpec(name='n', target='a:b')"),
    ],
)
def test_what_breaks_in_one_plugin_is_data_and_the_others_go_on(tmp_path: Path, stage: str, body: str) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(HEADER + body)
    lines: list[str] = []
    host = PluginHost(["no:*", str(bad), write_plugin(tmp_path, "good", simulator("toy"))], report=lines.append)
    assert [spec.name for spec in host.registry("simulator").specs()] == ["toy"]
    (failure,) = host.failures
    assert (failure.dist, failure.plugin, failure.stage) == ("bad", "bad", stage)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "no:bad" in lines[0]

    with pytest.raises(PluginError, match="bad"):
        assert PluginHost(["no:*", str(bad)], strict=True).failures


def test_a_failure_is_reported_once(tmp_path: Path) -> None:
    lines: list[str] = []
    host = PluginHost(["no:*", write_plugin(tmp_path, "bad", "raise ValueError")], report=lines.append)
    for _ in range(2):
        assert len(host.failures) == 1
        host.registry("simulator").specs()
    assert len(lines) == 1


def test_a_list_that_breaks_off_keeps_what_it_gave_before(tmp_path: Path) -> None:
    body = """
    @hookimpl
    def navila_simulators():
        yield SimulatorSpec(name="first", target="m:C", summary="given before the error")
        raise RuntimeError("late")
    """
    host = PluginHost(["no:*", write_plugin(tmp_path, "late", body)], report=[].append)
    assert "first" in host.registry("simulator")
    assert [(f.stage, f.error) for f in host.failures] == [("iterate", "RuntimeError: late")]


def test_a_misspelt_hook_is_named_with_the_right_one_and_the_others_stay_in_use(tmp_path: Path) -> None:
    body = simulator("toy") + "\n    @hookimpl\n    def navila_lms(): ...\n"
    host = PluginHost(["no:*", write_plugin(tmp_path, "typo", body)], report=[].append)
    assert "toy" in host.registry("simulator")
    (failure,) = host.failures
    assert failure.stage == "register"
    assert "did you mean 'navila_llms'?" in failure.error


def test_what_a_plugin_prints_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "print('at import')\n@hookimpl\ndef navila_simulators():\n    print('when asked')\n    return ()"
    path = tmp_path / "chatty.py"
    path.write_text(HEADER + body)
    assert PluginHost(["no:*", str(path)]).failures == ()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "at import\nwhen asked\n"


def test_a_name_claimed_twice_is_an_error_only_when_used(tmp_path: Path) -> None:
    plugins = [write_plugin(tmp_path, name, simulator("toy")) for name in ("one", "two")]
    registry = PluginHost(["no:*", *plugins]).registry("simulator")
    assert len(registry.specs()) == 2
    assert registry.names() == ["one/toy", "two/toy"]
    with pytest.raises(AmbiguousComponentError, match=r"one .*two .*'one/toy' or 'two/toy'.*no:two"):
        registry.spec("toy")
    assert registry.origin("two/toy").dist == "two"
    assert registry.load("one/toy") is not registry.load("two/toy")

    registry = PluginHost(["no:*", *plugins, "no:two"]).registry("simulator")
    assert registry.origin("toy").dist == "one"


def test_a_name_goes_before_an_alias(tmp_path: Path) -> None:
    plugins = [
        write_plugin(tmp_path, "named", simulator("toy")),
        write_plugin(tmp_path, "aliased", simulator("other", ", aliases=('toy', 'some/where')")),
    ]
    registry = PluginHost(["no:*", *plugins]).registry("simulator")
    assert registry.origin("toy").dist == "named"
    assert registry.spec("aliased/toy").name == "other"
    assert registry.spec("some/where").name == "other"


def test_a_name_declared_twice_by_one_plugin_is_kept_once(tmp_path: Path) -> None:
    body = """
    @hookimpl
    def navila_simulators():
        for summary in ("first", "second"):
            yield SimulatorSpec(name="toy", target="m:C", summary=summary)
    """
    host = PluginHost(["no:*", write_plugin(tmp_path, "twice", body)], report=[].append)
    assert host.registry("simulator").spec("toy").summary == "first"
    assert "declared twice" in host.failures[0].error


def test_an_unknown_name_brings_close_matches(tmp_path: Path) -> None:
    registry = PluginHost(["no:*", write_plugin(tmp_path, "mine", simulator("warehouse"))]).registry("simulator")
    with pytest.raises(UnknownComponentError, match="simulator 'warehose'; did you mean 'warehouse'"):
        registry.load("warehose")


def test_a_name_and_its_alias_are_one_match() -> None:
    assert suggestion("mlp_downsampl", ["mlp-downsample", "mlp_downsample"]) == "did you mean 'mlp_downsample'?"


def test_a_known_package_that_is_left_out_is_said_to_be(tmp_path: Path) -> None:
    registry = PluginHost(["no:*"]).registry("simulator")
    with pytest.raises(UnknownComponentError, match="'mesh' of navila-sim-mesh is left out"):
        registry.load("mesh")


@pytest.mark.parametrize(
    ("kind", "name", "dist"),
    [
        ("simulator", "mesh", "navila-sim-mesh"),
        ("vision-encoder", "siglip_vision_model", "navila-encoder-siglip"),
        ("projector", "mlp_downsample", "navila-projector-mlp"),
        ("command", "navila-train/train", "navila-train"),
    ],
)
def test_a_known_name_that_is_not_installed_ends_in_the_pip_line(kind: str, name: str, dist: str) -> None:
    with pytest.raises(UnknownComponentError, match=f"{name}' is installed: run `pip install {dist}`"):
        Registry(KINDS[kind], []).load(name)


def test_a_missing_requirement_ends_in_the_pip_line_before_anything_is_imported(tmp_path: Path) -> None:
    body = simulator("toy", ", requires=('json', 'nothing_here.deep', 'cv9=opencv-nine')").replace(
        "{__name__}:Sim", "a_module_that_is_not_there:Sim"
    )
    registry = PluginHost(["no:*", write_plugin(tmp_path, "mine", body)]).registry("simulator")
    with pytest.raises(MissingDependencyError, match=r"'toy' of mine .* `pip install nothing_here opencv-nine`"):
        registry.load("toy")


@pytest.mark.parametrize("target", ["a_module_that_is_not_there:Sim", "json:NoSuchName"])
def test_a_target_that_does_not_import_is_one_sentence_naming_the_owner(tmp_path: Path, target: str) -> None:
    body = simulator("toy").replace("{__name__}:Sim", target)
    registry = PluginHost(["no:*", write_plugin(tmp_path, "mine", body)]).registry("simulator")
    assert registry.spec("toy").target == target, "listing does not import"
    with pytest.raises(PluginError, match="simulator 'toy' of mine") as caught:
        registry.load("toy")
    assert "\n" not in str(caught.value)


def test_a_deprecated_component_says_what_to_use_instead(tmp_path: Path) -> None:
    body = simulator("toy", ", deprecated='use mesh'")
    registry = PluginHost(["no:*", write_plugin(tmp_path, "mine", body)]).registry("simulator")
    with pytest.warns(FutureWarning, match="use mesh"):
        registry.load("toy")


def test_an_importable_module_is_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_local_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write_plugin(package, "plugin", simulator("toy"))
    monkeypatch.syspath_prepend(tmp_path)
    registry = PluginHost(["no:*", "a_local_package.plugin"]).registry("simulator")
    assert registry.origin("toy").dist == "a_local_package"


@pytest.mark.parametrize("choice", ["sim-mash", "./no_such_file.py", "no_such_module.plugin"])
def test_asking_for_a_plugin_that_is_not_there_is_an_error(choice: str) -> None:
    with pytest.raises(ConfigError, match=choice):
        PluginHost(["no:*", choice]).registry("simulator")


def test_choices_are_applied_in_order(tmp_path: Path) -> None:
    mine = write_plugin(tmp_path, "mine", simulator("toy"))
    assert "toy" not in PluginHost([mine, "no:*"]).registry("simulator")
    assert "toy" in PluginHost([mine, "no:*", "mine"]).registry("simulator")
    assert [origin.dist for origin in PluginHost(["no:*", mine, "no:mine"]).left_out][-1] == "mine"


def test_the_default_host_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAVILA_PLUGINS", f"no:*, {write_plugin(tmp_path, 'mine', simulator('toy'))}")
    assert default_host() is default_host()
    assert default_host().registry("simulator").names() == ["toy"]
    monkeypatch.setenv("NAVILA_PLUGINS", "no:*")
    assert default_host().registry("simulator").names() == []


def test_core_offers_its_own_components_through_the_hooks_of_an_outsider() -> None:
    host = PluginHost(["no:*"])
    assert {"plugins", "infer", "simulator"} <= set(host.registry("command").names())
    assert host.registry("conversation").load("hermes-2").name == "hermes-2"


def test_an_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(ConfigError, match="vision-encoder"):
        PluginHost(["no:*"]).registry("encoder")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_example_in_a_hooks_documentation_is_a_whole_plugin(tmp_path: Path, kind) -> None:
    documentation = inspect.getdoc(getattr(NavilaHooks, kind.hook)) or ""
    example = textwrap.dedent(documentation.partition("Example::\n")[2])
    path = tmp_path / "example.py"
    path.write_text(example)
    host = PluginHost(["no:*", str(path)])
    core = {entry.origin.dist for entry in host.registry(kind.name).entries}
    assert "example" in core
    assert host.failures == ()
