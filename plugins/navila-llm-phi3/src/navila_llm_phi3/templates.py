"""Conversation templates of Phi-3 and Phi-4-mini, as data."""

from __future__ import annotations

from navila.conversation import ConversationTemplate, Style

PHI_3 = ConversationTemplate(
    name="phi_3", style=Style.TURNS, user="<|user|>\n", assistant="<|assistant|>\n", sep="<|end|>\n"
)
PHI_4_MINI = ConversationTemplate(
    name="phi_4_mini", style=Style.TURNS, user="<|user|>", assistant="<|assistant|>", sep="<|end|>"
)
