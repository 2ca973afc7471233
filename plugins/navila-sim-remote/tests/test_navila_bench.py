"""A model served in the protocol of NaVILA-Bench, spoken byte by byte as its simulator does."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import navila
import pytest
from navila.navigator import Navigator
from navila_sim_remote.bench import ModelServer
from PIL import Image

INSTRUCTION = "Walk past the table and stop at the sofa."
#: NaVILA-Bench's side of it, as its own program: neither navila nor anything else is imported.
SIMULATOR = """
import base64, json, socket, struct, sys
address, *paths = sys.argv[1:]
host, port = address.split(":")
images = [base64.b64encode(open(path, "rb").read()).decode() for path in paths]
data = json.dumps({"images": images, "query": "Walk past the table and stop at the sofa."}).encode("utf-8")
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
    s.connect((host, int(port)))
    s.sendall(struct.pack(">Q", len(data)))
    s.sendall(data)
    size = struct.unpack(">Q", s.recv(8))[0]
    answer = b""
    while len(answer) < size:
        answer += s.recv(4096)
print(json.loads(answer.decode("utf-8")))
"""


@pytest.fixture(scope="module")
def checkpoint(goldens: Path) -> Path:
    return goldens / "H_full_model" / "llama_siglip" / "ckpt"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return navila.load(checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def server(model: Any) -> Iterator[ModelServer]:
    served = ModelServer(model, port=0, num_frames=4, max_new_tokens=8, batch_size=3)

    def decide() -> None:
        while True:
            served.decide()

    threading.Thread(target=decide, daemon=True).start()
    yield served
    served.close()


def pictures(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (40 * n, 255 - 30 * n, 7 * n)) for n in range(count)]


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def said(model: Any, frames: list[bytes]) -> str:
    """What the model answers, asked here."""
    navigator = Navigator(model, 4, max_new_tokens=8)
    navigator.reset(INSTRUCTION)
    images = [Image.open(io.BytesIO(frame)) for frame in frames]
    for image in images[:-1]:
        navigator.observe(image)
    return navigator.act(images[-1]).text


def ask(address: str, request: Any) -> Any:
    """Send a request, JSON or bytes as they are; None when the connection is closed without an answer."""
    host, port = address.split(":")
    content = request if isinstance(request, bytes) else frame(json.dumps(request).encode())
    with socket.create_connection((host, int(port)), timeout=600) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        header = connection.recv(8, socket.MSG_WAITALL)
        if not header:
            return None
        return json.loads(connection.recv(struct.unpack(">Q", header)[0], socket.MSG_WAITALL))


def frame(content: bytes) -> bytes:
    return struct.pack(">Q", len(content)) + content


def question(frames: list[bytes], **more: Any) -> dict[str, Any]:
    return {"images": [base64.b64encode(image).decode() for image in frames], "query": INSTRUCTION, **more}


def test_several_simulators_get_the_answers_of_the_navigator(model: Any, server: ModelServer) -> None:
    walks = [[jpeg(image) for image in pictures(4)], [jpeg(image) for image in reversed(pictures(4))]] * 2
    with ThreadPoolExecutor(len(walks)) as simulators:
        answers = list(simulators.map(lambda walk: ask(server.address, question(walk)), walks))
    assert answers == [said(model, walk) for walk in walks]
    # A history that is not of the model's length is sampled and padded as the navigator's own.
    long = [jpeg(image) for image in pictures(7)]
    assert ask(server.address, question(long[:2])) == said(model, long[:2])
    assert ask(server.address, question(long, version=1, id=5)) == {
        "version": 1, "id": 5, "text": said(model, long), "error": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (
            b"GET / HTTP/1.1\r\n\r\n",
            "A request begins with b'GET / HT', a length of 5135603447292250196 bytes, more than",
        ),
        (frame(b"\xff\xfe{"), "A request of 3 bytes is no JSON"),
        (frame(b"[" * 100_000), "A request of 100000 bytes is no JSON"),
        (frame(b"[1]"), "A request is a list, where an object with images and query belongs."),
        (struct.pack(">Q", 99) + b"{}", "A request broke off after 2 of 99 bytes."),
        ({"images": [], "query": "Go."}, "The request's images are a list of 0, where 1 to 512 of them belong."),
        ({"images": ["/9j/"], "query": "Go."}, "Image 1 of 1 of the request cannot be decoded"),
        ({"images": [3], "query": "Go."}, "Image 1 of 1 of the request cannot be decoded"),
        ({"images": ["/9j/"], "query": " "}, "The request's query is ' ', where an instruction belongs."),
        # Half of an emoji, which JSON can say and no tokenizer reads.
        (question([jpeg(pictures(1)[0])], query="Go \ud83d"), r"The instruction 'Go \ud83d' is no valid text"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence_and_a_closed_connection(
    server: ModelServer, request_: Any, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # What was sent and not read makes the close a reset, even before all is sent.
    with suppress(OSError):
        assert ask(server.address, request_) is None
    told = capfd.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert told.startswith("127.0.0.1:")
    assert ask(server.address, question([jpeg(pictures(1)[0])])) is not None
    if isinstance(request_, dict):
        answer = ask(server.address, {**request_, "version": 1, "id": "a"})
        assert (answer["id"], answer["text"]) == ("a", None)
        assert sentence in answer["error"]


@pytest.mark.slow  # a whole program that loads a model
def test_the_command_serves_its_simulator_until_sigterm(model: Any, checkpoint: Path, tmp_path: Path) -> None:
    frames = [jpeg(image) for image in pictures(4)]
    paths = [tmp_path / f"{number}.jpg" for number in range(4)]
    for path, content in zip(paths, frames, strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-m", "navila", "serve", "-m", str(checkpoint), "--port", "0", "--device", "cpu"]
    command += ["--num-frames", "4", "--max-new-tokens", "8"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    greeting = server.stdout.readline()
    address = greeting.partition(" answers NaVILA-Bench at ")[2].partition(";")[0]
    asked = subprocess.run(
        [sys.executable, "-I", "-c", SIMULATOR, address, *map(str, paths)], capture_output=True, text=True, check=False
    )
    server.send_signal(signal.SIGTERM)
    out, err = server.communicate(timeout=300)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.rstrip("\n") == said(model, frames)
    assert (server.returncode, out) == (0, "Closed.\n")
    assert "Traceback" not in err
