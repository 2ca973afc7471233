"""The tokenizer of tiny models: short prompts, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from navila.actions import LEGAL_ANSWERS
from navila.conversation import get_template
from navila.errors import ConfigError
from navila.prompts import navigation_prompt
from navila.tokenization import stop_token_ids, tokenize_supervised, tokenize_with_images
from navila_data.mixture import Mixture
from navila_train.feed import texts_of
from navila_train.tokenizers import SPECIAL_TOKENS, build_word_tokenizer
from transformers import AutoTokenizer

INSTRUCTION = "Turn left and go to the red sofa next to the blue lamp."
TEXTS = [INSTRUCTION, "Where is the red sofa? It is 2.5 m away, 30 degrees to the left."]


@pytest.fixture(scope="module")
def tokenizer():
    return build_word_tokenizer(TEXTS)


def plain(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "text",
    [*TEXTS, *LEGAL_ANSWERS, navigation_prompt(INSTRUCTION, 8), "Später: «日本» 🤖\t\r\n  x", "unseen words, too", ""],
)
def test_decoding_gives_back_the_text(tokenizer, text):
    assert tokenizer.decode(plain(tokenizer, text)) == text


def test_the_navigation_prompt_is_short(tokenizer):
    prompt = get_template("llama_3").render([("user", navigation_prompt(INSTRUCTION, 8)), ("assistant", None)])
    ids = tokenize_with_images(prompt, tokenizer)
    assert ids.count(-200) == 8
    instruction = len(plain(tokenizer, INSTRUCTION))
    assert instruction == 13 + 1  # thirteen words and a full stop
    # two BOS, the head, a line break after six of the frames, three pieces around the last frame and the instruction
    assert len(ids) - 8 - instruction == 2 + 1 + 6 + 3
    text = "".join("<image>" if i == -200 else tokenizer.decode([i]) for i in ids)
    assert text == "<|begin_of_text|>" + prompt


def test_every_answer_is_one_token(tokenizer):
    assert all(len(plain(tokenizer, answer)) == 1 for answer in LEGAL_ANSWERS)


def test_words_are_one_token_with_and_without_a_space_and_others_are_bytes(tokenizer):
    assert len(plain(tokenizer, "sofa")) == len(plain(tokenizer, " sofa")) == 1
    assert len(plain(tokenizer, "zebra")) == 5


def test_special_tokens_are_llama_3s(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "[PAD]",
    )
    for token in SPECIAL_TOKENS:
        assert len(plain(tokenizer, token)) == 1
    assert tokenizer("red")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.decode(plain(tokenizer, "red<|eot_id|>"), skip_special_tokens=True) == "red"


def test_a_saved_tokenizer_loads_equal_beside_a_llama_config(tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = navigation_prompt(INSTRUCTION + " zebra", 3)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(plain(loaded, text)) == text
    assert len(loaded) == len(tokenizer)
    assert loaded.pad_token_id == tokenizer.pad_token_id


def test_equal_texts_in_another_order_give_equal_ids():
    one, two = build_word_tokenizer(TEXTS), build_word_tokenizer(TEXTS[::-1])
    assert one.get_vocab() == two.get_vocab()


def test_the_token_that_ends_an_answer_stays_whole(tokenizer):
    """In a dialogue of several turns, each answer is learned with the stop token that ends generation."""
    template = get_template("llama_3")
    turns = [
        ("user", "<image>\nWhere is the red sofa?"),
        ("assistant", "It is ahead."),
        ("user", "And?"),
        ("assistant", "No."),
    ]
    ids, labels = tokenize_supervised(template.spans(turns), tokenizer)
    assert ids == tokenize_with_images(template.render(turns), tokenizer)
    learned = [label for label in labels if label != -100]
    assert tokenizer.decode(learned) == "It is ahead.<|eot_id|>No.<|end_of_text|>"
    assert {learned[-1], learned[learned.index(tokenizer.convert_tokens_to_ids("<|eot_id|>"))]} <= set(
        stop_token_ids(tokenizer, template)
    )


@pytest.mark.parametrize("phrase", ["", "<|eot_id|>", "<|begin_of_text|>Hello", "see <image>"])
def test_a_phrase_that_would_break_prompts_is_refused(phrase):
    with pytest.raises(ConfigError, match="cannot be one token"):
        build_word_tokenizer(TEXTS, [phrase])


def test_its_words_are_those_of_the_records_that_can_be_read(tmp_path: Path):
    good = {"video_id": "1", "frames": ["1.jpg"], "q": "Find the red sofa.", "a": LEGAL_ANSWERS[0]}
    lines = [json.dumps(good), "{oops}", json.dumps(good | {"frames": ["../1.jpg"], "q": "Secret."})]
    (tmp_path / "annotations.json").write_text("\n".join(lines))
    texts = " ".join(texts_of(Mixture.open(f"vln:{tmp_path}")))
    assert "Find the red sofa." in texts
    assert "Secret" not in texts
