"""A lone answer is a text learned whole: every id but those of images, as in VILA's pre-training on documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from navila.conversation import get_template
from navila.errors import DataError
from navila.tokenization import tokenize_with_images
from navila_data.processor import Processor
from navila_data.sample import Sample, Turn
from transformers import AutoTokenizer, PreTrainedTokenizerBase


@pytest.fixture(params=["llama3_like", "llama2_like_spm", "chatml_like"])
def tokenizer(request: pytest.FixtureRequest, goldens: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(goldens / "tokenizers" / request.param)


def processor_of(tokenizer: PreTrainedTokenizerBase, max_length: int = 1000) -> Processor:
    template = get_template("llama_3")
    return Processor(tokenizer=tokenizer, template=template, tokens_per_image=10, max_length=max_length)


def document(text: str) -> Sample:
    return Sample(turns=(Turn("assistant", text),), media=(None,) * text.count("<image>"), source="s", record="r")


@pytest.mark.parametrize("text", ["<image>A red sofa.", "<image>\nOne. Two.<image>\nThree.", "No image at all."])
def test_every_id_is_learned_and_no_template_is_around_it(tokenizer: PreTrainedTokenizerBase, text: str):
    encoded = processor_of(tokenizer).encode(document(text))
    assert list(encoded.input_ids) == tokenize_with_images(text + tokenizer.eos_token, tokenizer)
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    first = int(encoded.input_ids[0] == tokenizer.bos_token_id)
    learned = [-100 if i == -200 else i for i in encoded.input_ids]
    assert list(encoded.labels[first:]) == learned[first:]
    assert not encoded.shortened


def test_a_long_document_is_cut_off_and_no_image_ends_it(tokenizer: PreTrainedTokenizerBase):
    text = "<image>\n" + "One two three. " * 3 + "<image>\n" + "Four. " * 50
    whole = processor_of(tokenizer).encode(document(text))
    second = [n for n, i in enumerate(whole.input_ids) if i == -200][1]
    for length in (second + 9 + 10, second + 9 + 9, second + 9 + 15, second + 5):
        processor = processor_of(tokenizer, max_length=length)
        encoded = processor.encode(document(text))
        assert encoded.shortened
        assert processor.length(encoded) <= length
        assert encoded.input_ids == whole.input_ids[: len(encoded.input_ids)]
        assert encoded.labels == whole.labels[: len(encoded.input_ids)]
        assert encoded.input_ids[-1] != -200
        assert len(encoded.media) == encoded.input_ids.count(-200)
        # Nothing that would have fitted was left out, but an image without a word about it.
        assert processor.length(encoded) == length or encoded.input_ids.count(-200) == 1


def test_a_document_of_which_nothing_fits_is_named(tokenizer: PreTrainedTokenizerBase):
    with pytest.raises(DataError, match="s record r takes"):
        processor_of(tokenizer, max_length=8).encode(document("<image>A red sofa."))
