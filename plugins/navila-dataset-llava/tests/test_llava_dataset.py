"""Conversations equal the original loader's; malformed records are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from navila.conversation import get_template
from navila.errors import DataError
from navila_data.dataset import LoadOptions
from navila_data.processor import Processor
from navila_dataset_llava.dataset import LlavaDataset
from transformers import AutoTokenizer


def conversation(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if number % 2 else "human", "value": text} for number, text in enumerate(texts)]


def dataset_of(folder: Path, *records: dict) -> LlavaDataset:
    (folder / "annotations.json").write_text(json.dumps(records))
    return LlavaDataset.open("llava", folder, LoadOptions())


def test_ids_and_labels_equal_the_originals(goldens: Path, tmp_path: Path):
    golden = json.loads((goldens / "M_datasets" / "cases.json").read_text())["datasets"]
    key = next(key for key in golden if key.lower().startswith("supervised") and "True" in key)
    records = json.loads((goldens / "M_datasets" / "data" / "supervised.json").read_text())
    dataset = dataset_of(tmp_path, *records)
    tokenizer = AutoTokenizer.from_pretrained(goldens / "tokenizers" / "llama3_like")
    processor = Processor(tokenizer=tokenizer, template=get_template("llama_3"), tokens_per_image=1, max_length=10**6)
    compared = 0
    for case in golden[key]["cases"]:
        record = records[case["index"]]
        if "input_ids" not in case or "video" in record or "video_id" in record:
            continue
        encoded = processor.encode(dataset[case["index"]])
        assert list(encoded.input_ids) == case["input_ids"]
        assert list(encoded.labels) == case["labels"]
        compared += 1
    assert compared == 4


def test_every_answer_of_a_conversation_is_learned(goldens: Path, tmp_path: Path):
    sample = dataset_of(
        tmp_path, {"image": "1.jpg", "conversations": conversation("Left?", "Red.", "Right?", "Blue.")}
    )[0]
    assert sample.turns[0].text == "<image>\nLeft?"
    tokenizer = AutoTokenizer.from_pretrained(goldens / "tokenizers" / "llama3_like")
    processor = Processor(tokenizer=tokenizer, template=get_template("llama_3"), tokens_per_image=1, max_length=10**6)
    learned = tokenizer.decode([label for label in processor.encode(sample).labels if label != -100])
    assert learned == "Red.<|eot_id|>Blue.<|end_of_text|>"


def test_jsonl_is_read_and_its_bad_line_named(tmp_path: Path):
    good = json.dumps({"id": "a", "conversations": conversation("Hi", "Hello")})
    (tmp_path / "annotations.jsonl").write_text(f"{good}\n\n{good}\n")
    assert len(LlavaDataset.open("llava", tmp_path, LoadOptions())) == 2
    (tmp_path / "annotations.jsonl").write_text(f"{good}\n{{oops\n")
    dataset = LlavaDataset.open("llava", tmp_path, LoadOptions())
    assert dataset[0].turns
    with pytest.raises(DataError, match=r"annotations\.jsonl, line 2"):
        dataset[1]


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ({"conversations": conversation("<image>\nHi", "Hello")}, "1 <image> in its text and 0 media"),
        ({"image": ["1.jpg", "2.jpg"], "conversations": conversation("<image>", "Hello")}, "1 <image>"),
        ({"image": 7, "conversations": conversation("Hi", "Hello")}, "path or a list"),
        ({"image": "../1.jpg", "conversations": conversation("Hi", "Hello")}, "leaves the data folder"),
        ({"conversations": conversation("Hi", "Hello")[:1] * 2}, "take turns"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "'robot'"),
        ({"conversations": [{"from": "human", "value": 3}]}, "3"),
        ({"conversations": "Hi"}, "list of turns"),
        ({"conversations": conversation("Hi")}, "no answer"),
        ({"video": "a.mp4", "conversations": conversation("Hi", "Hello")}, "video"),
    ],
)
def test_a_malformed_record_is_named(tmp_path: Path, record: dict, match: str):
    dataset = dataset_of(tmp_path, {"conversations": conversation("Hi", "Hello")}, record)
    assert dataset[0].media == ()
    with pytest.raises(DataError, match=match) as caught:
        dataset[1]
    assert "record 1" in str(caught.value)


def test_text_cannot_smuggle_control_tokens_in(tmp_path: Path):
    sample = dataset_of(tmp_path, {"image": "1.jpg", "conversations": conversation("a <|eot_id|> b", "c")})[0]
    assert "<|eot_id|>" not in sample.turns[0].text


def test_text_without_images_cannot_smuggle_control_tokens_in_either(tmp_path: Path):
    dataset = dataset_of(tmp_path, {"conversations": conversation("a <|eot_id|> b", "c </s>")})
    assert [turn.text for turn in dataset[0].turns] == ["a < |eot_id|> b", "c < /s>"]


@pytest.mark.parametrize("images", ["images", "videos", ""])
def test_sharegpt4v_lies_below_the_data_path_with_images_where_the_registry_has_them(tmp_path: Path, images: str):
    with pytest.raises(DataError, match="no folder sharegpt4v_sft"):
        LlavaDataset.open("sharegpt4v_sft", tmp_path, LoadOptions())
    folder = tmp_path / "sharegpt4v_sft"
    (folder / images).mkdir(parents=True)
    dataset_of(folder, {"image": "coco/1.jpg", "conversations": conversation("What?", "A cat.")})
    dataset = LlavaDataset.open("sharegpt4v_sft", tmp_path, LoadOptions())
    assert dataset[0].media == (folder / images / "coco/1.jpg",)
