"""CPU time from a JPEG file to the pixels a vision tower takes, beside transformers' own image processor.

    python benchmarks/image_tensors.py [--size 384] [--images 20] [--rounds 5]

Images are patches of colour with grain, of 640 x 480 and 1280 x 720 pixels. `exact` must give the same bits as the
peer, `fast` pixels one level (1/255) off, two at a few in a million, as 8 bits. The model normalises those itself:
`fast and normalised` counts that too. `frame cache` is `--frame_cache_dir` in a later epoch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch is imported: the figures are for one core.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import side_by_side

PEER = "transformers, slow (Pillow)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384, help="side of the vision tower's images (default: 384)")
    parser.add_argument("--images", type=int, default=20, help="images a round (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="times every method is measured (default: 5)")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    side_by_side.print_machine()
    for width, height in ((640, 480), (1280, 720)):
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{i}.jpg" for i in range(options.images)]
            for seed, file in enumerate(files):
                make_image(file, width, height, seed)
            compare(files, Path(folder), options.size, options.rounds)


def make_image(file: Path, width: int, height: int, seed: int) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    pixels = np.asarray(patches.resize((width, height))) * 0.95 + rng.integers(0, 12, (height, width, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(file, quality=90)


def methods_of(size: int, folder: Path) -> dict[str, Callable[[Path], Any]]:
    """(3, H, W) pixels of a file, by every method there is here: float32, or uint8 of `fast`."""
    import torch
    from navila.images import ImageProcessor
    from navila_data.frame_cache import FrameCache
    from navila_data.frames import FrameStore, PixelPipeline
    from PIL import Image

    processor = ImageProcessor.square(size)
    exact, fast = PixelPipeline(processor), PixelPipeline(processor, decoding="fast")
    cache = FrameCache(folder / "cache", exact.fingerprint(), max_bytes=1 << 30)
    # One frame in memory: all others come from the disk.
    store = FrameStore(exact.resize, read=exact.read, cache=cache, max_bytes=1)

    def stock(processors: Any) -> Callable[[Path], Any]:
        sides = {"height": size, "width": size}
        made = processors(size=sides, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=Image.Resampling.BICUBIC)
        return lambda file: made(Image.open(file).convert("RGB"), return_tensors="pt").pixel_values[0]

    found: dict[str, Callable[[Path], Any]] = {}
    try:
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    except ImportError:
        from transformers import SiglipImageProcessor as SiglipImageProcessorPil
    found[PEER] = stock(SiglipImageProcessorPil)
    try:
        import torchvision  # noqa: F401
        from transformers import SiglipImageProcessor

        found["transformers, torchvision"] = stock(SiglipImageProcessor)
    except (ImportError, RuntimeError) as error:
        print(f"without torchvision ({error})")
    found["navila, exact"] = lambda file: exact.to_tensor(exact.read(file)[None])[0]
    found["navila, fast"] = lambda file: fast.to_tensor(fast.read(file)[None])[0]
    scale, shift = (torch.from_numpy(values)[:, None, None] for values in processor.scale_and_shift())

    def normalised(file: Path) -> torch.Tensor:
        # As `NavilaForCausalLM.vision_features` does.
        levels = found["navila, fast"](file).to(torch.float32, memory_format=torch.contiguous_format)
        return levels.mul_(scale).add_(shift)

    found["navila, fast and normalised"] = normalised
    found["navila, frame cache"] = lambda file: exact.to_tensor(store.load([file])[file][None])[0]
    return found


def compare(files: list[Path], folder: Path, size: int, rounds: int) -> None:
    """Print the table of images of one size."""
    import torch

    methods = methods_of(size, folder)
    for file in files:
        expected = methods[PEER](file)
        for name in ("navila, exact", "navila, frame cache"):
            if not torch.equal(methods[name](file), expected):
                raise SystemExit(f"{name} differs from {PEER}.")
        levels = (methods["navila, fast and normalised"](file) + 1) * 127.5
        for got in (methods["navila, fast"](file).float(), levels):
            apart = (got - (expected + 1) * 127.5).abs()
            if apart.max() > 2.001 or (apart > 1.001).float().mean() > 1e-5:
                raise SystemExit(f"navila, fast is {apart.max():.2f} levels off.")
    from PIL import Image

    width, height = Image.open(files[0]).size
    print(f"{width} x {height} to {size} x {size}; exact and cache: the same bits, fast: a level off")
    times = [
        {
            name: side_by_side.cpu_seconds(lambda method=method: [method(file) for file in files]) / len(files)
            for name, method in methods.items()
        }
        for _ in range(rounds)
    ]
    side_by_side.print_table(times, peer=PEER)


if __name__ == "__main__":
    main()
