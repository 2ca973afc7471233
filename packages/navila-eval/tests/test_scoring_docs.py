"""The page about scoring names what there is, and its example runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "scoring.md"


@pytest.fixture(scope="module")
def page() -> str:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside this package")
    return PAGE.read_text(encoding="utf-8")


def test_its_example_runs(page: str) -> None:
    source = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert source is not None
    exec(compile(source[1], str(PAGE), "exec"), {})


def test_every_function_it_names_exists(page: str) -> None:
    modules = "boxes|captions|choices|documents|judges|mathvista|meteor|mmmu|needle|ptb|scanqa|text|vqa|wups|yes_no"
    named = set(re.findall(rf"`({modules})\.(\w+)", page))

    assert len(named) > 40
    for module, name in named:
        assert hasattr(importlib.import_module(f"navila_eval.scoring.{module}"), name), f"{module}.{name}"
