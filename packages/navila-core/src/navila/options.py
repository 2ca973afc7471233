"""Options of a component, given as `KEY=VALUE` words. Light."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from navila.errors import ConfigError

T = TypeVar("T")


def parse_options(words: Sequence[str], of: str = "task") -> dict[str, Any]:
    """`KEY=VALUE` words as keywords; a value is JSON where it reads as such, else text.

    Raises:
        ConfigError: a word has no `=`.
    """
    keywords: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"The {of} option {word!r} must read KEY=VALUE.")
        try:
            keywords[key] = json.loads(value)
        except ValueError:
            keywords[key] = value
    return keywords


def construct(component: Callable[..., T], keywords: Mapping[str, Any], label: str) -> T:
    """A component with its options; `label` names it in messages.

    Raises:
        ConfigError: it has no such option.
    """
    known = [name for name in inspect.signature(component).parameters if name not in ("args", "kwargs")]
    for key in keywords:
        if key not in known:
            raise ConfigError(f"The {label} has no option {key!r}: it has {', '.join(known) or 'none'}.")
    return component(**keywords)
