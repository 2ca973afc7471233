"""The plugin written out in the documentation works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from navila.cli import main

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "model.md"
LLM = '{"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}'


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside this package")
    source = re.search(r"```python\n(\"\"\"my_parts.py.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    assert len(source[1].splitlines()) <= 60
    path = tmp_path / "my_parts.py"
    path.write_text(source[1], encoding="utf-8")
    return path


def test_the_parts_of_the_documentation_build_load_and_answer(
    plugin: Path, goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = re.search(r"--encoder '(.*?)'", PAGE.read_text(encoding="utf-8"))
    assert command is not None
    out, words = str(tmp_path / "out"), str(goldens / "tokenizers" / "llama3_like")
    parts = ["--llm", LLM, "--encoder", command[1], "--projector", "gated", "--tokenizer", words]
    assert main(["model", "build", *parts, "--output", out, "--plugin", str(plugin)]) == 0
    assert "196" in capsys.readouterr().out
    frame = str(goldens / "H_full_model" / "frames" / "frame_00.png")
    ask = ["infer", "-m", out, "--image", frame, "--max-new-tokens", "2", "What is this?"]
    assert main([*ask, "--plugin", str(plugin)]) == 0
    capsys.readouterr()
    assert main(ask) == 2
    assert "patchy" in capsys.readouterr().err
    # That listing one's own file imports torch is no fault of it.
    assert main(["plugins", "check", str(plugin)]) == 0
    told = capsys.readouterr().out
    assert [line.split()[-1] for line in told.strip().splitlines()[1:]] == ["ok", "ok", "ok"]
