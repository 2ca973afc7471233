"""Fast decoding gives what exact decoding gives, a level off at few pixels."""

from __future__ import annotations

import builtins
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.errors import ConfigError, DataError, MissingDependencyError
from navila.images import ImageProcessor, process_image, read_image
from navila_data.fast_images import read_pixels
from navila_data.frames import PixelPipeline
from PIL import Image

CLIP = {
    "do_resize": True,
    "size": {"shortest_edge": 56},
    "do_center_crop": True,
    "crop_size": {"height": 56, "width": 56},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth patches of colour with grain, as photographs have."""
    rng = np.random.default_rng(width * height)
    patches = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    grain = rng.integers(-8, 9, (height, width, 3))
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).convert(mode)


def turned(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(64, 48).save(file, exif=exif)


def sixteen_bits(file: Path) -> None:
    Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21).save(file)


def with_alpha(file: Path) -> None:
    image = picture(64, 48)
    image.putalpha(Image.linear_gradient("L").resize((64, 48)))
    image.save(file)


def palette_with_transparency(file: Path) -> None:
    picture(64, 48).quantize(16).save(file, transparency=3)


#: Kinds of files, those that simplejpeg decodes and those that it leaves.
FILES: dict[str, Callable[[Path], Any]] = {
    "plain.jpg": lambda file: picture(64, 48).save(file),
    "fine.jpg": lambda file: picture(64, 48).save(file, subsampling="4:4:4", quality=98),
    "halved.jpg": lambda file: picture(101, 67).save(file, subsampling="4:2:2", quality=60),
    "quartered.jpg": lambda file: picture(101, 67).save(file, subsampling="4:2:0", quality=20, optimize=True),
    "restarts.jpg": lambda file: picture(101, 67).save(file, restart_marker_blocks=3),
    "progressive.jpg": lambda file: picture(101, 67).save(file, progressive=True),
    "grey.jpg": lambda file: picture(64, 48, "L").save(file),
    "print.jpg": lambda file: picture(64, 48, "CMYK").save(file),
    "rgb.jpg": lambda file: picture(64, 48).save(file, keep_rgb=True),
    "turned.jpg": turned,
    "sixteen.png": sixteen_bits,
    "alpha.png": with_alpha,
    "palette.png": palette_with_transparency,
    "bits.png": lambda file: picture(64, 48, "1").save(file),
    "moving.gif": lambda file: picture(64, 48, "P").save(file, save_all=True, append_images=[picture(64, 48, "P")]),
    "web.webp": lambda file: picture(64, 48).save(file),
    "wrongly_named.jpg": lambda file: picture(64, 48).save(file, "PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_decoded_to_the_same_pixels(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    expected = np.asarray(read_image(tmp_path / name))
    assert np.array_equal(read_pixels(tmp_path / name), expected)
    with (tmp_path / name).open("rb") as file:
        assert np.array_equal(read_pixels(file), expected)


@pytest.mark.parametrize("aspect", ["resize", "pad", None])
@pytest.mark.parametrize(
    "processor", [ImageProcessor.square(64), ImageProcessor.from_dict(CLIP)], ids=["squash", "crop"]
)
@pytest.mark.parametrize("size", [(640, 480), (300, 500), (64, 64), (56, 90), (41, 17), (1, 1)])
def test_photographs_come_out_at_most_a_level_off(
    tmp_path: Path, aspect: str | None, processor: ImageProcessor, size: tuple[int, int]
) -> None:
    picture(*size).save(tmp_path / "a.jpg", quality=90)
    exact = PixelPipeline(processor, aspect)
    fast = PixelPipeline(processor, aspect, decoding="fast")
    expected = exact.read(tmp_path / "a.jpg").astype(int)
    got = fast.read(tmp_path / "a.jpg")
    assert got.dtype == np.uint8
    apart = np.abs(got - expected)
    assert apart.max() <= 1
    assert apart.mean() < 0.02
    # Frames of videos come as images.
    assert np.array_equal(fast.resize(read_image(tmp_path / "a.jpg")), got)


def test_noise_comes_out_at_most_two_levels_off() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    processor = ImageProcessor.square(224)
    exact, fast = PixelPipeline(processor), PixelPipeline(processor, decoding="fast")
    apart = np.abs(fast.resize(Image.fromarray(noise)).astype(int) - exact.resize(Image.fromarray(noise)))
    assert apart.max() <= 2
    assert (apart > 1).mean() < 1e-4


@pytest.mark.parametrize("turbo", [True, False], ids=["simplejpeg", "pillow"])
@pytest.mark.parametrize("aspect", ["resize", "pad", None])
def test_exact_decoding_equals_what_a_model_does_to_an_image(
    tmp_path: Path, aspect: str | None, turbo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = ImageProcessor.from_dict(CLIP)
    monkeypatch.setattr("navila_data.frames.has_same_jpegs", lambda: turbo)
    pixels = PixelPipeline(processor, aspect)
    for name, write in FILES.items():
        write(tmp_path / name)
        whole = pixels.to_tensor(pixels.read(tmp_path / name)[None])[0].numpy()
        assert np.array_equal(whole, process_image(read_image(tmp_path / name), processor, aspect)), name


def result(read: Callable[[Path], Any], file: Path) -> bytes | str:
    """The pixels, or what is wrong."""
    try:
        return np.asarray(read(file)).tobytes()
    except DataError as error:
        return str(error)


def test_damaged_jpegs_are_told_as_by_exact_decoding(tmp_path: Path) -> None:
    picture(640, 480).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    middle = len(whole) // 2
    for content in (b"", whole[:2], whole[:200], whole[:middle], whole[:middle] + bytes(999) + whole[middle + 999 :]):
        (tmp_path / "b.jpg").write_bytes(content)
        assert result(read_pixels, tmp_path / "b.jpg") == result(read_image, tmp_path / "b.jpg")
    with pytest.raises(DataError, match="does not exist"):
        read_pixels(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        read_pixels(tmp_path)


def test_an_image_too_large_to_decode_is_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(64, 48).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="decompression bomb"):
        read_pixels(tmp_path / "a.jpg")


def test_what_fast_decoding_needs_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lanczos = ImageProcessor(height=32, width=32, resample=int(Image.Resampling.LANCZOS))
    with pytest.raises(ConfigError, match="no fast lanczos resize"):
        PixelPipeline(lanczos, decoding="fast")
    with pytest.raises(ConfigError, match="choose exact or fast"):
        PixelPipeline(lanczos, decoding="quick")  # pyright: ignore[reportArgumentType]
    plain = builtins.__import__

    def without_simplejpeg(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "simplejpeg":
            raise ImportError(name)
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_simplejpeg)
    with pytest.raises(MissingDependencyError, match=r"navila-data\[fast\]"):
        PixelPipeline(ImageProcessor.square(32), decoding="fast")


def test_an_open_file_is_read_from_where_it_is(tmp_path: Path) -> None:
    content = io.BytesIO()
    picture(64, 48).save(content, "PNG")
    content.seek(0)
    assert read_pixels(content).shape == (48, 64, 3)
