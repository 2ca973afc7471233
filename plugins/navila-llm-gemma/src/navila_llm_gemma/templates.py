"""The conversation template of Gemma, as data."""

from __future__ import annotations

from navila.conversation import ConversationTemplate, Style

#: The tokenizer puts `<bos>` in front by itself.
GEMMA = ConversationTemplate(
    name="gemma",
    style=Style.TURNS,
    user="<start_of_turn>user\n",
    assistant="<start_of_turn>model\n",
    sep="<end_of_turn>\n",
)
