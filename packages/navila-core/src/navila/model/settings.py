"""How an answer is generated: every setting and its default; a checkpoint's `generation_config.json` has no say."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

import torch
from torch import Tensor
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.utils import GenerationMixin

from navila.errors import ConfigError

#: Settings of transformers that change nothing.
_NEUTRAL = {
    "typical_p": 1.0,
    "min_length": 0,
    "early_stopping": False,
    "num_return_sequences": 1,
    "use_cache": True,
}
#: By the type of a setting's default, which values it takes and what they are called.
_KINDS: Mapping[type, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "True or False"),
}


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """The settings of `generate`, `generate_content`, `stream_content` and `generate_contents`."""

    max_new_tokens: int = 512
    """Longest answer."""
    do_sample: bool = False
    """Draw each token; else the likeliest is taken, and `temperature`, `top_p`, `top_k` mean nothing."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Draw from the likeliest tokens that have this probability together."""
    top_k: int = 50
    """Draw from so many of the likeliest tokens; 0 for all."""
    num_beams: int = 1
    """Answers followed at a time in beam search; 1 for none."""
    length_penalty: float = 1.0
    """Of beam search; above 0 favours long answers."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that the answer has already less likely."""
    no_repeat_ngram_size: int = 0
    """Length of the runs of tokens that may not occur twice in the answer; 0 allows all."""
    min_new_tokens: int = 0
    stop: str | Sequence[str] = ()
    """Texts that end the answer and are not part of it."""
    seed: int | None = None
    """Of what is drawn; the state of torch's generators is put back afterwards. None draws from that state."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind = _KINDS.get(type(field.default))
            if kind is not None and (not isinstance(value, kind[0]) or isinstance(value, bool) != (kind[0] is bool)):
                raise ConfigError(f"{field.name} is {value!r}: give {kind[1]}.")
        if not (self.seed is None or type(self.seed) is int):
            raise ConfigError(f"seed is {self.seed!r}: give a whole number.")
        if not isinstance(self.stop, str | Sequence) or not all(isinstance(stop, str) for stop in self.stops):
            raise ConfigError(f"stop is {self.stop!r}: give texts.")
        for name, wrong, hint in (
            ("max_new_tokens", self.max_new_tokens < 1, "1 or more"),
            ("temperature", self.do_sample and not self.temperature > 0, "above 0, or leave do_sample out"),
            ("top_p", not 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k < 0, "0 or more"),
            ("num_beams", self.num_beams < 1, "1 or more"),
            ("repetition_penalty", not self.repetition_penalty > 0, "above 0"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size < 0, "0 or more"),
            ("min_new_tokens", not 0 <= self.min_new_tokens <= self.max_new_tokens, "0 to max_new_tokens"),
            ("stop", not all(self.stops), "texts that are not empty"),
        ):
            if wrong:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: give {hint}.")
        neutral = {"temperature": (0.0, 1.0), "top_p": (1.0,), "top_k": (50,)}
        idle = [name for name, values in neutral.items() if getattr(self, name) not in values]
        if idle and not self.do_sample:
            raise ConfigError(f"{idle[0]} is set, but only sampling heeds it: give do_sample=True as well.")

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Settings, and what else of `options` transformers' `generate` takes.

        Raises:
            ConfigError: a name is neither, or a value is out of range.
        """
        own = {field.name for field in dataclasses.fields(cls)}
        theirs = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
        theirs |= inspect.signature(vars(GenerationMixin)["generate"]).parameters.keys()
        theirs -= {
            "self",
            "inputs",
            "kwargs",
            "generation_config",
            "max_length",
            "stop_strings",
            "transformers_version",
        }
        for name in options:
            if name not in own | theirs:
                raise ConfigError(_unknown(name, own | theirs))
        settings = cls(**{name: value for name, value in options.items() if name in own})
        return settings, {name: value for name, value in options.items() if name not in own}

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """The settings of these names; raises ConfigError for another name or a value out of range."""
        cls.known(options)
        return cls(**options)

    @classmethod
    def known(cls, options: Iterable[str]) -> None:
        """Raise ConfigError for a name that is no setting."""
        own = {field.name for field in dataclasses.fields(cls)}
        for name in options:
            if name not in own:
                raise ConfigError(_unknown(name, own))

    @property
    def stops(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def options(self) -> dict[str, Any]:
        """Every generation setting of transformers, so that it takes none from the checkpoint."""
        everything = {k: v for k, v in vars(GenerationConfig()).items() if not k.startswith("_")}
        everything.pop("transformers_version", None)
        own = {k: v for k, v in vars(self).items() if k not in ("stop", "seed")}
        if not self.do_sample:
            own |= {"temperature": 1.0}
        return {**everything, **_NEUTRAL, **own, "min_new_tokens": self.min_new_tokens or None}


def _unknown(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"There is no generation setting {name!r}: did you mean {' or '.join(close)}?"
    own = sorted(field.name for field in dataclasses.fields(GenerationSettings))
    return f"There is no generation setting {name!r}: use {', '.join(own)}."


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from generators with this seed, and put their states of before back; nothing when it is None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


class StopAtText(StoppingCriteria):
    """Ends the rows that hold one of some texts; they may begin and end within tokens."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        # A token is a byte or more, and the last one may reach beyond the text; the rest is what decoding swallows.
        self.tail = max(len(stop.encode()) for stop in stops) + 4

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B,) bool, for new ids (B, L)."""
        texts = self.tokenizer.batch_decode(input_ids[:, -self.tail :], skip_special_tokens=True)
        said = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(said, dtype=torch.bool, device=input_ids.device)
