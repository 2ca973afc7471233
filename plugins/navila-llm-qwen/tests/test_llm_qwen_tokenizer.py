"""Qwen's chat template is used as it stands, and answers stop where Qwen's do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from navila.chat_template import ChatTemplate
from navila.conversation import get_template
from navila.tokenization import stop_token_ids, tokenize_supervised, tokenize_with_images
from navila_llm_qwen.llm import Qwen3Backend
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

#: The parts of Qwen 3's published template that concern plain dialogues.
CHAT = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{{- m.content + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level tokenizer with Qwen's control tokens and no BOS, loaded as the backend loads one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = CHAT
    folder: Path = tmp_path_factory.mktemp("qwen")
    made.save_pretrained(folder)
    return Qwen3Backend.load_tokenizer(folder)


def test_the_thought_is_closed_before_the_answer_in_training_as_in_use(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer)
    asked = [("user", "<image>\nWhere?"), ("assistant", None)]
    assert template.render(asked) == get_template("qwen_3").render(asked)
    answered = [*asked[:1], ("assistant", "Left.")]
    assert template.render(answered) == template.render(asked) + "Left.<|im_end|>\n"
    assert get_template("qwen_3").render(answered) == template.render(answered)


def test_the_answer_and_its_end_are_learned(tokenizer: Any) -> None:
    template = get_template("qwen_3")
    spans = template.spans([("user", "<image>\nWhere?"), ("assistant", "Left.")])
    ids, labels = tokenize_supervised(spans, tokenizer)
    assert ids == tokenize_with_images("".join(span.text for span in spans), tokenizer)
    assert tokenizer.decode([label for label in labels if label >= 0]) == "Left.<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in stop_token_ids(tokenizer, template)
