"""What the files of a shard become: captions, dialogues, documents and questions, as VILA's training read them."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from navila.errors import DataError
from navila_data.dataset import LoadOptions
from navila_data.frames import FrameStore
from navila_data.media import Base64, TarMember, VideoFrame
from navila_data.mixture import Mixture
from navila_data.sample import Turn
from navila_dataset_webdataset.dataset import WebDataset
from PIL import Image


def picture(level: int, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(content, kind)
    return content.getvalue()


def video(frames: int) -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 32
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    return content.getvalue()


def dataset_of(folder: Path, files: dict[str, Any], name: str = "webdataset", **options: Any) -> WebDataset:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for file, content in files.items():
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(file)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return WebDataset.open(name, folder, LoadOptions(**options))


def levels(media: tuple) -> list[int]:
    """The grey each medium shows."""
    frames = FrameStore(np.asarray).load(media)
    return [int(np.asarray(frames[medium])[0, 0, 0]) for medium in media]


def conversation(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if number % 2 else "human", "value": text} for number, text in enumerate(texts)]


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "PNG"])
def test_a_caption_is_a_text_or_the_answer_to_its_image(tmp_path: Path, extension: str):
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}.get(extension, "PNG")
    files = {f"a.{extension}": picture(40, kind), "a.txt": b"A grey <image> wall.\n"}
    sample = dataset_of(tmp_path, files)[0]
    assert sample.turns == (Turn("assistant", "<image>A grey < image> wall."),)
    assert abs(levels(sample.media)[0] - 40) <= 2
    chat = WebDataset.open("webdataset-chat", tmp_path, LoadOptions())[0]
    assert chat.turns == (Turn("user", "<image>"), Turn("assistant", "A grey < image> wall."))


def test_a_caption_stands_in_a_text_file_or_else_in_json(tmp_path: Path):
    files = {"a.png": picture(1), "a.txt": b"\xef\xbb\xbfText.", "a.json": {"caption": "Other.", "url": "http://x"}}
    files |= {"b.png": picture(2), "b.json": {"caption": "Caption."}, "c.png": picture(3), "c.json": {"text": "T."}}
    files |= {"d.json": {"text": "Inline.", "image": base64.b64encode(picture(4)).decode()}}
    dataset = dataset_of(tmp_path, files)
    assert [s.turns[0].text for s in dataset] == [f"<image>{t}" for t in ("Text.", "Caption.", "T.", "Inline.")]
    assert [levels(s.media) for s in dataset] == [[1], [2], [3], [4]]


def test_a_video_shows_frames_spread_over_it(tmp_path: Path):
    dataset = dataset_of(tmp_path, {"a.mp4": video(7), "a.txt": b"It gets brighter."}, num_frames=3)
    sample = dataset[0]
    assert sample.turns == (Turn("assistant", "<image>\n<image>\n<image>\nIt gets brighter."),)
    assert [m.index for m in sample.media if isinstance(m, VideoFrame)] == [0, 3, 6]
    shown = levels(sample.media)
    assert shown == sorted(shown)
    assert shown[2] - shown[0] > 100


def test_a_dialogue_shows_the_images_it_names(tmp_path: Path):
    said = conversation("<image>\nLeft?", "Red <|eot_id|>.", "And?", "Blue.")
    two = conversation("<image> <image> Which?", "The first.")
    files = {
        "a.png": picture(1),
        "a.json": {"image": "coco/renamed.png", "conversations": said},
        "b.0.png": picture(2),
        "b.1.png": picture(3),
        "b.json": {"image": ["b.1.png", "0.png"], "conversations": two},
        "c.10.png": picture(4),
        "c.9.png": picture(5),
        "c.json": {"conversations": two},
        "d.json": {"conversations": conversation("Hi.", "Hello.")},
    }
    dataset = dataset_of(tmp_path, files)
    assert [turn.text for turn in dataset[0].turns] == ["<image>\nLeft?", "Red < |eot_id|>.", "And?", "Blue."]
    assert [levels(dataset[i].media) for i in range(4)] == [[1], [3, 2], [5, 4], []]


def test_a_document_has_each_image_before_the_sentence_it_was_matched_to(tmp_path: Path):
    """Six images at most, the first of the list; the rules are those of VILA's MMC4."""
    places = [2, 0, 2, 1, 0, 2, 1]
    infos = [
        {"image_base64": base64.b64encode(picture(n)).decode(), "matched_text_index": place}
        for n, place in enumerate(places)
    ]
    record = {"text_list": ["One.", "Two <image>.", "Three."], "image_info": infos, "similarity_matrix": []}
    sample = dataset_of(tmp_path, {"a.json": record})[0]
    mark = "<image>\n"
    assert sample.turns == (Turn("assistant", f"{mark}{mark}One.{mark}Two < image>.{mark}{mark}{mark}Three."),)
    assert levels(sample.media) == [1, 4, 3, 0, 2, 5]
    assert all(isinstance(medium, Base64) for medium in sample.media)


def test_a_documents_images_may_be_files_and_it_may_have_none(tmp_path: Path):
    infos = [{"image_name": "b.png", "matched_text_index": 1}, {"image_name": "a.png", "matched_text_index": 0}]
    files = {"k.a.png": picture(1), "k.b.png": picture(2), "k.json": {"text_list": ["A.", "B."], "image_info": infos}}
    files |= {"l.json": {"text_list": ["Only", "text."], "image_info": None}}
    dataset = dataset_of(tmp_path, files)
    assert (dataset[0].turns[0].text, levels(dataset[0].media)) == ("<image>\nA.<image>\nB.", [1, 2])
    assert (dataset[1].turns, dataset[1].media) == ((Turn("assistant", "Only text."),), ())


def test_a_question_shows_its_images_in_front(tmp_path: Path):
    inline = base64.b64encode(picture(7)).decode()
    files = {
        "a.json": {"question": "What <image>\nis it?\n", "answer:": "A cat. \n", "image:": [inline, "0.png"]},
        "a.0.png": picture(8),
        "b.json": {"question": "2 + 2?", "answer": "4"},
    }
    dataset = dataset_of(tmp_path, files)
    assert [turn.text for turn in dataset[0].turns] == ["<image>\n<image>\nWhat is it?", "A cat."]
    assert levels(dataset[0].media) == [7, 8]
    assert [turn.text for turn in dataset[1].turns] == ["2 + 2?", "4"]


def test_a_dialogue_in_one_question_becomes_turns(tmp_path: Path):
    question = "Image Descriptions: a cat\nQuestion: One?\nAnswer: 1\nQuestion: Two?\nAnswer: 2\nQuestion: Three?\n"
    dataset = dataset_of(tmp_path, {"a.json": {"question": question, "answer": "3"}, "a.jpg": picture(9)})
    assert [turn.text for turn in dataset[0].turns] == ["<image>\nOne?", "1", "Two?", "2", "Three?", "3"]


def test_base64_with_escaped_slashes_and_data_urls_is_read(tmp_path: Path):
    rng = np.random.default_rng(0)
    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(content, "PNG")
    spelled = base64.b64encode(content.getvalue()).decode()
    assert "/" in spelled
    raw = json.dumps({"text": "A.", "image": f"data:image/png;base64,{spelled}"}).replace("/", "\\/").encode()
    medium = dataset_of(tmp_path, {"a.json": raw})[0].media[0]
    expected = np.asarray(Image.open(content))
    np.testing.assert_array_equal(FrameStore(np.asarray).load([medium])[medium], expected)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"a.png": b"x"}, "no caption"),
        ({"a.txt": b"Text."}, "no image or video"),
        ({"a.png": b"x", "a.txt": b" \n"}, "caption is empty"),
        ({"a.png": b"x", "a.txt": b"\xff\xfe"}, "not UTF-8"),
        ({"a.png": b"x", "a.json": b"{"}, "json cannot be read"),
        ({"a.png": b"x", "a.json": b"[1]"}, "must be an object, not list"),
        ({"a.png": b"x", "a.json": {"caption": 3}}, "must be a text"),
        ({"a.png": b"x", "a.json": b'{"caption": "\\ud800"}'}, "half a character"),
        ({"a.json": {"conversations": "x"}}, "list of turns"),
        ({"a.json": {"image": "b.png", "conversations": conversation("<image>", "x")}}, "no image 'b.png'"),
        ({"a.json": {"image": 7, "conversations": conversation("<image>", "x")}}, "file name or base64"),
        ({"a.json": {"conversations": conversation("<image>", "x")}}, "1 <image> in its text and 0 media"),
        ({"a.mp4": b"x", "a.json": {"conversations": conversation("<image>", "x")}}, "use the dataset video"),
        ({"a.json": {"text_list": "x"}}, "list of texts"),
        ({"a.json": {"text_list": ["x"], "image_info": [3]}}, "list of objects"),
        ({"a.json": {"text_list": ["x"], "image_info": [{"matched_text_index": 1}]}}, "there are 1 sentences"),
        ({"a.json": {"text_list": ["x"], "image_info": [{"matched_text_index": 0}]}}, "file name or base64"),
        ({"a.json": {"text_list": [" "]}}, "no text"),
        ({"a.json": {"question": "x"}}, '"answer" must be'),
        ({"a.json": {"question": "x", "answer": "y", "image": ["z"] * 9}}, "9 images, more than 8"),
        ({"a.json": {"question": "Image Descriptions\nQuestion: x\nAnswer: y", "answer": "z"}}, "take turns"),
        ({"a.mp4": b"x", "a.txt": b"Text."}, "a.mp4"),
    ],
)
def test_a_malformed_sample_is_named_with_its_shard(tmp_path: Path, files: dict[str, Any], match: str):
    dataset = dataset_of(tmp_path, files | {"z.png": picture(1), "z.txt": b"Good."})
    assert dataset[1].turns
    with pytest.raises(DataError, match=match) as caught:
        dataset[0]
    assert "0.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_base64_is_named(tmp_path: Path):
    medium = dataset_of(tmp_path, {"a.json": {"text": "A.", "image": "A" * 101}})[0].media[0]
    with pytest.raises(DataError, match="cannot be decoded"):
        FrameStore(np.asarray).load([medium])


def test_names_say_how_files_belong_together(tmp_path: Path):
    dataset_of(tmp_path, {"a.b.png": picture(1), "a.b.txt": b"Text.", "a.c.png": picture(2), "a.c.txt": b"Other."})
    with pytest.raises(DataError, match="no caption"):
        WebDataset.open("webdataset", tmp_path, LoadOptions())[0]
    sample = WebDataset.open("vila-webdataset", tmp_path, LoadOptions())[1]
    assert sample.turns[0].text == "<image>Other."
    assert sample.record == "a.c of 0.tar"


def test_a_mixture_takes_a_part_of_a_folder(tmp_path: Path):
    dataset_of(tmp_path, {f"{n}.{e}": picture(n) if e == "png" else b"T." for n in range(5) for e in ("png", "txt")})
    mixture = Mixture.open(f"webdataset:{tmp_path}[1:3]")
    assert [levels(mixture[i].media) for i in range(len(mixture))] == [[1], [2]]
    assert isinstance(mixture[0].media[0], TarMember)


def test_the_rest_of_a_broken_shard_is_told_when_it_is_read_and_not_before(tmp_path: Path):
    dataset_of(tmp_path, {"a.png": picture(1), "a.txt": b"Text.", "b.png": picture(2), "b.txt": b"Text."})
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:2570])
    mixture = Mixture.open(f"webdataset:{tmp_path}")
    assert [group for _, group in mixture.groups()] == ["0.tar/a", ""]
    assert mixture[0].turns
    with pytest.raises(DataError, match=r"0\.tar is cut off at byte 2570 inside b\.png"):
        mixture[1]
