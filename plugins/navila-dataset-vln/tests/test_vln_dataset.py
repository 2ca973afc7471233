"""Navigation samples equal the original loader's; malformed records are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from navila.conversation import get_template
from navila.errors import DataError
from navila.frames import sample_indices
from navila.images import ImageProcessor
from navila_data.collator import Collator
from navila_data.dataset import LoadOptions
from navila_data.frames import FrameStore, PixelPipeline
from navila_data.processor import Processor
from navila_dataset_vln.dataset import VLNDataset
from navila_dataset_vln.trajectories import EnvDropDataset
from transformers import AutoTokenizer


@pytest.fixture
def release(goldens: Path, tmp_path: Path) -> Path:
    """The original's test records in the release's layout: frame paths are relative to `R2R/train`."""
    source = goldens / "M_datasets" / "data"
    records = json.loads((source / "vlnce.json").read_text())
    for record in records:
        record["frames"] = [frame.removeprefix("train/") for frame in record["frames"]]
    folder = tmp_path / "R2R"
    folder.mkdir()
    (folder / "annotations.json").write_text(json.dumps(records))
    (folder / "train").symlink_to(source / "train")
    return tmp_path


def test_ids_labels_and_pixels_equal_the_originals(goldens: Path, release: Path):
    golden = json.loads((goldens / "M_datasets" / "cases.json").read_text())["datasets"]["vlnce(is_multimodal=True)"]
    tokenizer = AutoTokenizer.from_pretrained(goldens / "tokenizers" / "llama3_like")
    dataset = VLNDataset.open("r2r", release, LoadOptions(num_frames=8, normalise_instructions=True))
    processor = Processor(tokenizer=tokenizer, template=get_template("llama_3"), tokens_per_image=1, max_length=10**6)
    pixels = PixelPipeline(ImageProcessor.square(56))
    store = FrameStore(pixels.resize)
    compared = 0
    for case in golden["cases"]:
        if "error" in case or "Empty video." in case.get("decoded", ""):
            continue
        encoded = processor.encode(dataset[case["index"]])
        assert list(encoded.input_ids) == case["input_ids"]
        assert list(encoded.labels) == case["labels"]
        means = [float(pixels.to_tensor(store.load([path])[path][None]).mean()) for path in encoded.media]
        assert means == pytest.approx(case["frame_means"], abs=1e-5)
        compared += 1
    assert compared >= 5


def test_a_missing_frame_is_a_failure_and_never_a_black_frame(goldens: Path, release: Path):
    annotations = release / "R2R" / "annotations.json"
    record = json.loads(annotations.read_text())[1]
    annotations.write_text(json.dumps([record | {"frames": ["1/frame_0.png", "1/gone.png"]}, record]))
    dataset = VLNDataset.open("r2r", release, LoadOptions(num_frames=2))
    processor = Processor(
        tokenizer=AutoTokenizer.from_pretrained(goldens / "tokenizers" / "llama3_like"),
        template=get_template("llama_3"),
        tokens_per_image=1,
        max_length=10**6,
    )
    pixels = PixelPipeline(ImageProcessor.square(56))

    def collate(mask_broken: bool):
        collator = Collator(
            frames=FrameStore(pixels.resize), to_tensor=pixels.to_tensor, pad_token_id=0, mask_broken=mask_broken
        )
        return collator([processor.encode(dataset[0]), processor.encode(dataset[1])])

    batch = collate(False)
    assert len(batch["input_ids"]) == 1
    assert "gone.png does not exist" in batch["notes"].failures[0].reason
    batch = collate(True)
    assert len(batch["input_ids"]) == 2
    assert torch.equal(batch["labels"][0], torch.full_like(batch["labels"][0], -100))
    assert (batch["labels"][1] != -100).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"frames": []}, "frames"),
        ({"frames": ["../../secret.jpg"]}, "leaves the data folder"),
        ({"frames": ["/etc/secret.jpg"]}, "leaves the data folder"),
        ({"frames": [3]}, "media path"),
        ({"q": None}, '"q"'),
        ({"a": " "}, '"a"'),
        ({"video_id": 7}, '"video_id"'),
    ],
)
def test_a_malformed_record_is_named(tmp_path: Path, change: dict, match: str):
    good = {"video_id": "1-0", "frames": ["1/frame_0.jpg"], "q": "Go.", "a": "The next action is turn left 15 degree."}
    (tmp_path / "annotations.json").write_text(json.dumps([good, good | change]))
    dataset = VLNDataset.open("vln", tmp_path, LoadOptions())
    assert dataset[0].record == "0 (1-0)"
    with pytest.raises(DataError, match=match) as caught:
        dataset[1]
    assert "annotations.json, record 1" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[\n{"video_id": "1",}\n]', "line 2"),
        ("[\n{}\n", "line 3"),
        ("[\n{}\n]x", "line 3"),
        ("", "is empty"),
        ("[1]", "line 1: expected an object, got int"),
        ('["a"]', "line 1: expected an object, got str"),
        ("[[1]]", "line 1: expected an object, got list"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str, match: str):
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(DataError, match=match):
        VLNDataset.open("vln", tmp_path, LoadOptions())[0]


@pytest.mark.parametrize("indent", [None, 1, "a line each"])
def test_long_histories_show_the_same_frames_however_the_file_is_laid_out(tmp_path: Path, indent):
    records = [
        {"video_id": f"1-{i}", "frames": [f"1/frame_{k}.jpg" for k in range(i + 1)], "q": "Go.", "a": "x"}
        for i in range(40)
    ]
    text = json.dumps(records, indent=indent) if indent != "a line each" else None
    (tmp_path / "annotations.json").write_text(text or "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")
    dataset = VLNDataset.open("vln", tmp_path, LoadOptions(num_frames=8))
    assert len(dataset) == 40
    for i in (0, 3, 7, 8, 39):
        expected = [f"frame_{k}.jpg" if k >= 0 else None for k in sample_indices(i + 1, 8)]
        assert [path and path.name for path in dataset[i].media] == expected


def test_bom_and_windows_line_ends_are_read(tmp_path: Path):
    record = {"video_id": "1-0", "frames": ["1/frame_0.jpg"], "q": "Géh. 去", "a": "The next action is stop."}
    text = json.dumps([record], indent=1, ensure_ascii=False).replace("\n", "\r\n")
    (tmp_path / "annotations.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    dataset = VLNDataset.open("vln", tmp_path, LoadOptions(num_frames=1))
    assert '"Géh. 去"' in dataset[0].turns[0].text


def test_an_instruction_cannot_smuggle_images_or_control_tokens_in(tmp_path: Path):
    record = {"video_id": "1-0", "frames": ["1/f.jpg"], "q": "<image> <|eot_id|>", "a": "The next action is stop."}
    (tmp_path / "annotations.json").write_text(json.dumps([record]))
    sample = VLNDataset.open("vln", tmp_path, LoadOptions(num_frames=3))[0]
    assert sample.turns[0].text.count("<image>") == len(sample.media) == 3
    assert "<|eot_id|>" not in sample.turns[0].text


def test_samples_of_one_episode_share_a_group(tmp_path: Path):
    records = [
        {"video_id": f"{e}-{i}", "frames": [f"{e}/frame_{k}.jpg" for k in range(i + 1)], "q": "Go.", "a": "x"}
        for e in range(2)
        for i in range(3)
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(records))
    dataset = VLNDataset.open("vln", tmp_path, LoadOptions())
    assert [dataset.group(i) for i in range(6)] == ["0", "0", "0", "1", "1", "1"]


def test_trajectories_equal_the_originals(goldens: Path, tmp_path: Path):
    source = goldens / "M_datasets" / "data"
    golden = json.loads((goldens / "M_datasets" / "cases.json").read_text())["datasets"]["envdrop(is_multimodal=True)"]
    folder = tmp_path / "EnvDrop"
    folder.mkdir()
    (folder / "annotations.json").write_bytes((source / "envdrop.json").read_bytes())
    (folder / "videos").symlink_to(source)
    dataset = EnvDropDataset.open("envdrop", tmp_path, LoadOptions(num_frames=8))
    tokenizer = AutoTokenizer.from_pretrained(goldens / "tokenizers" / "llama3_like")
    processor = Processor(tokenizer=tokenizer, template=get_template("llama_3"), tokens_per_image=1, max_length=10**6)
    pixels = PixelPipeline(ImageProcessor.square(56))
    store = FrameStore(pixels.resize)
    for case in golden["cases"][:2]:
        encoded = processor.encode(dataset[case["index"]])
        assert list(encoded.input_ids) == case["input_ids"]
        assert list(encoded.labels) == case["labels"]
        shown = store.load(encoded.media)
        means = [float(pixels.to_tensor(shown[medium][None]).mean()) for medium in encoded.media]
        assert means == pytest.approx(case["frame_means"], abs=1e-5)
    # The original shows black frames of a video that is not there, and has "Empty video." for an answer.
    with pytest.raises(DataError, match=r"missing\.mp4 does not exist"):
        dataset[2]


@pytest.mark.parametrize(
    ("name", "folder", "media"),
    [
        ("r2r", "R2R", "train"),
        ("rxr", "RxR", "train"),
        ("human", "Human", "raw_frames"),
        ("envdrop", "EnvDrop", "videos"),
    ],
)
def test_a_folder_of_the_release_that_is_missing_or_not_unpacked_is_named(
    tmp_path: Path, name: str, folder: str, media: str
):
    dataset = EnvDropDataset if name == "envdrop" else VLNDataset
    with pytest.raises(DataError, match=f"no folder {folder}; below --data_path are expected {folder}/annotations"):
        dataset.open(name, tmp_path, LoadOptions())
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "annotations.json").write_text("[{}]")
    with pytest.raises(DataError, match=f"{folder} lacks {media}: fetch or unpack it"):
        dataset.open(name, tmp_path, LoadOptions())
    (tmp_path / folder / media).mkdir()
    assert len(dataset.open(name, tmp_path, LoadOptions())) == 1
    assert len(dataset.open(name, tmp_path / folder, LoadOptions())) == 1


def test_a_step_is_labelled_by_its_action(tmp_path: Path):
    answers = [
        "I think I should stop because I have finished the instruction.",
        "The next action is turn left 30 degrees.",
    ]
    records = [{"video_id": "1", "frames": ["f.jpg"], "q": "Go.", "a": a} for a in (*answers, "Hm.", 3)]
    (tmp_path / "annotations.jsonl").write_text("\n".join([*map(json.dumps, records), "{oops"]))
    dataset = VLNDataset.open("vln", tmp_path, LoadOptions(annotations=tmp_path / "annotations.jsonl"))
    assert [dataset.label(i) for i in range(5)] == ["stop", "left", "", "", ""]
