"""Files appear whole or not at all."""

from pathlib import Path

import pytest
from navila.files import write_atomically


def test_text_and_bytes_replace_what_was_there(tmp_path: Path):
    path = tmp_path / "new" / "result.json"
    write_atomically(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    write_atomically(path, b"\x00\n")
    assert path.read_bytes() == b"\x00\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
