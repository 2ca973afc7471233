"""Batches: each frame once, labels on the answer, black only where the format says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from navila.actions import LEGAL_ANSWERS
from navila.conversation import get_template
from navila.errors import DataError
from navila.images import ImageProcessor, process_images, read_image
from navila_data.collator import Collator
from navila_data.dataset import LoadOptions
from navila_data.failures import BatchNotes, Failure, FailureLog
from navila_data.frames import FrameStore, PixelPipeline
from navila_data.mixture import Mixture
from navila_data.processor import EncodedMixture, Processor
from navila_data.sample import Sample, Turn
from navila_data.sampler import EpochIndex
from navila_train.tokenizers import build_word_tokenizer
from PIL import Image

STEPS = 12


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One episode of twelve real, different frames."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "train" / "0").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(STEPS):
        pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "train" / "0" / f"frame_{i}.png")
    records = [
        {
            "video_id": f"0-{i}",
            "frames": [f"0/frame_{k}.png" for k in range(i + 1)],
            "q": "Go to the sofa.",
            "a": LEGAL_ANSWERS[i % 10],
        }
        for i in range(STEPS)
    ]
    (folder / "annotations.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return build_word_tokenizer(["Go to the sofa."])


def processor_of(tokenizer, **options) -> Processor:
    return Processor(
        tokenizer=tokenizer, template=get_template("llama_3"), tokens_per_image=4, max_length=512, **options
    )


def collator_of(tokenizer, store: FrameStore | None = None) -> Collator:
    pixels = PixelPipeline(ImageProcessor.square(32))
    return Collator(
        frames=store or FrameStore(pixels.resize),
        to_tensor=pixels.to_tensor,
        pad_token_id=tokenizer.pad_token_id,
    )


def test_a_frame_that_many_samples_show_is_encoded_once(walk: Path, tokenizer):
    data = EncodedMixture(Mixture.open(f"vln:{walk}"), processor_of(tokenizer))
    items = [data[EpochIndex(0, i)] for i in range(STEPS)]
    batch = collator_of(tokenizer)(items)
    assert len(batch["image_index"]) == int((batch["input_ids"] == -200).sum()) == 8 * STEPS
    assert len(batch["pixel_values"]) == STEPS + 1  # twelve frames and black
    shown = batch["pixel_values"][batch["image_index"]].reshape(STEPS, 8, 3, 32, 32)
    processor = ImageProcessor.square(32)
    for item, images in zip(items, shown, strict=True):
        pictures = [Image.new("RGB", (448, 448)) if path is None else Image.open(path) for path in item.media]
        assert torch.equal(images, torch.from_numpy(process_images(pictures, processor)))


def test_rows_are_padded_and_only_answers_are_learned(walk: Path, tokenizer):
    data = EncodedMixture(Mixture.open(f"vln:{walk}"), processor_of(tokenizer))
    text = Sample(turns=(Turn("user", "Hi"), Turn("assistant", "Go")), source="x", record="0")
    long = data[EpochIndex(0, 3)]
    batch = collator_of(tokenizer)([long, processor_of(tokenizer).encode(text)])
    assert batch["attention_mask"].sum(1).tolist()[0] == len(long.input_ids)
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        assert (labels[mask == 0] == -100).all()
        assert (ids[mask == 0] == tokenizer.pad_token_id).all()
        assert ((labels == -100) | (labels == ids)).all()
    learned = [tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert learned == [f"{LEGAL_ANSWERS[3]}<|end_of_text|>", "Go<|end_of_text|>"]


def test_a_batch_without_images_has_no_pixels(tokenizer):
    sample = Sample(turns=(Turn("user", "Hi"), Turn("assistant", "Go")), source="x", record="0")
    assert "pixel_values" not in collator_of(tokenizer)([processor_of(tokenizer).encode(sample)])


@pytest.mark.parametrize(("aspect", "size"), [("resize", (50, 40)), ("pad", (50, 40)), ("resize", (32, 32))])
def test_pixels_equal_the_models_own_preprocessing(aspect: str, size: tuple[int, int]):
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    processor = ImageProcessor.square(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    pipeline = PixelPipeline(processor, aspect)
    expected = torch.from_numpy(process_images([image], processor, aspect))
    assert torch.equal(pipeline.to_tensor(pipeline.resize(image)[None]), expected)


def test_the_frame_store_keeps_its_bound(walk: Path):
    pixels = PixelPipeline(ImageProcessor.square(32))
    decoded: list[Image.Image] = []

    def resize(image: Image.Image):
        decoded.append(image)
        return pixels.resize(image)

    store = FrameStore(resize, max_bytes=3 * 32 * 32 * 3)
    paths = sorted((walk / "train" / "0").iterdir())[:4]
    decoded.clear()
    for path in (*paths[:3], *paths[:3]):
        store.load([path])
    assert len(decoded) == 3
    store.load([paths[3]])
    store.load([paths[0]])
    assert len(decoded) == 5, "the oldest frame made room for the fourth"


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_unreadable_images_are_named(tmp_path: Path, content: bytes | None):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg"):
        read_image(path)


def test_a_truncated_jpeg_is_an_error_and_not_half_grey(tmp_path: Path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"a\.jpg cannot be decoded"):
        read_image(path)


def test_history_is_dropped_at_random_and_reproducibly(walk: Path, tokenizer):
    mixture = Mixture.open(f"vln:{walk}")

    def lost(seed: int, epoch: int) -> list[bool]:
        data = EncodedMixture(mixture, processor_of(tokenizer, history_dropout=0.5, seed=seed))
        media = [data[EpochIndex(epoch, i)].media for i in range(1, STEPS)]
        assert all(paths[-1] is not None for paths in media), "the current frame stays"
        assert {sum(path is not None for path in paths[:-1]) for paths in media} - set(range(1, 8)) <= {0}
        return [not any(paths[:-1]) for paths in media]

    first = lost(0, 0)
    assert 0 < sum(first) < len(first)
    assert lost(0, 0) == first
    assert first not in (lost(0, 1), lost(1, 0))


def test_a_step_that_is_too_long_loses_its_oldest_frames(walk: Path, tokenizer):
    data = EncodedMixture(Mixture.open(f"vln:{walk}"), processor_of(tokenizer))
    whole = data[EpochIndex(0, 11)]
    data.processor.max_length = data.processor.length(whole) - 1
    short = data[EpochIndex(0, 11)]
    assert short.shortened
    assert not whole.shortened
    assert short.media == whole.media[1:]
    # It reads as the same step shown with one frame less.
    options = LoadOptions(num_frames=7)
    fewer = processor_of(tokenizer).encode(Mixture.open(f"vln:{walk}", options=options)[11])
    assert (short.input_ids, short.labels) == (fewer.input_ids, fewer.labels)
    assert collator_of(tokenizer)([short, whole])["notes"].shortened == 1


def test_a_dialogue_that_is_too_long_loses_its_last_turns(tokenizer):
    turns = (
        Turn("user", "<image>\nHi"),
        Turn("assistant", "Go"),
        Turn("user", "<image>\nAnd?"),
        Turn("assistant", "x"),
    )
    sample = Sample(turns=turns, media=(None, None), source="x", record="0")
    first = processor_of(tokenizer).encode(replace(sample, turns=turns[:2], media=(None,)))
    processor = processor_of(tokenizer)
    processor.max_length = processor.length(first)
    short = processor.encode(sample)
    assert (short.input_ids, short.labels, short.media) == (first.input_ids, first.labels, first.media)
    assert short.shortened


def test_what_is_too_long_even_so_is_refused_and_never_cut(walk: Path, tokenizer):
    data = EncodedMixture(Mixture.open(f"vln:{walk}"), processor_of(tokenizer))
    data.processor.max_length = 20
    failure = data[EpochIndex(0, 5)]
    assert isinstance(failure, Failure)
    assert "the model 20" in failure.reason


def test_a_packed_row_keeps_samples_apart_by_positions(walk: Path, tokenizer):
    data = EncodedMixture(Mixture.open(f"vln:{walk}"), processor_of(tokenizer))
    items = [data[EpochIndex(0, i)] for i in (3, 0, 7)]
    collator = collator_of(tokenizer)
    collator.packed = True
    batch = collator(items)
    assert batch["input_ids"].tolist() == [[token for item in items for token in item.input_ids]]
    assert batch["position_ids"].tolist() == [[place for item in items for place in range(len(item.input_ids))]]
    starts = (batch["position_ids"] == 0).nonzero()[:, 1]
    assert (batch["labels"][0, starts] == -100).all()
    assert "attention_mask" not in batch
    assert len(batch["image_index"]) == 24


def failed(*numbers: int) -> BatchNotes:
    failures = tuple(Failure(f"sample {i}", f"Image {i}.jpg does not exist.") for i in numbers)
    return BatchNotes(samples=1, shortened=0, failures=failures)


def test_more_broken_samples_than_the_bound_stop_the_run():
    log = FailureLog("skip", total=1000, bound=0.01)
    for _ in range(2):
        log.note(failed(*range(10)))
    with pytest.raises(DataError, match=r"11 of 1000 samples are broken, more than 1%.*0\.jpg"):
        log.note(failed(10))


def test_the_first_broken_sample_stops_a_run_that_asks_for_it():
    with pytest.raises(DataError, match=r"7\.jpg"):
        FailureLog("raise", total=1000).note(failed(7))


def test_a_batch_of_nothing_but_broken_samples_learns_nothing(tokenizer):
    batch = collator_of(tokenizer)([Failure("sample 0", "broken")])
    assert (batch["labels"] == -100).all()
    assert batch["input_ids"].shape == (1, 1)
    assert batch["notes"].failures == (Failure("sample 0", "broken"),)
