"""Video samples equal the original loader's but where that one loses or invents something."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from navila.conversation import get_template
from navila.errors import DataError
from navila.images import ImageProcessor
from navila_data.dataset import LoadOptions
from navila_data.frames import FrameStore, PixelPipeline
from navila_data.media import VideoFrame
from navila_data.processor import Processor
from navila_data.video_facts import VideoFacts, frames_shown, known_videos
from navila_dataset_video.dataset import CAPTION_QUESTION, VideoDataset
from transformers import AutoTokenizer

QUESTION = {"from": "human", "value": "What happens?"}
ANSWER = {"from": "gpt", "value": "It gets brighter."}


def dataset_of(folder: Path, *records: dict, **options) -> VideoDataset:
    (folder / "annotations.json").write_text(json.dumps(records))
    return VideoDataset.open("video", folder, LoadOptions(**options))


def indices(dataset: VideoDataset, record: int = 0) -> list[int]:
    media = dataset[record].media
    assert all(isinstance(medium, VideoFrame) for medium in media)
    return [medium.index for medium in media if isinstance(medium, VideoFrame)]


@pytest.fixture
def processor(goldens: Path) -> Processor:
    tokenizer = AutoTokenizer.from_pretrained(goldens / "tokenizers" / "llama3_like")
    return Processor(tokenizer=tokenizer, template=get_template("llama_3"), tokens_per_image=1, max_length=10**6)


@pytest.fixture
def videos(goldens: Path, tmp_path: Path) -> Path:
    """A folder with the golden videos behind a link, as data on clusters often are."""
    (tmp_path / "videos").symlink_to(goldens / "D_video_frames" / "videos")
    return tmp_path


def test_ids_labels_and_pixels_equal_the_originals(goldens: Path, tmp_path: Path, processor: Processor):
    source = goldens / "M_datasets" / "data"
    cases = json.loads((goldens / "M_datasets" / "cases.json").read_text())["datasets"]
    golden = cases["supervised(is_multimodal=True)"]
    records = json.loads((source / "supervised.json").read_text())
    (tmp_path / "videos").symlink_to(source)
    dataset = dataset_of(tmp_path, *records, num_frames=8)
    pixels = PixelPipeline(ImageProcessor.square(56))
    store = FrameStore(pixels.resize)
    compared = 0
    for case in golden["cases"]:
        record = records[case["index"]]
        if not {"video", "video_id"} & record.keys() or "Empty video." in case["decoded"]:
            continue
        encoded = processor.encode(dataset[case["index"]])
        assert list(encoded.input_ids) == case["input_ids"]
        assert list(encoded.labels) == case["labels"]
        shown = store.load(encoded.media)
        means = [float(pixels.to_tensor(shown[medium][None]).mean()) for medium in encoded.media]
        assert means == pytest.approx(case["frame_means"], abs=1e-5)
        compared += 1
    assert compared == 5


def test_frames_are_those_the_original_shows(goldens: Path, videos: Path):
    golden = json.loads((goldens / "D_video_frames" / "selected.json").read_text())
    compared = deviating = 0
    for case in golden["cases"]:
        if case["api"] != "opencv_extract_frames" or case["video"] not in golden["videos"] or "input" in case:
            continue
        facts = golden["videos"][case["video"]]
        # Told both, the original believes them; told one, it looks at the file.
        both = case["fps"] and case["frame_count"]
        count, rate = (case["frame_count"], case["fps"]) if both else (facts["n"], facts["CAP_PROP_FPS"])
        shown = frames_shown(VideoFacts(count, rate), case["frames"], case["max_fps"])
        # The original invents black frames of videos shorter than two frames at the rate asked for, and of one-frame
        # videos; told a wrong count below the frames asked for, it shows all there are, more than were asked for.
        invents = "empty_720x720" in case["indices"]
        believes = bool(both) and count != facts["n"]
        if invents or believes:
            assert 1 <= len(shown) <= case["frames"]
            assert shown[0] == 0
            deviating += 1
            continue
        assert shown == case["indices"], case
        compared += 1
    assert compared > 450
    assert deviating > 100


def test_the_frames_of_a_file_are_those_of_its_own_length(goldens: Path, videos: Path):
    golden = json.loads((goldens / "D_video_frames" / "selected.json").read_text())["videos"]
    names = sorted(golden)
    dataset = dataset_of(videos, *({"video": name, "q": "What?", "a": "x"} for name in names), num_frames=8)
    for number, name in enumerate(names):
        expected = np.linspace(0, golden[name]["n"] - 1, min(8, golden[name]["n"]), dtype=int)
        assert indices(dataset, number) == expected.tolist()


def test_a_rate_shows_fewer_frames_of_short_videos_and_two_at_least(videos: Path):
    shown = dataset_of(
        videos,
        {"video": "n240_fps60.mp4", "q": "What?", "a": "x"},
        {"video": "n45_fps15.mp4", "q": "What?", "a": "x"},
        {"video": "n9_fps30.mp4", "q": "What?", "a": "x"},
        {"video": "n1_fps10.mp4", "q": "What?", "a": "x"},
        num_frames=4,
        fps=1.0,
    )
    assert [indices(shown, i) for i in range(4)] == [[0, 79, 159, 239], [0, 22, 44], [0, 8], [0]]


def test_all_turns_are_kept_and_marks_stripped_wherever_they_stand(videos: Path, processor: Processor):
    asked = [
        {"from": "gpt", "value": "Hi."},
        {"from": "human", "value": "First <video>\nquestion\n<image>"},
        {"from": "gpt", "value": 30},
        {"from": "human", "value": "<video>Second?"},
        {"from": "gpt", "value": "Two."},
    ]
    sample = dataset_of(videos, {"video": "n30_fps30.mp4", "conversations": asked}, num_frames=2)[0]
    assert [turn.text for turn in sample.turns] == ["<image>\n<image>\nFirst question", "30", "Second?", "Two."]
    learned = [label for label in processor.encode(sample).labels if label != -100]
    assert processor.tokenizer.decode(learned) == "30<|eot_id|>Two.<|end_of_text|>"


def test_of_several_answers_a_record_always_gives_the_same_and_all_occur(videos: Path):
    record = {"video_id": "n30_fps30", "a": ["brown", "dark brown", 3]}
    dataset = dataset_of(videos, *(record | {"q": f"What colour is chair {i}?"} for i in range(30)))
    answers = [dataset[i].turns[1].text for i in range(30)]
    assert answers == [dataset[i].turns[1].text for i in range(30)]
    assert set(answers) == {"brown", "dark brown", "3"}


def test_a_caption_answers_the_question_of_the_training(videos: Path):
    captions = [{"idx": "0", "content": "A part."}, {"idx": "-1", "content": "The whole."}]
    sample = dataset_of(videos, {"video": "n5_fps5.mp4", "captions": captions}, num_frames=1)[0]
    assert [turn.text for turn in sample.turns] == [f"<image>\n{CAPTION_QUESTION}", "The whole."]


def test_text_cannot_smuggle_frames_or_control_tokens_in(videos: Path):
    record = {"video": "n5_fps5.mp4", "q": "<ima<image>ge> <|eot_id|>", "a": "<image> </s> yes"}
    sample = dataset_of(videos, record, num_frames=3)[0]
    assert sample.turns[0].text.count("<image>") == len(sample.media) == 3
    assert "<image>" not in sample.turns[1].text
    assert not any(token in turn.text for turn in sample.turns for token in ("<|eot_id|>", "</s>"))


def test_facts_told_by_a_record_spare_a_look_at_the_file(videos: Path):
    told = {"video": "nowhere.mp4", "q": "What?", "a": "x", "fps": 10, "frame_count": 100}
    dataset = dataset_of(videos, told, told | {"fps": None}, num_frames=3)
    assert indices(dataset) == [0, 49, 99]
    with pytest.raises(DataError, match=r"nowhere\.mp4 does not exist"):
        dataset[1]


def test_files_are_named_by_path_before_name_before_id(videos: Path):
    record = {"video_id": "n1_fps10", "video": "n2_fps10.mp4", "video_path": "n3_fps30.mp4", "q": "What?", "a": "x"}
    dataset = dataset_of(videos, record, {**record, "video_path": None}, {**record, "video_path": None, "video": None})
    assert [dataset[i].media[0].video.name for i in range(3)] == ["n3_fps30.mp4", "n2_fps10.mp4", "n1_fps10.mp4"]


def test_scanqa_lies_where_the_release_has_it(goldens: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no folder ScanQA.*ScanQA/annotations/ScanQA_v1\.0_train_reformat\.json"):
        VideoDataset.open("scanqa", tmp_path, LoadOptions())
    (tmp_path / "ScanQA" / "annotations").mkdir(parents=True)
    record = {"video_id": "n5_fps5", "q": "What?", "a": ["grey"]}
    (tmp_path / "ScanQA" / "annotations" / "ScanQA_v1.0_train_reformat.json").write_text(json.dumps([record]))
    with pytest.raises(DataError, match="lacks videos: fetch or unpack it"):
        VideoDataset.open("scanqa", tmp_path, LoadOptions())
    (tmp_path / "ScanQA" / "videos").symlink_to(goldens / "D_video_frames" / "videos")
    assert VideoDataset.open("scanqa", tmp_path, LoadOptions(num_frames=8))[0].source == "scanqa"
    # The folder itself will do.
    assert len(VideoDataset.open("scanqa", tmp_path / "ScanQA", LoadOptions())) == 1


def test_the_fingerprint_covers_what_decides_how_many_frames_are_shown(goldens: Path, tmp_path: Path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes((goldens / "D_video_frames" / "videos" / "n5_fps5.mp4").read_bytes())
    record = {"video": "clip.mp4", "q": "What?", "a": "x"}

    def fingerprint(**options) -> str:
        return VideoDataset.open("video", tmp_path, LoadOptions(**options)).fingerprint()

    dataset_of(tmp_path, record)
    before = fingerprint()
    assert before == fingerprint()
    assert len({before, fingerprint(num_frames=4), fingerprint(fps=2.0)}) == 3
    clip.write_bytes((goldens / "D_video_frames" / "videos" / "n3_fps30.mp4").read_bytes())
    assert fingerprint() != before
    clip.unlink()
    assert fingerprint() != before


def test_a_changed_video_is_looked_at_again(goldens: Path, tmp_path: Path):
    source = goldens / "D_video_frames" / "videos"
    clip = tmp_path / "clip.mp4"
    clip.write_bytes((source / "n5_fps5.mp4").read_bytes())
    assert known_videos().of(clip).frames == 5
    clip.write_bytes((source / "n45_fps15.mp4").read_bytes())
    os.utime(clip, ns=(1, 1))
    assert known_videos().of(clip) == VideoFacts(45, 15.0)
