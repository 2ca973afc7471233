"""Images a second of procedural houses on one core, textures and mip levels included.

    python benchmarks/render_houses.py [--houses 3] [--images 120]

Rays and shading run on one thread; the figure is per second of CPU time, so that other jobs on the machine do not
count. The goal is 60 images a second at 224 x 224 and 250 at 96 x 96.
"""

from __future__ import annotations

import argparse
import math
import os
import time

# Before numpy is imported: its matrix product must not take a second core.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--houses", type=int, default=3, help="number of houses (default: 3)")
    parser.add_argument("--images", type=int, default=120, help="images a size and house (default: 120)")
    options = parser.parse_args()

    from navila_sim_mesh.houses import build_house
    from navila_sim_mesh.renderer import Camera, Renderer

    started = time.process_time()
    houses = [build_house(seed) for seed in range(options.houses)]
    renderers = [Renderer(house.surface) for house in houses]
    print(f"build a house: {1000 * (time.process_time() - started) / options.houses:.0f} ms")
    for side in (64, 96, 224, 512):
        camera = Camera(side, side, 90.0)
        started = time.process_time()
        for house, renderer in zip(houses, renderers, strict=True):
            for number in range(options.images):
                room = house.rooms[number % len(house.rooms)]
                x, z = room.centre
                renderer.render(camera, (x + 0.5, 1.25, z - 0.5), 2 * math.pi * number / options.images)
        spent = time.process_time() - started
        print(f"{side} x {side}: {options.houses * options.images / spent:.0f} images/s")


if __name__ == "__main__":
    main()
