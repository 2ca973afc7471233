"""Tokenizers of Llama 2 and 3 load with the ids the released checkpoints were trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from navila.errors import CheckpointError
from navila.tokenization import tokenize_with_images
from navila_llm_llama.llm import LlamaBackend


@pytest.mark.parametrize("name", ["llama3_like", "llama3_like_nobos", "llama2_like_spm"])
def test_ids_are_those_of_the_original(goldens: Path, name: str) -> None:
    tokenizer = LlamaBackend.load_tokenizer(goldens / "tokenizers" / name)
    assert tokenizer.padding_side == "right"
    cases = json.loads((goldens / "B_tokenization" / "tokenizer_image_token.json").read_text())
    mine = [case for case in cases if case["tokenizer"] == name]
    assert len(mine) == 25
    for case in mine:
        assert tokenize_with_images(case["prompt"], tokenizer) == case["ids_lstrip_False"], case["prompt"]


@pytest.mark.parametrize("name", ["llama3_like", "llama3_like_nobos"])
def test_answers_read_as_those_of_the_original(goldens: Path, name: str) -> None:
    """With the spaces in front of punctuation taken out, as the tokenizer's config asks."""
    tokenizer = LlamaBackend.load_tokenizer(goldens / "tokenizers" / name)
    cases = json.loads((goldens / "B_tokenization" / "tokenizer_image_token.json").read_text())
    mine = [case for case in cases if case["tokenizer"] == name and not case["n_images"]]
    assert len(mine) > 5
    for case in mine:
        assert tokenizer.decode(case["plain_ids"], skip_special_tokens=True) == case["decode_skip_special"]


def test_a_folder_without_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is missing"):
        LlamaBackend.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer in"):
        LlamaBackend.load_tokenizer(tmp_path)
