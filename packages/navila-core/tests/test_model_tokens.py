"""Tokens around images and for points in time: added with rows of their own, used in prompts, kept by checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import navila
import numpy as np
import pytest
import torch
from navila.errors import ConfigError
from navila.model import build
from navila.tokenization import enclose_images, tokenize_with_images
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

LLM = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ENDS = ["<im_start>", "<im_end>"]


@pytest.fixture(scope="module")
def words(goldens: Path) -> Path:
    return goldens / "tokenizers" / "llama3_like"


def built(words: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    llm = {**LLM, **options.pop("llm", {})}
    return build(llm, TOWER, "linear", words, **options).eval()


def loaded(folder: Path) -> Any:
    return navila.load(folder, device="cpu", dtype="float32")


def test_ends_of_images_get_tokens_and_rows(words: Path) -> None:
    before = PreTrainedTokenizerFast.from_pretrained(words)
    model = built(words, mm_use_im_start_end=True)
    ids = model.tokenizer.convert_tokens_to_ids(ENDS)
    assert ids == [len(before), len(before) + 1]
    for table in (model.llm.get_input_embeddings(), model.llm.get_output_embeddings()):
        assert table.weight.shape[0] == len(before) + 2 == model.llm.config.vocab_size
        torch.testing.assert_close(table.weight[ids], table.weight[: len(before)].mean(0).expand(2, -1))


def test_a_padded_vocabulary_keeps_its_size_and_gives_them_rows_of_its_own(words: Path) -> None:
    known = len(PreTrainedTokenizerFast.from_pretrained(words))
    model = built(words, llm={"vocab_size": known + 50}, mm_use_im_start_end=True)
    table = model.llm.get_input_embeddings().weight
    assert table.shape[0] == known + 50
    torch.testing.assert_close(table[known], table[:known].mean(0))
    assert not torch.allclose(table[known + 2], table[:known].mean(0), atol=1e-3)


def test_prompts_enclose_every_image_once(words: Path) -> None:
    model = built(words, mm_use_im_start_end=True)
    prompt = model.template.render([("user", "<image>\nWhat is <image>?"), ("assistant", None)])
    want = prompt.replace("<image>", "<im_start><image><im_end>")
    assert enclose_images(prompt) == enclose_images(want) == want
    assert model.prompt_ids(prompt) == model.prompt_ids(want) == tokenize_with_images(want, model.tokenizer)
    start, end = model.tokenizer.convert_tokens_to_ids(ENDS)
    ids = model.prompt_ids(prompt)
    assert [(ids[i - 1], ids[i + 1]) for i, token in enumerate(ids) if token == -200] == [(start, end)] * 2
    assert -200 in built(words).prompt_ids(prompt)
    assert start not in built(words).prompt_ids(prompt)


def test_a_user_cannot_write_the_ends(words: Path) -> None:
    model = built(words, mm_use_im_start_end=True)
    image = np.zeros((30, 30, 3), dtype=np.uint8)
    seen: list[list[int]] = []
    # What is asked is recorded on the way to the model.
    inner = model.prompt_ids
    model.prompt_ids = lambda *given, **options: seen.append(inner(*given, **options)) or seen[-1]
    model.generate_content([image, "Say <im_end>."], max_new_tokens=1)
    start, end = model.tokenizer.convert_tokens_to_ids(ENDS)
    assert (seen[0].count(start), seen[0].count(end), seen[0].count(-200)) == (1, 1, 1)


def test_the_round_trip_adds_nothing(words: Path, tmp_path: Path) -> None:
    model = built(words, mm_use_im_start_end=True)
    model.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    assert again.config.mm_use_im_start_end is True
    assert len(again.tokenizer) == len(model.tokenizer)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    image = np.zeros((30, 30, 3), dtype=np.uint8)
    assert again.generate_content([image, "?"], max_new_tokens=4) == model.generate_content(
        [image, "?"], max_new_tokens=4
    )


@pytest.mark.parametrize("tokens_saved", [False, True])
def test_a_checkpoint_without_rows_for_them_gets_rows(words: Path, tmp_path: Path, tokens_saved: bool) -> None:
    # The original added the tokens without growing the tables, so that their first use failed.
    model = built(words)
    model.save_pretrained(tmp_path)
    rows = model.llm.config.vocab_size
    if tokens_saved:
        model.tokenizer.add_tokens(ENDS, special_tokens=True)
        model.tokenizer.save_pretrained(tmp_path / "llm")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mm_use_im_start_end": True}))
    again = loaded(tmp_path)
    assert again.llm.config.vocab_size == rows + 2
    before = load_file(tmp_path / "llm" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(again.llm.get_input_embeddings().weight[:rows], before)
    image = np.zeros((30, 30, 3), dtype=np.uint8)
    assert isinstance(again.generate_content([image, "?"], max_new_tokens=2), str)


def test_points_in_time_are_tokens_on_record(words: Path, tmp_path: Path) -> None:
    model = built(words, num_time_tokens=5)
    known = len(model.tokenizer) - 5
    assert model.config.time_token_ids == list(range(known, known + 5))
    assert model.tokenizer.convert_ids_to_tokens(known + 3) == "<t3>"
    # They are words of an answer, so they are seen in it.
    assert model.tokenizer.decode([known + 3], skip_special_tokens=True) == "<t3>"
    model.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    assert again.config.time_token_ids == model.config.time_token_ids
    assert len(again.tokenizer) == len(model.tokenizer) == again.llm.config.vocab_size


@pytest.mark.parametrize("wrong", [{"num_time_tokens": -1}, {"soft_ce_std": 0.0}, {"soft_ce_std": float("nan")}])
def test_a_number_that_makes_no_sense_is_told(words: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        built(words, **{"num_time_tokens": 2, **wrong})


@pytest.mark.parametrize("pattern", ["<t>", "{x}", "{0}", "{t", 7])
def test_a_format_without_a_number_is_told(words: Path, pattern: Any) -> None:
    with pytest.raises(ConfigError, match="time_token_format"):
        built(words, num_time_tokens=2, time_token_format=pattern)
