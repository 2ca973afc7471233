"""What tests of `navila eval` share."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

import pytest
from navila.cli import main


@pytest.fixture(scope="session")
def navila_eval() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`navila eval` as a user types it, in this process: starting one costs seconds."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = ["eval", *map(str, arguments)]
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = main(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    return run
