"""A model behind the TCP protocol of NaVILA-Bench, whose Isaac simulator asks it for actions.

A request is 8 bytes of big-endian length and UTF-8 JSON `{"images": [base64 JPEG, …], "query": instruction}`, frames in
time order, the current one last; its answer is a length and a JSON string, what the model said. A connection carries
one request or many. The protocol knows no errors: what cannot be answered is told on the server's stderr, and the
connection closed, which the simulator reports. A request with `"version": 1` and an `id` is answered by an object
`{version, id, text, error}`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import queue
import socket
import struct
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from navila.actions import Decoding
from navila.errors import DataError, reason
from navila.images import read_image
from navila.navigator import Navigator, act_batch

from navila_sim_remote.server import read_bytes, tuned

if TYPE_CHECKING:
    from navila.model import NavilaForCausalLM
    from PIL import Image

#: Longest request that is taken, in bytes.
LIMIT = 64 * 1024 * 1024
#: Most images of a request.
MOST_IMAGES = 512
#: Seconds within which a request that has begun has to be there, and an answer to be taken.
PATIENCE = 60.0
_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request that waits for its answer."""

    instruction: str
    images: tuple[Image.Image, ...]
    """Frames in time order, the current one last."""
    answer: Future[str]


class ModelServer:
    """Reads requests in a thread a connection; `decide` answers those that wait, all at once."""

    def __init__(
        self,
        model: NavilaForCausalLM,
        host: str = "127.0.0.1",
        port: int = 54321,
        *,
        num_frames: int | None = None,
        max_new_tokens: int = 512,
        decoding: Decoding = "free",
        batch_size: int = 8,
    ) -> None:
        """Listen at once.

        Raises:
            ConfigError: the model, or an option of it, cannot navigate.
            OSError: the port cannot be had.
        """
        self._navigators = [
            Navigator(model, num_frames, max_new_tokens=max_new_tokens, decoding=decoding) for _ in range(batch_size)
        ]
        self._waiting: queue.Queue[Question] = queue.Queue()
        self._closed = False
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=128)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def address(self) -> str:
        """host:port, with the port that was found when 0 was asked for."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Take no more connections."""
        self._closed = True
        with contextlib.suppress(OSError):
            # Wakes up whoever waits in accept.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        # A thread that wakes up while the interpreter ends can take the process down.
        self._accepting.join(5)

    def decide(self) -> None:
        """Wait for questions and answer those that are there, at most a batch of them."""
        questions = [self._waiting.get()]
        with contextlib.suppress(queue.Empty):
            while len(questions) < len(self._navigators):
                questions.append(self._waiting.get_nowait())
        ready: list[tuple[Navigator, Question]] = []
        for navigator, question in zip(self._navigators, questions, strict=False):
            try:
                navigator.reset(question.instruction)
                for image in question.images[:-1]:
                    navigator.observe(image)
            except Exception as error:
                # Whoever asked is told, and the others are answered.
                question.answer.set_exception(error)
                continue
            ready.append((navigator, question))
        try:
            actions = act_batch([navigator for navigator, _ in ready], [question.images[-1] for _, question in ready])
        except Exception as error:
            # Out of memory, say: whoever asked is told, and the next question may fit.
            for _, question in ready:
                question.answer.set_exception(error)
            return
        for (_, question), action in zip(ready, actions, strict=True):
            question.answer.set_result(action.text)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, peer = self._socket.accept()
            except OSError as error:
                if not self._closed:
                    # Too many open files, say; the clients that are there may leave.
                    click.echo(f"A client cannot be accepted ({error}).", err=True)
                    time.sleep(1)
                continue
            threading.Thread(target=self._serve, args=(client, f"{peer[0]}:{peer[1]}"), daemon=True).start()

    def _serve(self, client: socket.socket, peer: str) -> None:
        with client:
            try:
                tuned(client)
                while (content := _receive(client)) is not None:
                    _send(client, self._answer(content))
            except DataError as error:
                click.echo(f"{peer}: {error} Its connection is closed.", err=True)
            except OSError as error:
                click.echo(f"{peer}: the connection broke ({error.strerror or reason(error)}).", err=True)

    def _answer(self, content: bytes) -> Any:
        """What goes back: a text, or an object where the request tells its version.

        Raises:
            DataError: the request tells no version, and cannot be answered.
        """
        request = _parse(content)
        versioned = "version" in request
        try:
            if versioned and request["version"] != 1:
                raise DataError(f"The request is of version {request['version']!r}, and this server speaks version 1.")
            question = _question(request)
            self._waiting.put(question)
            text = question.answer.result()
        except Exception as error:
            if versioned:
                return {"version": 1, "id": request.get("id"), "text": None, "error": reason(error)}
            raise (
                error if isinstance(error, DataError) else DataError(f"The model failed ({reason(error)}).")
            ) from error
        return {"version": 1, "id": request.get("id"), "text": text, "error": None} if versioned else text


def _receive(client: socket.socket) -> bytes | None:
    """The next request; None when the client has closed.

    Raises:
        DataError: it is too long, or breaks off.
        OSError: the connection broke, or took too long.
    """
    first = read_bytes(client, 1, None)
    deadline = time.monotonic() + PATIENCE
    header = first + read_bytes(client, _LENGTH.size - 1, deadline) if first else b""
    if not header:
        return None
    if len(header) < _LENGTH.size:
        raise DataError(f"The client sent {header!r} and no more.")
    (length,) = _LENGTH.unpack(header)
    if length > LIMIT:
        raise DataError(
            f"A request begins with {header!r}, a length of {length} bytes, more than the limit of {LIMIT}."
        )
    content = read_bytes(client, length, deadline)
    if len(content) < length:
        raise DataError(f"A request broke off after {len(content)} of {length} bytes.")
    return content


def _send(client: socket.socket, answer: Any) -> None:
    content = json.dumps(answer).encode()
    client.settimeout(PATIENCE)
    client.sendall(_LENGTH.pack(len(content)) + content)


def _parse(content: bytes) -> dict[str, Any]:
    try:
        request = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"A request of {len(content)} bytes is no JSON ({error}): {content[:40]!r}.") from None
    if not isinstance(request, dict):
        raise DataError(f"A request is a {type(request).__name__}, where an object with images and query belongs.")
    return request


def _question(request: dict[str, Any]) -> Question:
    instruction, images = request.get("query"), request.get("images")
    if not isinstance(instruction, str) or not instruction.strip():
        raise DataError(f"The request's query is {instruction!r:.60}, where an instruction belongs.")
    if not isinstance(images, list) or not 0 < len(images) <= MOST_IMAGES:
        what = f"a list of {len(images)}" if isinstance(images, list) else type(images).__name__
        raise DataError(f"The request's images are {what}, where 1 to {MOST_IMAGES} of them belong.")
    frames = tuple(_image(image, f"{number} of {len(images)}") for number, image in enumerate(images, 1))
    return Question(instruction=instruction, images=frames, answer=Future())


def _image(encoded: Any, number: str) -> Image.Image:
    try:
        return read_image(io.BytesIO(base64.b64decode(encoded, validate=True)))
    except (ValueError, TypeError, DataError):
        # A black image in its place, as the original server has it, would let the robot walk on blindly.
        raise DataError(f"Image {number} of the request cannot be decoded, where a JPEG in base64 belongs.") from None
