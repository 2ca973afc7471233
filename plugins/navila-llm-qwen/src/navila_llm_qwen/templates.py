"""Conversation templates of Qwen, as data."""

from __future__ import annotations

from dataclasses import replace

from navila.conversation import ConversationTemplate, Style

#: The template `qwen2` that VILA gives its models.
QWEN_2 = ConversationTemplate(
    name="qwen_2",
    style=Style.TURNS,
    system="<|im_start|>system\nYou are a helpful assistant",
    user="<|im_start|>user\n",
    assistant="<|im_start|>assistant\n",
    sep="<|im_end|>\n",
)
QWEN_2_5 = replace(
    QWEN_2,
    name="qwen_2_5",
    system="<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
)
#: As the tokenizer's own template with `enable_thinking=False`: the thought is closed before the answer begins.
QWEN_3 = replace(QWEN_2, name="qwen_3", system="", assistant="<|im_start|>assistant\n<think>\n\n</think>\n\n")
