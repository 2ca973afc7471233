"""`navila chat` and `navila infer` from a terminal, a pipe and a file of questions."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import navila
import pytest
from navila.cli import main
from navila.cli.repl import completions
from navila.model.chat import Chat
from PIL import Image

#: Seconds after which a session that says nothing has failed; no test waits for it.
PATIENCE = 600.0


@pytest.fixture(scope="module")
def checkpoint(goldens: Path) -> Path:
    return goldens / "H_full_model" / "llama_siglip" / "ckpt"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return navila.load(checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def frames(goldens: Path) -> Path:
    return goldens / "H_full_model" / "frames"


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.screen, side = pty.openpty()
        command = [sys.executable, "-m", "navila", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=side,
            stdout=side,
            stderr=side,
            cwd=cwd,
            start_new_session=True,
            env=self._environment(),
        )
        os.close(side)
        self.text = ""

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "TERM": "dumb", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def until(self, wanted: str) -> str:
        """What the process writes up to and with `wanted`."""
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.text:
            ready = select.select([self.screen], [], [], max(deadline - time.monotonic(), 0))[0]
            assert ready, f"never saw {wanted!r} in {self.text!r}"
            try:
                news = os.read(self.screen, 65536)
            except OSError:
                news = b""
            assert news, f"ended without {wanted!r} in {self.text!r}"
            self.text += news.decode(errors="replace")
        seen, _, self.text = self.text.partition(wanted)
        return seen + wanted

    def write(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def until_it_waits(self) -> None:
        """The process sleeps until the next key, or signal, comes."""
        deadline = time.monotonic() + PATIENCE
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> int:
        """Wait for the process, and close its terminal."""
        try:
            while True:
                try:
                    if not os.read(self.screen, 65536):
                        break
                except OSError:
                    break
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            os.close(self.screen)


@pytest.mark.slow  # A process that imports torch and loads a model.
def test_a_session_on_a_terminal(model: Any, checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    Image.open(frames / "frame_03.png").save(tmp_path / "room.png")
    (tmp_path / "text.png").write_text("no image")
    terminal = Terminal("chat", "-m", str(checkpoint), "--device", "cpu", "--max-new-tokens", "6", cwd=tmp_path)
    assert "Loading" in terminal.until("/help tells the commands")
    terminal.until("> ")
    terminal.write("/help\n")
    assert "Ctrl-C stops an answer" in terminal.until("/quit")

    # Tab completes the path.
    terminal.write("/image roo\t\n")
    terminal.until("The next question shows room.png.")
    terminal.write("What is this?\n")
    chat = Chat(model, max_new_tokens=6)
    first = chat.ask([Image.open(tmp_path / "room.png"), "What is this?"])
    assert "Encoded 0 of 1 frames" in terminal.until(first)

    # Mistakes are sentences, and the session goes on.
    for wrong, sentence in (
        ("/image none.png", "Error: The image none.png does not exist"),
        ("/image text.png", "Error: text.png is no image"),
        ("/video none.mp4", "Error: The video none.mp4 does not exist"),
        ("/image", "Error: The file is missing"),
        ("/imag x", "Error: There is no command /imag"),
        ("/settings max_new_token=3", "did you mean max_new_tokens"),
        ("/settings seed", "Error: seed is no setting"),
        ("/settings temperature=hot", "Error: temperature is 'hot': give a number."),
        ("/settings fps=-1", "Error: fps must be a number"),
        ("/settings num_video_frames=0", "Error: num_video_frames must be a whole number"),
        ("/save text.png/talk.json", "Error: text.png cannot be used"),
    ):
        terminal.until("> ")
        terminal.write(f"{wrong}\n")
        terminal.until(sentence)
    terminal.until("> ")
    terminal.write("And there?\n")
    terminal.until(chat.ask("And there?"))

    # Ctrl-C ends the answer, not the session.
    terminal.write("/settings max_new_tokens=2000 min_new_tokens=2000\n")
    terminal.until("max_new_tokens = 2000")
    terminal.until("> ")
    chat.change(max_new_tokens=2000, min_new_tokens=2000)
    story = chat.stream("Tell me a story.")
    begin = next(story) + next(story) + next(story)
    story.close()
    terminal.write("Tell me a story.\n")
    terminal.until(begin)
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.until("Stopped.")
    terminal.until("> ")
    terminal.write("half a question")
    terminal.until("half a question")
    # While readline still deals with the last key, it notes Ctrl-C only at the next one.
    terminal.until_it_waits()
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.until("Ctrl-D or /quit leaves.")
    terminal.until("> ")

    terminal.write("/save talk.json\n")
    terminal.until("Written to talk.json.")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"][0] == {"role": "user", "content": "What is this?", "media": ["room.png"]}
    assert saved["messages"][1] == {"role": "assistant", "content": first}
    assert saved["settings"]["max_new_tokens"] == 2000
    terminal.write("/save talk.json\n")
    terminal.until("Error: talk.json is there already")

    terminal.write("/settings max_new_tokens=6 min_new_tokens=0\n/reset\n")
    terminal.until("Forgotten.")
    terminal.until("> ")
    terminal.write("And there?\n")
    terminal.until(model.generate_content("And there?", max_new_tokens=6))
    terminal.until("> ")
    terminal.write("\x04")
    assert terminal.end() == 0


@pytest.mark.slow  # A process that imports torch and loads a model.
def test_infer_without_a_question_opens_the_session_on_a_terminal(
    checkpoint: Path, frames: Path, tmp_path: Path
) -> None:
    arguments = ("infer", "-m", str(checkpoint), "--device", "cpu", "--max-new-tokens", "3")
    terminal = Terminal(*arguments, "--image", str(frames / "frame_01.png"), cwd=tmp_path)
    terminal.until("/help tells the commands")
    terminal.until("> ")
    terminal.write("What is this?\n")
    terminal.until("Encoded 0 of 1 frames")
    terminal.until("> ")
    terminal.write("/quit\n")
    assert terminal.end() == 0


def test_tab_completes_commands_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / "a folder" / "b.mp4").touch()
    monkeypatch.chdir(tmp_path)
    commands = ("/image", "/video", "/settings")
    assert completions("/", commands) == ["/image ", "/quit ", "/settings ", "/video "]
    assert completions("/image a", commands) == ["/image a folder/", "/image a.png"]
    assert completions("/video a folder/", commands) == ["/video a folder/b.mp4"]
    assert completions(f"/image {tmp_path}/a.", commands) == [f"/image {tmp_path}/a.png"]
    assert completions("/image none/x", commands) == completions("/settings x", commands) == []
    assert completions("What", commands) == completions("", commands) == []


def test_a_question_comes_from_standard_input_and_goes_out_in_pieces_or_whole(
    model: Any, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "question.txt").write_text("Where is the\nsofa?\n")
    answer = model.generate_content("Where is the\nsofa?", max_new_tokens=8)
    command = ["infer", "-m", str(checkpoint), "--device", "cpu", "--max-new-tokens", "8"]
    for stream in ("--stream", "--no-stream"):
        with monkeypatch.context() as patch, (tmp_path / "question.txt").open(encoding="utf-8") as stdin:
            patch.setattr(sys, "stdin", stdin)
            assert main([*command, stream, "-"]) == 0
        assert capsys.readouterr().out == f"{answer}\n"
    with Path(os.devnull).open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        for arguments, sentence in (
            ([], "The question is missing"),
            (["-"], "Standard input holds no question"),
            (["--top-p", "0.5", "Hi"], "is of sampling alone"),
            (["--batch", "a.jsonl"], "--batch and --output go together"),
            (["--batch", "a.jsonl", "--output", "b.jsonl", "Hi"], "brings its own questions"),
            (["--batch", "/none.jsonl", "--output", "b.jsonl"], "/none.jsonl does not exist"),
        ):
            assert main([*command, *arguments]) == 2
            assert sentence in capsys.readouterr().err


def test_a_file_of_questions_is_answered_and_taken_up_again(
    model: Any, checkpoint: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open(frames / "frame_03.png").save(tmp_path / "room.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "walk").symlink_to(frames)
    questions: list[Any] = [
        {"question": "Where is the sofa?", "images": ["room.png"], "id": 7},
        {"question": "Go.", "images": ["text.png"]},
        {"question": "And the walk?", "videos": ["walk"], "images": ["room.png"]},
        {"quetsion": "Go."},
        {"question": "Go.", "image": "room.png"},
        {"question": "Go.", "images": "room.png"},
        {"question": "word " * 5000},
        {"question": "Go."},
    ]
    lines = [json.dumps(question) for question in questions]
    (tmp_path / "q.jsonl").write_text("\n".join([*lines[:1], "", *lines[1:], "{"]))
    output = tmp_path / "deep" / "a.jsonl"
    command = ["infer", "-m", str(checkpoint), "--device", "cpu", "--max-new-tokens", "8", "--num-frames", "4"]
    command += ["--batch", str(tmp_path / "q.jsonl"), "--output", str(output)]
    assert main([*command, "--batch-size", "3"]) == 2
    said = capsys.readouterr().err
    for line, sentence in (
        (3, "no image"),
        (5, 'no text "question"'),
        (6, "a field 'image'"),
        (7, 'its "images" are no list'),
        (8, "The prompt takes"),
        (10, "no JSON"),
    ):
        assert any(f"line {line}: " in row and sentence in row for row in said.splitlines()), said
    assert "Error: 6 of 9 questions" in said
    room = Image.open(tmp_path / "room.png")
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    options = {"max_new_tokens": 8, "num_video_frames": 4}
    assert [(a["line"], a.get("id"), a["question"], a["answer"]) for a in answers] == [
        (1, 7, "Where is the sofa?", model.generate_content([room, "Where is the sofa?"], **options)),
        (4, None, "And the walk?", model.generate_content([room, tmp_path / "walk", "And the walk?"], **options)),
        (9, None, "Go.", model.generate_content("Go.", **options)),
    ]

    # A run that was killed while it wrote: what is whole stays, the rest is done again, the mended ones too.
    whole = output.read_text()
    mended = {3: questions[7], 5: questions[7], 6: questions[7], 7: questions[7], 8: questions[7], 10: questions[7]}
    rows = (tmp_path / "q.jsonl").read_text().splitlines()
    for line, question in mended.items():
        rows[line - 1] = json.dumps(question)
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    output.write_text(whole[:-30])
    assert main(command) == 0
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert again[:2] == answers[:2]
    assert sorted(a["line"] for a in again) == [1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert len({a["answer"] for a in again if a["question"] == "Go."}) == 1
    assert main(command) == 0
    assert "has all 9 answers" in capsys.readouterr().err

    before = output.read_text()
    assert main([*command, "--temperature", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert output.read_text() == before
