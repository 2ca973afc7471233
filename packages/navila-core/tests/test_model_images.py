"""Pixels of images equal those the released checkpoints were trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.errors import CheckpointError, DataError
from navila.images import ImageProcessor, pad_to_square, process_image, process_images, read_image, resize
from PIL import Image

PROCESSORS = ("siglip384", "siglip224", "clip336", "clip224")


@pytest.fixture(scope="module")
def folder(goldens: Path) -> Path:
    return goldens / "E_process_images"


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Any:
    return json.loads((folder / "cases.json").read_text())


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_bit_for_bit_those_of_the_original(folder: Path, recorded: Any, name: str) -> None:
    processor = ImageProcessor.from_pretrained(folder / "processors" / name)
    cases = [case for case in recorded["cases"] if case["processor"] == name and "error" not in case]
    assert len(cases) > 10
    for case in cases:
        image = Image.open(folder / "images" / f"{case['image']}.png")
        pixels = process_image(image, processor, case["image_aspect_ratio"])
        assert list(pixels.shape) == case["shape"], case["key"]
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["sha256_float32"], case["key"]


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_image_of_one_pixel_is_processed_in_every_mode(folder: Path, name: str) -> None:
    processor = ImageProcessor.from_pretrained(folder / "processors" / name)
    image = Image.open(folder / "images" / "rgb_1x1.png")
    pixels = [process_image(image, processor, mode) for mode in ("resize", "pad", None)]
    assert all(np.array_equal(pixels[0], other) for other in pixels[1:])


def test_padding_to_a_square_is_that_of_the_original(folder: Path, recorded: Any) -> None:
    for name, want in recorded["expand2square_bg_122_116_104"].items():
        image = Image.open(folder / "images" / f"{name}.png")
        square = pad_to_square(image, (122, 116, 104) if image.mode == "RGB" else (122,))
        assert list(square.size) == want["size"]
        assert hashlib.sha256(square.tobytes()).hexdigest() == want["sha256_uint8"], name


def test_images_of_any_size_stack(folder: Path) -> None:
    processor = ImageProcessor.from_pretrained(folder / "processors" / "siglip224")
    images = [Image.new("RGB", size, (9, 99, 199)) for size in ((10, 20), (640, 480), (224, 224))]
    pixels = process_images(images, processor)
    assert pixels.shape == (3, 3, 224, 224)
    assert pixels.dtype == np.float32
    assert process_images([], processor).shape == (0, 3, 224, 224)


def test_images_that_do_not_stack_are_refused() -> None:
    processor = ImageProcessor.from_dict(
        {"size": {"shortest_edge": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    )
    with pytest.raises(DataError, match="image_aspect_ratio"):
        process_images([Image.new("RGB", (64, 32)), Image.new("RGB", (32, 32))], processor, None)


def test_a_crop_larger_than_the_image_is_filled_with_black() -> None:
    raw = {"do_resize": False, "do_center_crop": True, "crop_size": 8, "do_normalize": False}
    pixels = ImageProcessor.from_dict(raw)(Image.new("RGB", (4, 4), (255, 255, 255)))
    assert pixels.shape == (3, 8, 8)
    assert pixels[:, 2:6, 2:6].min() == pytest.approx(1.0)
    assert pixels.sum() == pytest.approx(3 * 16)


def test_resizing_runs_the_horizontal_pass_first() -> None:
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (90, 60, 3), dtype=np.uint8))
    method = Image.Resampling.BICUBIC
    assert np.array_equal(resize(image, (30, 20)), image.resize((30, 90), method).resize((30, 20), method))


def test_the_processor_survives_saving(folder: Path, tmp_path: Path) -> None:
    processor = ImageProcessor.from_pretrained(folder / "processors" / "clip336")
    processor.save_pretrained(tmp_path)
    assert ImageProcessor.from_pretrained(tmp_path) == processor
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written == json.loads((folder / "processors" / "clip336" / "preprocessor_config.json").read_text())


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
        ImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        ImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": "big"}')
    with pytest.raises(CheckpointError, match="size 'big'"):
        ImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="no image"):
        read_image(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(tmp_path / "half.jpg")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "a list where a JSON object"),
        ('{"size": {"height": 0, "width": 0}}', "size {'height': 0"),
        ('{"image_mean": [0.5, 0.5]}', "image_mean [0.5, 0.5]"),
        ('{"image_mean": ["a", "b", "c"]}', "image_mean ['a'"),
        ('{"image_mean": 0.5}', "image_mean 0.5"),
        ('{"image_std": [0, 0, 0]}', "image_std [0, 0, 0]"),
        ('{"resample": "cubic"}', "resample 'cubic'"),
        ('{"resample": 99}', "resample 99"),
        ('{"rescale_factor": "1/255"}', "rescale_factor '1/255'"),
    ],
)
def test_a_field_of_another_form_is_told_with_its_folder(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(CheckpointError) as told:
        ImageProcessor.from_pretrained(tmp_path)
    assert said in str(told.value)
    assert str(tmp_path) in str(told.value)


def test_an_image_too_large_to_be_one_is_named(tmp_path: Path) -> None:
    # A few hundred bytes that claim to be 900 megapixels.
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png cannot be decoded"):
        read_image(tmp_path / "bomb.png")
