"""Questions and captions written by an endpoint: in form, counted, resumed, and trainable."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from navila.endpoint import Endpoint, EndpointError
from navila.errors import ConfigError, DataError
from navila_data.answering import AnswerLog, EndpointAnswerer
from navila_data.caption_qa import CaptionSettings, caption_to_qa, read_pairs, without_repeats
from navila_data.mixture import Mixture
from navila_data.video_captions import VideoCaptionSettings, caption_videos, videos_of
from PIL import Image

COUNT = 24
KEY = "sk-very-secret"


class Scribe:
    """A server that answers a prompt always the same, unless it is told to misbehave."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.images: list[int] = []
        self.answers = threading.Semaphore(sys.maxsize)
        """So many questions are answered; whoever asks more waits."""
        self.misbehave: dict[str, Any] = {}
        """By a word of the caption: a status, or a list of texts to answer with in turn."""
        self.url = ""

    def reply(self, content: Any) -> tuple[int, str]:
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        prompt = next(part["text"] for part in parts if part["type"] == "text")
        self.images.append(sum(part["type"] == "image_url" for part in parts))
        word = (re.search(r"number (\w+)", prompt) or [None, "none"])[1]
        self.asked[str(word)] += 1
        self.answers.acquire()
        trouble = self.misbehave.get(str(word))
        if isinstance(trouble, int):
            return trouble, "no"
        if trouble:
            return 200, trouble[min(self.asked[str(word)], len(trouble)) - 1]
        if "JSON" not in prompt:
            return 200, f"A picture of number {word}. It is told anew. It is told anew. It is"
        pairs = [{"question": f"Which number is it? ({k})", "answer": f"It is {word}. <image>"} for k in range(2)]
        return 200, f"Sure!\n```json\n{json.dumps(pairs)}\n```"


@contextmanager
def served() -> Iterator[Scribe]:
    scribe = Scribe()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, text = scribe.reply(body["messages"][0]["content"])
            content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        scribe.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield scribe
        server.shutdown()


@pytest.fixture
def scribe() -> Iterator[Scribe]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    records = []
    for number in range(COUNT):
        image = folder / "images" / str(number % 3) / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(image)
        question = {"from": "human", "value": "<image>\nWhat is there?"}
        caption = {"from": "gpt", "value": f"This is number {number}, größer."}
        records.append({"image": str(image.relative_to(folder)), "conversations": [question, caption]})
    (folder / "annotations.json").write_text(json.dumps(records))
    return folder


def run(scribe: Scribe, data: str, output: Path, **changes: Any) -> dict[str, Any]:
    endpoint = Endpoint(url=scribe.url, model="scribe", key=KEY, attempts=2, pause=0.01)
    return caption_to_qa(
        Mixture.open(data),
        data,
        output,
        EndpointAnswerer(endpoint, parallel=4),
        CaptionSettings(**changes),
        sampling={"temperature": 0.0},
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_captions_become_questions_that_train(scribe: Scribe, captions: Path, tmp_path: Path):
    told = []
    endpoint = Endpoint(url=scribe.url, model="scribe", key=KEY)
    manifest = caption_to_qa(
        Mixture.open(f"llava:{captions}"),
        "captions",
        tmp_path / "qa",
        EndpointAnswerer(endpoint, parallel=4),
        CaptionSettings(),
        sampling={},
        progress=lambda done, total: told.append((done, total)),
    )
    assert (manifest["records"], manifest["failed"], manifest["format"]) == (COUNT, [], "llava")
    assert told[-1] == (COUNT, COUNT)
    mixture = Mixture.open(str(tmp_path / "qa") + "/")
    for number in range(COUNT):
        sample = mixture[number]
        (medium,) = sample.media
        assert isinstance(medium, Path)
        assert medium.resolve() == (captions / "images" / str(number % 3) / f"{number}.png").resolve()
        assert sample.turns[0].text == "<image>\nWhich number is it? (0)"
        assert sample.turns[3].text == f"It is {number}. < image>", "what a model writes shows no image"
    assert sorted(path.name for path in (tmp_path / "qa").iterdir()) == ["annotations.json", "dataset.json", "media"]
    assert not any(KEY.encode() in content for content in bytes_of(tmp_path / "qa").values())


def test_captions_are_told_in_other_words(scribe: Scribe, captions: Path, tmp_path: Path):
    run(scribe, f"llava:{captions}[3:5]", tmp_path / "new", task="rephrase")
    records = json.loads((tmp_path / "new" / "annotations.json").read_text())
    assert records[0]["conversations"] == [
        {"from": "human", "value": "<image>\nWhat is there?"},
        {"from": "gpt", "value": "A picture of number 3. It is told anew."},
    ]


def test_a_killed_run_resumes_to_the_same_bytes_and_asks_nothing_twice(scribe: Scribe, captions: Path, tmp_path: Path):
    scribe.answers = threading.Semaphore(5)
    command = [sys.executable, "-m", "navila", "data", "augment", "caption2qa", f"llava:{captions}", "--parallel", "2"]
    command += ["--api-base", scribe.url, "--api-model", "scribe"]
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    folder = tmp_path / "killed"
    log = folder / "answers.jsonl"
    process = subprocess.Popen(
        [*command, "--output", str(folder)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 240
    # Five answers are kept, and two questions wait for theirs.
    while not (len(scribe.images) == 7 and log.read_bytes().count(b"\n") == 5):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "dataset.json").exists()
    with log.open("ab") as file:
        file.write(b'{"key": "half a')
    scribe.answers.release(2 * COUNT)
    done = subprocess.run(
        [*command, "--output", str(folder)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert f"{COUNT} records" in done.stdout
    assert len(scribe.images) == 7 + COUNT - 5
    whole = subprocess.run(
        [*command, "--output", str(tmp_path / "whole")], capture_output=True, check=False, env=environment
    )
    assert whole.returncode == 0
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")
    assert KEY not in done.stdout + done.stderr


def test_an_answer_of_the_wrong_form_is_asked_for_again(scribe: Scribe, captions: Path, tmp_path: Path):
    good = '[{"question": "Which?", "answer": "It is."}]'
    scribe.misbehave = {"1": ["I cannot.", good], "2": ['[{"question": 7}]', "[", good]}
    run(scribe, f"llava:{captions}[:3]", tmp_path / "qa")
    assert scribe.asked == {"0": 1, "1": 2, "2": 3}


def test_failures_are_counted_and_bounded(scribe: Scribe, captions: Path, tmp_path: Path):
    scribe.misbehave = {"1": ["never JSON"], "4": 400, "5": 500}
    with pytest.raises(DataError, match="3 of 24 have no answer"):
        run(scribe, f"llava:{captions}", tmp_path / "qa")
    assert not (tmp_path / "qa" / "dataset.json").exists()
    before = scribe.asked.total()
    scribe.misbehave = {"1": ["never JSON"]}
    manifest = run(scribe, f"llava:{captions}", tmp_path / "qa")
    assert scribe.asked.total() - before == 3 + 1 + 1, "only what failed is asked for again"
    assert manifest["records"] == COUNT - 1
    assert [entry["record"] for entry in manifest["failed"]] == ["llava record 1"]
    assert "no JSON list" in manifest["failed"][0]["why"]
    assert len(json.loads((tmp_path / "qa" / "annotations.json").read_text())) == COUNT - 1


def test_an_endpoint_that_is_down_stops_the_run_and_keeps_what_was_answered(
    scribe: Scribe, captions: Path, tmp_path: Path
):
    scribe.misbehave = {str(number): 503 for number in range(6, COUNT)}
    with pytest.raises(EndpointError, match=r"question 10 in a row .* run the same command again"):
        run(scribe, f"llava:{captions}", tmp_path / "qa")
    scribe.misbehave = {}
    before = scribe.asked.total()
    assert run(scribe, f"llava:{captions}", tmp_path / "qa")["records"] == COUNT
    assert scribe.asked.total() - before == COUNT - 6


def test_an_endpoint_that_never_answers_is_given_up_soon(scribe: Scribe, captions: Path, tmp_path: Path):
    scribe.misbehave = {str(number): 503 for number in range(COUNT)}
    with pytest.raises(EndpointError, match="question 4 in a row"):
        run(scribe, f"llava:{captions}", tmp_path / "qa")
    assert scribe.asked.total() < COUNT


def test_an_endpoint_that_is_not_there_is_told_after_few_attempts(captions: Path, tmp_path: Path):
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="scribe", attempts=6, pause=0.01)
    with pytest.raises(EndpointError, match="failed 3 times"):
        caption_to_qa(
            Mixture.open(f"llava:{captions}"),
            f"llava:{captions}",
            tmp_path / "qa",
            EndpointAnswerer(endpoint, parallel=4),
            CaptionSettings(),
            sampling={},
        )


def test_navigation_steps_have_no_captions(scribe: Scribe, tmp_path: Path):
    (tmp_path / "walk" / "train").mkdir(parents=True)
    record = {"video_id": "1", "frames": ["a.jpg"], "q": "Go.", "a": "The next action is stop."}
    (tmp_path / "walk" / "annotations.json").write_text(json.dumps([record]))
    command = [sys.executable, "-m", "navila", "data", "augment", "caption2qa", f"vln:{tmp_path / 'walk'}"]
    command += ["--api-base", scribe.url, "--api-model", "scribe", "--output", str(tmp_path / "qa")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is a navigation step" in done.stderr
    assert scribe.asked.total() == 0


def test_a_wrong_key_stops_at_once(scribe: Scribe, captions: Path, tmp_path: Path):
    scribe.misbehave = {str(number): 401 for number in range(COUNT)}
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        run(scribe, f"llava:{captions}", tmp_path / "qa")
    assert scribe.asked.total() <= 8


def test_records_without_a_caption_are_counted(scribe: Scribe, captions: Path, tmp_path: Path):
    broken = json.loads((captions / "annotations.json").read_text())
    broken[2] = {"image": "../../x.png", "conversations": broken[2]["conversations"]}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(broken))
    manifest = run(scribe, f"llava:{tmp_path / 'data'}", tmp_path / "qa")
    assert manifest["records"] == COUNT - 1
    assert "leaves the data folder" in manifest["failed"][0]["why"]


def test_another_job_is_not_overwritten(scribe: Scribe, captions: Path, tmp_path: Path):
    run(scribe, f"llava:{captions}[:2]", tmp_path / "qa")
    asked = scribe.asked.total()
    run(scribe, f"llava:{captions}[:2]", tmp_path / "qa")
    assert scribe.asked.total() == asked, "a complete one is left alone"
    with pytest.raises(ConfigError, match="augmentation with questions 4, not 3"):
        run(scribe, f"llava:{captions}[:2]", tmp_path / "qa", questions=3)


def test_a_damaged_log_is_told_by_its_line(tmp_path: Path):
    (tmp_path / "answers.jsonl").write_bytes(b'{"key": "1", "answer": 1}\nrubbish\n{"key": "2", "answer": 2}\n')
    with pytest.raises(DataError, match=r"answers.jsonl, line 2"):
        AnswerLog(tmp_path / "answers.jsonl")


def test_what_repeats_itself_is_cut():
    assert without_repeats("A red sofa. It stands there. A red sofa. It") == "A red sofa. It stands there."
    assert without_repeats("It is 3.5 m wide. Yes. Yes. So") == "It is 3.5 m wide. Yes. Yes. So"
    assert without_repeats("  no end ") == "no end"


@pytest.mark.parametrize(
    "text", ["", "none", "[", "[]", "[1]", '[{"question": "a"}]', '[{"question": "", "answer": "b"}]']
)
def test_what_is_no_list_of_questions_is_told(text: str):
    with pytest.raises(ValueError, match=r"^(its|it|an entry) "):
        read_pairs(text, 3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, and a folder of twelve frames."""
    import av
    import numpy as np

    folder = tmp_path_factory.mktemp("clips")
    for name in ("b", "a"):
        (folder / "videos").mkdir(exist_ok=True)
        with av.open(str(folder / "videos" / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width = stream.height = 32
            for i in range(10):
                picture = np.full((32, 32, 3), 20 * i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    (folder / "frames" / "1").mkdir(parents=True)
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(folder / "frames" / "1" / f"frame_{i}.jpg")
    return folder


def describe(scribe: Scribe, data: str, output: Path) -> dict[str, Any]:
    answerer = EndpointAnswerer(Endpoint(url=scribe.url, model="scribe"), parallel=2)
    settings = VideoCaptionSettings(prompt="Describe it.", num_frames=4)
    return caption_videos(videos_of(data, None), data, output, answerer, settings, sampling={})


def test_videos_are_described(scribe: Scribe, clips: Path, tmp_path: Path):
    manifest = describe(scribe, str(clips / "videos"), tmp_path / "told")
    assert (manifest["format"], manifest["records"]) == ("video", 2)
    assert scribe.images == [4, 4]
    mixture = Mixture.open(str(tmp_path / "told") + "/")
    assert mixture[0].turns[-1].text == "A picture of number none. It is told anew."
    again = describe(scribe, f"video:{tmp_path / 'told'}", tmp_path / "again")
    assert again["records"] == 2, "videos of a mixture"


def test_folders_of_frames_are_described_in_the_order_of_their_numbers(scribe: Scribe, clips: Path, tmp_path: Path):
    manifest = describe(scribe, str(clips / "frames"), tmp_path / "told")
    assert manifest["format"] == "llava"
    (record,) = json.loads((tmp_path / "told" / "annotations.json").read_text())
    assert [Path(name).stem for name in record["image"]] == ["frame_0", "frame_4", "frame_7", "frame_11"]
    assert len(Mixture.open(str(tmp_path / "told") + "/")[0].media) == 4


def test_videos_and_frames_together_are_told(scribe: Scribe, clips: Path, tmp_path: Path):
    with pytest.raises(DataError, match="one after the other"):
        describe(scribe, str(clips), tmp_path / "told")
    with pytest.raises(DataError, match="holds no video"):
        videos_of(str(tmp_path), None)


# Loads torch and a model in a process of its own.
@pytest.mark.slow
def test_a_model_of_ones_own_describes(clips: Path, tmp_path: Path):
    checkpoint = str(files("navila_demo") / "checkpoint")
    command = [sys.executable, "-m", "navila", "data", "augment", "video-caption", str(clips / "videos")]
    command += [
        "--model",
        checkpoint,
        "--output",
        str(tmp_path / "told"),
        "--num-frames",
        "2",
        "--max-tokens",
        "5",
        "--prompt",
        "What?",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 records" in done.stdout
    assert len(Mixture.open(str(tmp_path / "told") + "/")) == 2


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ([], "Say who answers"),
        (["--api-base", "http://localhost:1/v1"], "go together"),
        (["--api-base", "localhost", "--api-model", "x"], "no http URL"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(captions: Path, tmp_path: Path, flags: list[str], match: str):
    command = [sys.executable, "-m", "navila", "data", "augment", "caption2qa", f"llava:{captions}"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "x"), *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert match in errors[0]
    assert not (tmp_path / "x").exists()
