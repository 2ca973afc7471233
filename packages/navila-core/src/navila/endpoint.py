"""Questions to an OpenAI-compatible server (`POST <url>/chat/completions`): vLLM, llama.cpp, Ollama, hosted models."""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from navila.errors import ConfigError, NavilaError, reason

if TYPE_CHECKING:
    from email.message import Message
    from urllib.request import OpenerDirector

#: Where the key is read from; it is sent to the endpoint alone and written nowhere.
KEY_VARIABLE = "OPENAI_API_KEY"
#: Longest pause between two attempts, seconds, whatever the server asks for.
LONGEST_PAUSE = 60.0
#: Bytes of an answer beyond which something is wrong.
MOST_BYTES = 16 << 20
#: Refusals that no repetition mends and that concern every question: wrong key, no such model, wrong path.
_FINAL = (401, 403, 404, 405)
#: Refusals that pass: time-outs and conflicts, and every error of the server's own (5xx).
_PASSING = (408, 409, 425, 429)
#: Settings that reasoning models refuse, and what they are called there; "" where there is nothing of the kind.
_INSTEAD = {"max_tokens": "max_completion_tokens", "temperature": "", "top_p": ""}

_log = logging.getLogger(__name__)


class EndpointError(NavilaError):
    """The endpoint refuses whatever is asked: asking anything else is of no use."""


class NoAnswerError(NavilaError):
    """One question was refused, or all attempts to ask it failed."""


class UnreachableError(NoAnswerError):
    """All attempts to ask a question failed: the endpoint may be down, or the question take too long."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model behind a URL; may be asked from several threads at once."""

    url: str
    """What comes before `/chat/completions`, e.g. `http://localhost:8000/v1`."""
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    """Seconds without a byte after which an attempt is given up."""
    attempts: int = 6
    """How often a question is sent before it counts as unanswered."""
    pause: float = 1.0
    """Seconds before the second attempt; twice as many before each further one."""
    _refused: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"The endpoint {self.url!r} is no http URL: give one like http://localhost:8000/v1.")
        if not self.model:
            raise ConfigError("The endpoint needs the name of a model: give the one it serves.")

    @classmethod
    def from_environment(cls, url: str, model: str, **settings: Any) -> Endpoint:
        """An endpoint with the key of `OPENAI_API_KEY`, if that is set; local servers want none."""
        return cls(url=url, model=model, key=os.environ.get(KEY_VARIABLE) or None, **settings)

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        wait: Callable[[float], object] = time.sleep,
        may_be_empty: bool = False,
        **settings: Any,
    ) -> str:
        """The answer to a conversation in OpenAI's form.

        What passes (no connection, time-outs, 429, 5xx, an answer that is none) is tried again, after growing pauses
        or as long as the server asks for.

        Args:
            messages: `{"role": …, "content": …}`, the content a text or a list of parts (`text_part`, `image_part`).
            wait: what pauses between two attempts.
            may_be_empty: an empty answer is one, as of a model that is scored; else it is asked for again.
            **settings: `temperature`, `max_tokens`, `seed` and whatever else the server takes. Where it says that a
                model knows no `max_tokens`, `temperature` or `top_p`, as of OpenAI's reasoning models, it is asked
                with `max_completion_tokens` or without, which is logged.

        Raises:
            NoAnswerError: the question is refused (4xx).
            UnreachableError: all attempts failed.
            EndpointError: every question would be refused: wrong URL, model or key.
        """
        problem, asked_for = "", 0.0
        for attempt in range(self.attempts):
            if attempt:
                # Threads that failed together do not come back together.
                growing = self.pause * 2 ** (attempt - 1) * random.uniform(1.0, 1.25)
                wait(min(LONGEST_PAUSE, max(asked_for, growing)))
            try:
                status, headers, answer = self._send(messages, settings)
            except OSError as error:
                problem, asked_for = f"no answer ({reason(error, 100)})", 0.0
                continue
            if status == 200:
                text = _text(answer)
                if text or (text == "" and may_be_empty):
                    return text
                problem = "an empty answer" if text == "" else f"no chat completion ({self._quoted(answer)})"
                continue
            problem, asked_for = f"the status {status} ({self._quoted(answer)})", _seconds(headers.get("Retry-After"))
            if status in _PASSING or status >= 500:
                continue
            if status in _FINAL or status < 400:
                where = f" with a redirection to {headers['Location']}" if headers.get("Location") else ""
                raise EndpointError(
                    f"The endpoint {self.url} cannot be used with the model {self.model!r}: it gives {problem}{where}; "
                    f"check the URL, the model and {KEY_VARIABLE}."
                )
            raise NoAnswerError(f"The endpoint {self.url} refuses a question: it gives {problem}.")
        raise UnreachableError(f"The endpoint {self.url} failed {self.attempts} times: it gives {problem}.")

    def _send(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> tuple[int, Message, bytes]:
        """What comes of one attempt, with the settings that the model takes."""
        while True:
            names = {name: _INSTEAD[name] if name in self._refused else name for name in settings}
            taken = {name: settings[given] for given, name in names.items() if name}
            body = {"model": self.model, "messages": list(messages), **taken}
            status, headers, answer = self._post(json.dumps(body).encode())
            name = _unsupported(answer) if status == 400 else ""
            if name not in _INSTEAD or name not in taken:
                return status, headers, answer
            if name not in self._refused:
                how = f"with {_INSTEAD[name]}" if _INSTEAD[name] else "without"
                _log.warning("%s takes no %s: it is asked %s.", self.model, name, how)
            self._refused.add(name)

    def _post(self, body: bytes) -> tuple[int, Message, bytes]:
        """Status, headers and content of one attempt; everything that goes wrong on the way is an OSError."""
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request

        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "navila"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = Request(f"{self.url.rstrip('/')}/chat/completions", data=body, headers=headers, method="POST")
        try:
            with _opener().open(request, timeout=self.timeout) as response:
                return response.status, response.headers, response.read(MOST_BYTES)
        except HTTPError as error:
            with error:
                return error.code, error.headers, error.read(2000)
        except (HTTPException, ValueError) as error:
            raise OSError(reason(error)) from error

    def _quoted(self, answer: bytes) -> str:
        """The beginning of what came back, without the key, which servers like to repeat."""
        text = answer[:300].decode(errors="replace")
        return reason(ValueError(text.replace(self.key, "…") if self.key else text), 150)


def text_part(text: str) -> dict[str, Any]:
    """A text in a list of parts."""
    return {"type": "text", "text": text}


def image_part(data: bytes, media_type: str = "image/jpeg") -> dict[str, Any]:
    """An encoded image in a list of parts."""
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{base64.b64encode(data).decode()}"}}


def _opener() -> OpenerDirector:
    """An opener that follows no redirect: the key is for the host that was named."""
    from urllib.request import HTTPRedirectHandler, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
            return None

    return build_opener(Stay)


def _text(answer: bytes) -> str | None:
    """The text of a chat completion, stripped; empty where the model said nothing, None where it is no completion."""
    try:
        message = json.loads(answer)["choices"][0]["message"]
        content = message.get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return (content or "").strip() if isinstance(content, str | None) else None


def _unsupported(answer: bytes) -> str:
    """The setting that a refusal is about, if it says so in OpenAI's form; else empty."""
    try:
        error = json.loads(answer)["error"]
        return str(error["param"]) if error["code"] in ("unsupported_parameter", "unsupported_value") else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _seconds(text: str | None) -> float:
    """What `Retry-After` asks for; 0 where it names a date or nothing."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
