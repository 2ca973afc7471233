"""Every snippet of the quick start runs, with the checkpoint it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from navila.cli import main
from navila.model.golden import synthetic_images
from navila_demo.demo import shipped_checkpoint

#: Snippets by a part of their text: what the machine must have.
NEEDS_TWO_GPUS = "devices=[0, 1]"


@pytest.fixture(scope="module")
def page(workspace: Path) -> str:
    """The text of docs/quickstart.md."""
    return (workspace / "docs" / "quickstart.md").read_text(encoding="utf-8")


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the page speaks of."""
    pictures = synthetic_images(12, seed=0)
    pictures[0].save(tmp_path / "kitchen.jpg")
    with av.open(str(tmp_path / "walk.mp4"), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_its_python_runs(page: str, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(page, "python")
    assert [sum(word in block for block in found) for word in ("num_frames=8", NEEDS_TWO_GPUS, '"disk"', "int8")] == [
        1
    ] * 4
    names: dict[str, Any] = {}
    asked = 0
    for block in found:
        if NEEDS_TWO_GPUS in block and torch.cuda.device_count() < 2:
            continue
        exec(compile(block, "docs/quickstart.md", "exec"), names)
        asked += block.count("generate_content")
    answers = capsys.readouterr().out.strip().splitlines()
    assert answers[0] == str(shipped_checkpoint())
    assert len(answers) > asked >= 4
    assert all(answers)


def test_its_commands_run(page: str, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        python, flag, name, *words = shlex.split(line)
        assert (python, flag, name) == ("python", "-m", "navila")
        arguments = [str(shipped_checkpoint()) if word == "CHECKPOINT" else word for word in words]
        assert main(arguments) == 0, line
        assert capsys.readouterr().out.strip(), line
