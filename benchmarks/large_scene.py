"""Load, render and measure paths in a synthetic scan of the size of the largest Matterport buildings.

    uv run python benchmarks/large_scene.py --triangles 2000000 --size 512

Writes a GLB of several storeys with JPEG textures, as uneven as a scan is, to a temporary folder; then times its first
load (with the making of its navigation mesh), a second one (which takes that from the cache), frames, steps and
distances. All times are of one core, so that other jobs on the machine do not count.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before numpy is imported: its matrix product must not take a second core.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from navila.simulation import Embodiment
    from navila_sim_mesh.scan import ScanWorld
    from navila_sim_mesh.simulator import MeshSimulator

STOREYS, STOREY_HEIGHT = 4, 3.0
WIDTH, DEPTH, ROOM, DOOR = 40.0, 30.0, 5.0, 1.2
TEXTURES, TEXTURE_SIDE = 24, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triangles", type=int, default=2_000_000, help="about how many (default 2000000)")
    parser.add_argument("--size", type=int, default=512, help="image side in pixels (default 512)")
    parser.add_argument("--frames", type=int, default=20, help="images to render (default 20)")
    args = parser.parse_args()

    from navila.simulation import Embodiment, Episode

    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAVILA_CACHE"] = str(Path(folder) / "cache")
        triangles = write_building(Path(folder) / "building.glb", args.triangles)
        print(f"{triangles / 1e6:.2f} M triangles, {(Path(folder) / 'building.glb').stat().st_size / 2**20:.0f} MiB")
        body = Embodiment(width=args.size, height=args.size)
        for kind in ("first load", "second load"):
            sim, world = load(body, Path(folder), kind)
        rng = np.random.default_rng(0)
        places = world.mesh.corners.reshape(-1, 4, 3).mean(axis=1)
        places = places[world.mesh.islands == np.bincount(world.mesh.islands).argmax()]
        goal, *starts = ((x, y, z) for x, y, z in places[rng.integers(0, len(places), 201)].tolist())
        start = time.process_time()
        world.distance(starts[0], (goal,))
        print(f"first distance to a goal: {time.process_time() - start:.2f} s")
        start = time.process_time()
        lengths = [world.distance(place, (goal,)) for place in starts]
        took = time.process_time() - start
        print(f"{1000 * took / len(starts):.2f} ms a distance after that, {np.mean(lengths):.0f} m on average")
        episode = Episode(
            episode_id="1",
            scene_id="building.glb",
            start_position=starts[0],
            start_rotation=(0, 0, 0, 1),
            goals=(goal,),
        )
        seen = sim.reset(episode)
        start = time.process_time()
        for turn in range(args.frames):
            sim.step(2 if turn % 3 else 1)
        took = time.process_time() - start
        print(f"{args.frames / took:.1f} steps/s with images of {args.size} x {args.size}")
        sim.render_images = False
        start, steps = time.process_time(), 0
        while steps < 2000 and (run := sim.expert_run((goal,), 1.0, 3))[0]:
            for primitive in run:
                seen = sim.step(primitive)
                steps += 1
        took = time.process_time() - start
        left = sim.geodesic(seen.position, [goal])
        print(f"{steps / took:.0f} steps/s of the expert without images, {left:.2f} m left after {steps} steps")


def load(body: Embodiment, folder: Path, kind: str) -> tuple[MeshSimulator, ScanWorld]:
    """A simulator with the building loaded."""
    from navila_sim_mesh.scan import ScanWorld
    from navila_sim_mesh.simulator import MeshSimulator

    sim = MeshSimulator(body, scene_root=folder)
    start = time.process_time()
    world = sim._world("building.glb")
    assert isinstance(world, ScanWorld)
    print(f"{kind}: {time.process_time() - start:.1f} s, {world.mesh.count} polygons")
    return sim, world


def write_building(path: Path, wanted: int) -> int:
    """Write storeys of rooms joined by doors and stairs; returns the number of triangles."""
    rng = np.random.default_rng(0)
    patches = list(building())
    area = sum(float(np.linalg.norm(np.cross(u, v))) for _, u, v in patches)
    side = math.sqrt(2 * area / wanted)
    chunks: list[bytes] = []
    facts: dict[str, Any] = {"asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}]}
    facts |= {name: [] for name in ("bufferViews", "accessors", "materials", "textures", "images")}

    def view(data: bytes) -> int:
        at = sum(map(len, chunks))
        chunks.append(data + b"\0" * (-len(data) % 4))
        facts["bufferViews"].append({"buffer": 0, "byteOffset": at, "byteLength": len(data)})
        return len(facts["bufferViews"]) - 1

    def accessor(array: np.ndarray, kind: str, component: int) -> int:
        facts["accessors"].append(
            {"bufferView": view(array.tobytes()), "componentType": component, "count": len(array), "type": kind}
        )
        return len(facts["accessors"]) - 1

    for number in range(TEXTURES):
        low = rng.uniform(60, 220, (8, 8, 3)).astype(np.uint8)
        noise = rng.normal(0, 12, (TEXTURE_SIDE, TEXTURE_SIDE, 1))
        picture = np.asarray(Image.fromarray(low).resize((TEXTURE_SIDE, TEXTURE_SIDE), Image.Resampling.BICUBIC))
        data = io.BytesIO()
        Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=85)
        facts["images"].append({"bufferView": view(data.getvalue()), "mimeType": "image/jpeg"})
        facts["textures"].append({"source": number})
        facts["materials"].append({"pbrMetallicRoughness": {"baseColorTexture": {"index": number}}})
    count, primitives = 0, []
    for number in range(TEXTURES):
        points, uvs, faces, total = [], [], [], 0
        for origin, u, v in patches[number::TEXTURES]:
            rows, columns = (max(1, round(float(np.linalg.norm(w)) / side)) for w in (u, v))
            s, t = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
            place = origin + s[..., None] * u + t[..., None] * v
            points.append((place + rng.normal(0, 0.003, place.shape)).reshape(-1, 3))
            uvs.append(np.stack([s * np.linalg.norm(u) / 4, t * np.linalg.norm(v) / 4], axis=-1).reshape(-1, 2))
            index = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1) + total
            a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
            faces += [np.stack([a, b, c], axis=-1).reshape(-1, 3), np.stack([a, c, d], axis=-1).reshape(-1, 3)]
            total += (rows + 1) * (columns + 1)
        corners = np.concatenate(faces).astype(np.uint32)
        count += len(corners)
        attributes = {
            "POSITION": accessor(np.concatenate(points).astype(np.float32), "VEC3", 5126),
            "TEXCOORD_0": accessor(np.concatenate(uvs).astype(np.float32), "VEC2", 5126),
        }
        indices = accessor(corners.reshape(-1), "SCALAR", 5125)
        primitives.append({"attributes": attributes, "indices": indices, "material": number})
    facts["meshes"] = [{"primitives": primitives}]
    binary = b"".join(chunks)
    facts["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(facts).encode()
    text += b" " * (-len(text) % 4)
    with path.open("wb") as out:
        out.write(struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary)))
        out.write(struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary)
    return count


def building() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rectangles (origin, side, side) of all storeys; the first side crossed with the second is the front."""
    x, y, z = np.eye(3)
    for storey in range(STOREYS):
        floor = storey * STOREY_HEIGHT
        columns, rows = int(WIDTH / ROOM), int(DEPTH / ROOM)
        for column in range(columns):
            for row in range(rows):
                corner = np.array([column * ROOM, floor, row * ROOM])
                # Stairs up take the place of the floor above one room of each storey, in turn at either end.
                well = (columns - 1, rows - 1) if storey % 2 else (0, 0)
                if storey == 0 or (column, row) != well:
                    yield corner, z * ROOM, x * ROOM
                if (column, row) != ((columns - 1, rows - 1) if storey % 2 == 0 else (0, 0)) or storey == STOREYS - 1:
                    yield corner + y * (STOREY_HEIGHT - 0.2), x * ROOM, z * ROOM
                for along, across, last in ((x, z, row), (z, x, column)):
                    # A wall with a door in the middle on the near sides, and whole ones round the building.
                    high = y * (STOREY_HEIGHT - 0.2)
                    if last == 0:
                        yield corner, along * ROOM, high
                        continue
                    piece = (ROOM - DOOR) / 2
                    for start, length in ((0.0, piece), (piece + DOOR, piece)):
                        for offset in (-0.06, 0.06):
                            yield corner + along * start + across * offset, along * length, high
        yield np.array([0, floor, DEPTH]), x * WIDTH, y * (STOREY_HEIGHT - 0.2)
        yield np.array([WIDTH, floor, 0]), z * DEPTH, y * (STOREY_HEIGHT - 0.2)
        if storey < STOREYS - 1:
            corner = np.array([WIDTH - ROOM, floor, DEPTH - ROOM]) if storey % 2 == 0 else np.array([0.0, floor, 0.0])
            steps = 18
            for step in range(steps):
                tread, rise = (ROOM - 0.5) / steps, STOREY_HEIGHT / steps
                place = corner + x * (0.5 + step * tread) + y * (step + 1) * rise + z * 1.5
                yield place, z * 2.0, x * tread
                yield place - y * rise, z * 2.0, y * rise
            # The landing beside the stairs, level with the floor above.
            yield corner + y * STOREY_HEIGHT, z * 1.5, x * ROOM
            yield corner + y * STOREY_HEIGHT + z * 3.5, z * 1.5, x * ROOM


if __name__ == "__main__":
    main()
