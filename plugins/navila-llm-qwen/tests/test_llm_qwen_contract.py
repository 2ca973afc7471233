"""The Qwen backends keep the contract of language models, and their templates that of templates."""

from __future__ import annotations

from navila.conversation import get_template
from navila.testing import ConversationContract, LLMContract


class TestQwen2(LLMContract):
    name = "qwen2"


class TestQwen3(LLMContract):
    name = "qwen3"


class TestQwen2Template(ConversationContract):
    name = "qwen_2"


class TestQwen25Template(ConversationContract):
    name = "qwen_2_5"


class TestQwen3Template(ConversationContract):
    name = "qwen_3"


def test_prompts_are_those_of_the_published_templates() -> None:
    asked = [("user", "Hi"), ("assistant", None)]
    assert get_template("qwen_2_5").render(asked) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert get_template("qwen_2").render([*asked[:1], ("assistant", "Yes")]) == (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    )
    assert get_template("qwen_3").render(asked) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
