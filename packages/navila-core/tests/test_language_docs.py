"""The examples of the reference page run and show what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "conversation-and-actions.md"


def test_the_examples_of_the_reference_page_are_true() -> None:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside this package")
    failures, attempted = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert attempted > 10
    assert failures == 0
