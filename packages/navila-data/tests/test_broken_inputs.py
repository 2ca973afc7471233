"""Whatever a folder holds, each broken record is one counted failure that names it, and nothing else is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from navila.actions import LEGAL_ANSWERS
from navila.conversation import get_template
from navila.errors import DataError
from navila.images import ImageProcessor
from navila_data.collator import Collator
from navila_data.dataset import LoadOptions
from navila_data.failures import Failure, FailureLog
from navila_data.frames import FrameStore, PixelPipeline
from navila_data.mixture import Mixture
from navila_data.processor import EncodedMixture, Processor
from navila_data.sampler import EpochIndex
from navila_train.tokenizers import build_word_tokenizer
from PIL import Image

HALF = "\ud800"
Record = dict[str, Any]


def record_of(kind: str, medium: Any) -> Record:
    """A good record of a dataset about a medium."""
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A room."}]
    return {
        "vln": {"video_id": "1", "frames": [medium], "q": "Go.", "a": LEGAL_ANSWERS[0]},
        "llava": {"id": "1", "image": medium, "conversations": talk},
        "video": {"id": "1", "video": medium, "conversations": talk},
        "envdrop": {"video": medium, "instruction": "Turn left."},
    }[kind]


IMAGES, VIDEOS = ("vln", "llava"), ("video", "envdrop")
#: Folder of the media below that of the annotations.
MEDIA = {"vln": "train", "llava": "", "video": "videos", "envdrop": "videos"}
#: Fields that hold the texts of a record.
TEXTS = {
    "vln": ("q", "a", "video_id"),
    "llava": ("conversations",),
    "video": ("conversations",),
    "envdrop": ("instruction",),
}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good image and a good video, and the ways in which they break."""
    folder = tmp_path_factory.mktemp("media")
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise[0]).save(folder / "good.jpg")
    with av.open(str(folder / "good.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    for suffix in ("jpg", "mp4"):
        content = (folder / f"good.{suffix}").read_bytes()
        (folder / f"truncated.{suffix}").write_bytes(content[: len(content) * 6 // 10])
        (folder / f"empty.{suffix}").touch()
        (folder / f"text.{suffix}").write_text("<html>404 Not Found</html>")
        (folder / f"folder.{suffix}").mkdir()
        (folder / f"dangling.{suffix}").symlink_to(folder / "gone")
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return build_word_tokenizer(["Go.", "What is it?", "A room.", "Turn left."])


class Case:
    """A folder of one dataset, made of records, and what training makes of it."""

    def __init__(self, kind: str, folder: Path, media: Path, tokenizer: Any) -> None:
        self.kind, self.folder, self.tokenizer = kind, folder, tokenizer
        self.suffix = "jpg" if kind in IMAGES else "mp4"
        self.media = folder / MEDIA[kind]
        shutil.copytree(media, self.media, symlinks=True, dirs_exist_ok=True)

    def good(self, medium: Any = None) -> Record:
        return record_of(self.kind, f"good.{self.suffix}" if medium is None else medium)

    def write(self, records: Sequence[Mapping[str, Any] | bytes], *, bom: bool = False, newline: str = "\n") -> None:
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in records]
        content = newline.encode().join(lines)
        (self.folder / "annotations.json").write_bytes((b"\xef\xbb\xbf" if bom else b"") + content)

    def batch(self, *, mask: bool = False) -> dict[str, Any]:
        mixture = Mixture.open(f"{self.kind}:{self.folder}", None, LoadOptions(num_frames=2))
        template = get_template("llama_3")
        processor = Processor(tokenizer=self.tokenizer, template=template, tokens_per_image=4, max_length=2048)
        data = EncodedMixture(mixture, processor)
        pixels = PixelPipeline(ImageProcessor.square(16))
        collator = Collator(
            frames=FrameStore(pixels.resize), to_tensor=pixels.to_tensor, pad_token_id=0, mask_broken=mask
        )
        return collator([data[EpochIndex(0, i)] for i in range(len(mixture))])

    def failures(self) -> tuple[Failure, ...]:
        """Of a batch of all records; what is not among them is in it, and shows something."""
        batch = self.batch()
        notes = batch["notes"]
        for row in batch["labels"]:
            assert (row != -100).any()
        assert len(batch["labels"]) == notes.samples
        return notes.failures


@pytest.fixture
def case(kind: str, tmp_path: Path, media: Path, tokenizer) -> Case:
    return Case(kind, tmp_path, media, tokenizer)


all_kinds = pytest.mark.parametrize("kind", [*IMAGES, *VIDEOS])

PATHS = {
    "gone": "does not exist",
    "truncated": "truncated|breaks off|no video that can be read",
    "empty": "empty file|no video that can be read",
    "text": "no image|no video that can be read",
    "folder": "cannot be decoded|does not exist",
    "dangling": "does not exist",
    "../../secret": "leaves the data folder",
    "a/../../../secret": "leaves the data folder",
    "/etc/secret": "leaves the data folder",
    "nul\0": "media path",
    HALF: "half a character",
    "x" * 300: "cannot be|does not exist",
    "annotations.json/below": "Not a directory|does not exist",
}


@all_kinds
@pytest.mark.parametrize(("stem", "reason"), PATHS.items(), ids=[repr(stem)[:20] for stem in PATHS])
def test_a_broken_medium_costs_its_sample_alone_and_is_named(case: Case, stem: str, reason: str):
    name = f"{stem}.{case.suffix}"
    case.write([case.good(), case.good(name), case.good()])
    (failure,) = case.failures()
    assert re.search(reason, failure.reason), failure.reason
    assert f"{case.kind} record 1" in failure.reason
    assert case.batch()["notes"].samples == 2


@all_kinds
@pytest.mark.parametrize("value", [None, 7, True, [], {}, ["good"], {"path": 3}, ""], ids=repr)
def test_a_path_of_a_wrong_type_is_named(case: Case, value: Any):
    # A record without an image is a conversation without one.
    bad = case.good() | (
        {"frames": value} if case.kind == "vln" else {"image" if case.kind == "llava" else "video": value}
    )
    case.write([case.good(), bad, case.good()])
    failures = case.failures()
    if case.kind == "llava" and value in (None, []):
        assert not failures
        return
    assert len(failures) == 1
    assert f"{case.kind} record 1" in failures[0].reason


@all_kinds
@pytest.mark.parametrize("value", [None, 7, True, {}, "", f"a{HALF}b"], ids=repr)
def test_a_text_of_a_wrong_type_is_named(case: Case, value: Any):
    fields = TEXTS[case.kind]
    # An empty instruction is one, of which the release has some.
    bad = [case.good() | {field: value} for field in fields if not (field == "q" and value == "")]
    case.write([case.good(), *bad, case.good()])
    failures = case.failures()
    assert len(failures) == len(bad)
    assert all(f"record {number}" in failure.reason for number, failure in enumerate(failures, 1))


@pytest.mark.parametrize("kind", ["llava", "video"])
@pytest.mark.parametrize(
    "turns",
    [
        [],
        [3],
        ["human", "gpt"],
        [{"from": "human", "value": "Hi"}],
        [{"from": "gpt", "value": "Hi"}],
        [{"from": "human", "value": "Hi"}, {"from": "human", "value": "Hi"}],
        [{"from": ["human"], "value": "Hi"}, {"from": "gpt", "value": "Hi"}],
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": HALF}],
        [{"from": "human", "value": "Hi"}, {"from": "gpt"}],
    ],
    ids=repr,
)
def test_a_malformed_conversation_is_named(case: Case, turns: Any):
    case.write([case.good(), case.good() | {"conversations": turns}, case.good()])
    (failure,) = case.failures()
    assert "record 1" in failure.reason


@pytest.mark.parametrize("kind", ["video"])
@pytest.mark.parametrize(
    "change",
    [
        {"fps": "10", "frame_count": 6},
        {"fps": 10, "frame_count": -6},
        {"fps": float("nan"), "frame_count": 6},
        {"fps": 10, "frame_count": 600},
        {"fps": 10, "frame_count": 10**400},
        {"fps": 10**400, "frame_count": 6},
        {"captions": []},
        {"captions": [{"idx": "0", "content": "x"}]},
        {"captions": [{"idx": "-1", "content": 3}]},
        {"conversations": None, "q": "What?", "a": "x"},
    ],
    ids=repr,
)
def test_a_malformed_fact_of_a_video_is_named(case: Case, change: Record):
    case.write([case.good(), case.good() | change, case.good()])
    (failure,) = case.failures()
    assert "record 1" in failure.reason


LINES = {
    "oops": b"{oops}",
    "cut": b'{"video_id": "1", "fra',
    "number": b"3",
    "null": b"null",
    "list": b"[1]",
    "latin-1": b'{"q": "\xe9"}',
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits": b'{"a": ' + b"9" * 10_000 + b"}",
    "nothing": b"{}",
}


@all_kinds
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_that_is_no_record_is_named_with_its_number(case: Case, line: bytes):
    case.write([case.good(), line, case.good()])
    (failure,) = case.failures()
    assert re.search(r"annotations\.json, (line 2|record 1)", failure.reason), failure.reason


@all_kinds
@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r\n\r\n"])
def test_bom_windows_newlines_and_unicode_names_are_read(case: Case, bom: bool, newline: str):
    name = f"去 фото é.{case.suffix}"
    shutil.copy(case.media / f"good.{case.suffix}", case.media / name)
    case.write([case.good(name), case.good()], bom=bom, newline=newline)
    assert case.failures() == ()


@all_kinds
def test_links_are_followed_wherever_they_lead(case: Case, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(case.media / f"good.{case.suffix}", elsewhere / f"1.{case.suffix}")
    (case.media / f"link.{case.suffix}").symlink_to(elsewhere / f"1.{case.suffix}")
    (case.media / "linked").symlink_to(elsewhere, target_is_directory=True)
    case.write([case.good(f"link.{case.suffix}"), case.good(f"linked/1.{case.suffix}")])
    assert case.failures() == ()


@all_kinds
def test_records_with_one_id_are_counted_each(case: Case):
    broken = case.good(f"gone.{case.suffix}")
    case.write([broken, broken, case.good(), case.good()])
    log = FailureLog("skip", total=4, bound=0.5)
    log.note(case.batch()["notes"])
    assert len(log.failures) == 2
    with pytest.raises(DataError, match="2 of 4 samples are broken, more than 10%") as caught:
        FailureLog("skip", total=4, bound=0.1).note(case.batch()["notes"])
    assert str(caught.value).count(f"gone.{case.suffix} does not exist") == 2
    with pytest.raises(DataError, match="record 0"):
        FailureLog("raise", total=4).note(case.batch()["notes"])


@pytest.mark.parametrize("kind", IMAGES)
def test_masked_samples_keep_their_place_without_a_label(case: Case):
    case.write([case.good(), case.good("truncated.jpg")])
    batch = case.batch(mask=True)
    assert len(batch["labels"]) == 2
    assert torch.equal(batch["labels"][1], torch.full_like(batch["labels"][1], -100))
    assert len(batch["notes"].failures) == 1


@all_kinds
def test_an_unreadable_file_is_named(case: Case):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (case.media / f"good.{case.suffix}").chmod(0)
    case.write([case.good()])
    assert f"good.{case.suffix}" in case.failures()[0].reason


@all_kinds
def test_a_broken_record_stops_neither_the_order_by_episode_nor_the_balance(case: Case):
    case.write([case.good(), b"{oops}", case.good() | {"frames": 3, "image": 3, "video": 3}])
    mixture = Mixture.open(f"{case.kind}:{case.folder}", None, LoadOptions(num_frames=2), rebalance="auto")
    assert len(mixture.groups()) == len(mixture) >= 3
