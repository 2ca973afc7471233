"""Core's conversation templates as attributes, e.g. `navila.templates.hermes_2`: the targets of their descriptions."""

from __future__ import annotations

from navila.conversation import TEMPLATES, ConversationTemplate


def __getattr__(name: str) -> ConversationTemplate:
    """The template of that name, with `_` for `-` (PEP 562)."""
    for template in TEMPLATES:
        if template.name.replace("-", "_") == name:
            return template
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
