"""The catalogue of first-party plugins says what the plugins say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from navila.catalogue import CATALOGUE
from navila.kinds import KINDS
from navila.plugins import default_host


def test_every_distribution_of_the_catalogue_is_a_member(workspace: Path) -> None:
    members = {path.parent.name for path in workspace.glob("*/*/pyproject.toml")}
    assert {entry.dist for entry in CATALOGUE} <= members


@pytest.mark.parametrize("kind", KINDS)
def test_every_first_party_component_is_in_the_catalogue_under_all_its_names(kind: str, workspace: Path) -> None:
    members = {path.parent.name for path in workspace.glob("*/*/pyproject.toml")} - {"navila-core"}
    offered = {
        (entry.origin.dist, name)
        for entry in default_host().registry(kind).entries
        if entry.origin.dist in members
        for name in (entry.spec.name, *entry.spec.aliases, *getattr(entry.spec, "model_types", ()))
    }
    listed = {(e.dist, name) for e in CATALOGUE if e.kind == kind for name in (*e.names, *e.model_types)}
    assert offered <= listed
    patterns = [spec.pattern for spec in default_host().registry("projector").specs() if spec.pattern]
    assert not [name for _, name in listed - offered if not any(re.fullmatch(p, name) for p in patterns)]
