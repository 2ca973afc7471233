"""Plugins are found in the metadata of whatever is on sys.path, read as importlib.metadata reads them."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from navila.discovery import InstalledPlugin, installed_plugins

METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\nSummary: a test\n\nName: not this\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on sys.path."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def install(
    folder: Path, points: str | bytes, name: str = "A.Plugin", version: str = "1.2", kind: str = "dist-info"
) -> Path:
    """Metadata of a distribution with these entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.{kind}"
    info.mkdir(parents=True)
    (info / ("METADATA" if kind == "dist-info" else "PKG-INFO")).write_text(METADATA.format(name, version))
    (info / "entry_points.txt").write_bytes(points if isinstance(points, bytes) else points.encode())
    return info


def found() -> list[tuple[str, str, str, str]]:
    return [(p.name, p.module, p.dist, p.version) for p in installed_plugins()]


def test_everything_that_is_installed_here_is_found_as_importlib_does() -> None:
    points = metadata.entry_points(group="navila")
    want = {(p.name, p.module, p.dist.name, p.dist.version) for p in points if p.dist is not None}
    assert set(found()) == want


@pytest.mark.parametrize(
    ("points", "modules"),
    [
        ("[navila]\none = a.plugin\n", {"one": "a.plugin"}),
        (
            "[console_scripts]\nx = y:z\n\n[navila]\n# said of it\none=a.plugin\ntwo = b\n",
            {"one": "a.plugin", "two": "b"},
        ),
        ("[navila]\r\none = a.plugin:attribute [extra]\r\n[other]\r\nthree = c\r\n", {"one": "a.plugin"}),
        ("[navila.other]\none = a\n", {}),
        ("", {}),
    ],
)
@pytest.mark.parametrize("kind", ["dist-info", "egg-info"])
def test_entry_points_are_read_as_importlib_reads_them(
    path: Path, kind: str, points: str, modules: dict[str, str]
) -> None:
    install(path, points, kind=kind)
    assert found() == [(name, module, "A.Plugin", "1.2") for name, module in modules.items()]
    assert {p.name: p.module for p in metadata.entry_points(group="navila")} == modules


def test_the_first_on_the_path_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(path / "first", "[navila]\none = new\n", version="2")
    install(path / "second", "[navila]\none = old\n", name="a_plugin", version="1")
    monkeypatch.setattr(sys, "path", [str(path / folder) for folder in ("first", "second", "first", "not there")])
    assert found() == [("one", "new", "A.Plugin", "2")]


def test_an_editable_install_of_old_tools_is_found_in_its_sources(path: Path) -> None:
    info = install(path, "[navila]\none = a\n", kind="egg-info")
    info.rename(path / "A.Plugin.egg-info")
    assert found() == [("one", "a", "A.Plugin", "1.2")]


def test_a_zip_file_is_searched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = install(path, "[navila]\none = a\n")
    with zipfile.ZipFile(path / "app.zip", "w") as archive:
        for file in info.iterdir():
            archive.write(file, f"{info.name}/{file.name}")
    (path / "damaged.zip").write_bytes(b"PK\5\6")
    monkeypatch.setattr(sys, "path", [str(path / "damaged.zip"), str(path / "app.zip")])
    assert found() == [("one", "a", "A.Plugin", "1.2")]
    (plugin,) = installed_plugins()
    assert plugin.metadata.metadata["Summary"] == "a test"


def test_the_rest_of_the_metadata_is_read_on_use(path: Path) -> None:
    install(path, "[navila]\none = a\n")
    (plugin,) = installed_plugins()
    assert isinstance(plugin, InstalledPlugin)
    assert plugin.metadata.metadata["Summary"] == "a test"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda info: (info / "METADATA").unlink(), "METADATA"),
        (lambda info: (info / "METADATA").write_text("Name: A.Plugin\n\nVersion: 1.2\n"), "no Version"),
        (lambda info: (info / "METADATA").write_bytes(b"Name: \xff\n"), "utf-8"),
        (lambda info: (info / "entry_points.txt").write_text("[navila]\nno entry point\n"), "'no entry point'"),
        (lambda info: (info / "entry_points.txt").write_text("[navila]\none = \n"), "'one ='"),
        (lambda info: (info / "entry_points.txt").write_bytes(b"[navila]\n\xff = a\n"), "utf-8"),
    ],
)
def test_damaged_metadata_are_reported_and_the_others_found(path: Path, damage, words: str) -> None:
    damage(install(path, "[navila]\none = a\n"))
    install(path, "[navila]\nfine = b\n", name="other")
    install(path, b"[console_scripts]\n\xff = nothing of ours\n", name="third")
    errors: dict[str, str] = {}
    plugins = installed_plugins(on_error=lambda dist, error: errors.update({dist: str(error)}))
    assert [p.name for p in plugins] == ["fine"]
    assert list(errors) == ["A.Plugin"]
    assert words in errors["A.Plugin"]
