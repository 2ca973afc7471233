"""Samples of tar shards a second: by place through the index, against webdataset's reading in order and tarfile.

    python benchmarks/shards.py [--shards 8] [--samples 2000] [--image-bytes 20000]

Writes shards with webdataset's own writer, then reads every sample's bytes: in order and in a random order through the
index; in order with webdataset, which can do no other; by name with tarfile, which reads a shard's headers first. All
must return the same bytes. The files are in the page cache: what a disk's seeks cost comes on top.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

Sample = tuple[str, bytes, bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8, help="shards (default: 8)")
    parser.add_argument("--samples", type=int, default=2000, help="samples a shard (default: 2000)")
    parser.add_argument("--image-bytes", type=int, default=20000, help="bytes of an image (default: 20000)")
    options = parser.parse_args()

    import webdataset
    from navila_data.media import open_file
    from navila_data.shard_indexing import index_folder, open_shards
    from navila_data.shards import Shards, find_shards

    def by_place(shards: Shards, order: Iterable[int]) -> Iterable[Sample]:
        for i in order:
            sample = shards[i]
            yield sample.key, open_file(sample.files["jpg"]).read(), open_file(sample.files["txt"]).read()

    def by_webdataset(paths: list[Path]) -> Iterable[Sample]:
        for sample in webdataset.WebDataset([str(path) for path in paths], shardshuffle=False):
            yield sample["__key__"], sample["jpg"], sample["txt"]

    def by_tarfile(paths: list[Path], keys: list[tuple[int, str]]) -> Iterable[Sample]:
        with contextlib.ExitStack() as stack:
            tars = [stack.enter_context(tarfile.open(path)) for path in paths]
            for shard, key in keys:
                files = [tars[shard].extractfile(f"{key}.{extension}") for extension in ("jpg", "txt")]
                yield key, *(file.read() for file in files if file)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [folder / f"{shard:05d}.tar" for shard in range(options.shards)]
        for shard, path in enumerate(paths):
            with webdataset.TarWriter(str(path)) as writer:
                for n in range(options.samples):
                    image = os.urandom(options.image_bytes)
                    writer.write({"__key__": f"{shard}-{n}", "jpg": image, "txt": f"caption {n}"})
        total = options.shards * options.samples

        began = time.perf_counter()
        index_folder(find_shards(folder))
        indexed = time.perf_counter() - began
        began = time.perf_counter()
        shards = open_shards(folder)
        opened = time.perf_counter() - began
        print(f"index: {total / indexed:,.0f} samples/s, once; opened again in {opened * 1e3:.1f} ms")

        order = random.Random(0).sample(range(total), total)
        # tarfile looks names up one by one: a sample of them has to do.
        few = order[: max(total // 50, 1)]
        readings: dict[str, Callable[[], Iterable[Sample]]] = {
            "index, in order": lambda: by_place(shards, range(total)),
            "index, random": lambda: by_place(shards, order),
            "webdataset, in order": lambda: by_webdataset(paths),
            "tarfile, random": lambda: by_tarfile(paths, [divmod_key(i, options.samples) for i in few]),
        }
        expected = {key: (image, text) for key, image, text in by_webdataset(paths)}
        rates = {}
        for name, read in readings.items():
            began = time.perf_counter()
            read_keys = [check(sample, expected) for sample in read()]
            rates[name] = len(read_keys) / (time.perf_counter() - began)
            assert len(set(read_keys)) == (len(few) if name.startswith("tarfile") else total), name
        for name, rate in rates.items():
            ratio = rate / rates["webdataset, in order"]
            print(f"{name:22} {rate:10,.0f} samples/s  {ratio:7.2f} x webdataset in order")


def divmod_key(i: int, samples: int) -> tuple[int, str]:
    """Number of a sample's shard, and its key."""
    shard, n = divmod(i, samples)
    return shard, f"{shard}-{n}"


def check(sample: Sample, expected: dict[str, tuple[bytes, bytes]]) -> str:
    """The key of a sample whose bytes are as they should be."""
    key, image, text = sample
    assert expected[key] == (image, text), key
    return key


if __name__ == "__main__":
    main()
