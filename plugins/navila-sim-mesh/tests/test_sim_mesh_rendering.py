"""What the camera sees: geometry, textures, light and depth against known scenes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from navila.simulation import Embodiment
from navila_sim_mesh.furniture import COLOURS, SHAPES
from navila_sim_mesh.renderer import SKY, Camera, Renderer, Surface
from navila_sim_mesh.simulator import MeshSimulator
from navila_sim_mesh.textures import PATTERNS, build_atlas, house_atlas


def wall(image: np.ndarray, *, distance: float = 2.0, half: float = 1.0, repeats: float = 1.0) -> Surface:
    """A square wall across the view along -z, showing `image` `repeats` times in each direction."""
    a, b, c, d = (-half, -half), (half, -half), (half, half), (-half, half)
    corners = np.array([[a, b, c], [a, c, d]])
    triangles = np.concatenate([corners, np.full((2, 3, 1), -distance)], axis=2).astype(np.float32)
    uv = (corners * (1, -1) / (2 * half) + 0.5) * repeats
    return Surface(
        triangles=triangles,
        rgb=np.ones((2, 3), np.float32),
        uv=uv.astype(np.float32),
        texture=np.zeros(2, np.int32),
        atlas=build_atlas([image]),
    )


def quarters(side: int) -> np.ndarray:
    """Red, green over blue, white."""
    image = np.zeros((side, side, 3), np.uint8)
    h = side // 2
    image[:h, :h], image[:h, h:], image[h:, :h], image[h:, h:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    return image


def test_a_wall_that_fills_the_view_shows_its_texture_upright() -> None:
    camera = Camera(64, 64, 90.0)
    seen = Renderer(wall(quarters(64), distance=1.0)).render(camera, (0.0, 0.0, 0.0), 0.0)
    assert np.array_equal(seen.rgb, quarters(64))


def test_the_field_of_view_is_the_declared_one() -> None:
    # At 90 degrees a wall of half width 1 at distance 2 fills half the image; at 53.13 it fills all of it.
    white = np.full((4, 4, 3), 255, np.uint8)
    renderer = Renderer(wall(white))
    seen = renderer.render(Camera(80, 80, 90.0), (0.0, 0.0, 0.0), 0.0).triangle >= 0
    assert seen.sum() == 40 * 40
    narrow = Camera(80, 80, math.degrees(2 * math.atan(0.5)))
    assert (renderer.render(narrow, (0.0, 0.0, 0.0), 0.0).triangle >= 0).all()
    wide = renderer.render(Camera(160, 80, 90.0), (0.0, 0.0, 0.0), 0.0)
    assert wide.rgb.shape == (80, 160, 3)
    assert (wide.triangle >= 0).sum() == 80 * 80, "hfov counts across; pixels are square"


def test_depth_lies_along_the_optical_axis_and_is_zero_in_the_open() -> None:
    seen = Renderer(wall(quarters(8))).render(Camera(40, 40, 90.0), (0.0, 0.0, 0.5), 0.0)
    hit = seen.triangle >= 0
    assert seen.depth.dtype == np.float32
    assert seen.depth[hit] == pytest.approx(2.5)
    assert (seen.depth[~hit] == 0).all()
    assert np.abs(seen.rgb[~hit] - 255 * np.array(SKY)).max() <= 1


def test_turning_left_moves_what_is_seen_to_the_right() -> None:
    renderer = Renderer(wall(quarters(8), half=0.3))
    camera = Camera(60, 60, 90.0)

    def column(yaw: float) -> float:
        return float(np.nonzero(renderer.triangles_seen(camera, (0.0, 0.0, 0.0), yaw) >= 0)[1].mean())

    assert column(math.radians(15)) > column(0.0) + 5
    assert column(math.radians(-15)) < column(0.0) - 5
    assert (renderer.triangles_seen(camera, (0.0, 0.0, 0.0), math.pi) < 0).all()


def test_a_camera_that_looks_up_sees_the_wall_lower() -> None:
    renderer = Renderer(wall(quarters(8), half=0.3))
    rows = [
        np.nonzero(renderer.triangles_seen(Camera(60, 60, 90.0, pitch), (0.0, 0.0, 0.0), 0.0) >= 0)[0].mean()
        for pitch in (-20.0, 0.0, 20.0)
    ]
    assert rows[0] < rows[1] < rows[2]


def test_a_fine_pattern_far_away_fades_to_its_mean_instead_of_flickering() -> None:
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[::2] = 255
    seen = Renderer(wall(fine, distance=1.0, repeats=40)).render(Camera(64, 64, 90.0), (0.0, 0.0, 0.0), 0.0)
    assert seen.rgb.std() < 2
    assert seen.rgb.mean() == pytest.approx(127.5, abs=2)


def test_textures_of_different_sizes_share_a_scene() -> None:
    one, two = wall(quarters(64), distance=1.0), wall(np.full((2, 16, 3), 90, np.uint8), distance=0.5, half=0.25)
    both = Surface(
        triangles=np.concatenate([one.triangles, two.triangles]),
        rgb=np.concatenate([one.rgb, two.rgb]),
        uv=np.concatenate([one.uv, two.uv]),
        texture=np.array([0, 0, 1, 1], np.int32),
        atlas=build_atlas([quarters(64), np.full((2, 16, 3), 90, np.uint8)]),
    )
    seen = Renderer(both).render(Camera(64, 64, 90.0), (0.0, 0.0, 0.0), 0.0)
    expected = quarters(64)
    expected[16:48, 16:48] = 90
    assert np.array_equal(seen.rgb, expected)


def test_corner_colours_blend_across_a_triangle() -> None:
    surface = wall(np.full((1, 1, 3), 255, np.uint8), distance=1.0)
    left_dark = np.array([[0, 1, 1], [0, 1, 0]], np.float32)[:, :, None].repeat(3, axis=2)
    blended = Surface(
        triangles=surface.triangles, rgb=left_dark, uv=surface.uv, texture=surface.texture, atlas=surface.atlas
    )
    row = Renderer(blended).render(Camera(64, 64, 90.0), (0.0, 0.0, 0.0), 0.0).rgb[20, :, 0].astype(int)
    assert np.abs(row - 255 * (np.arange(64) + 0.5) / 64).max() <= 2


def test_every_pattern_is_a_visible_brightness() -> None:
    for name, pattern in PATTERNS.items():
        values = pattern()
        assert 0.0 < values.min() <= values.max() <= 1.05, name
    assert len(house_atlas().levels) == len(PATTERNS)


def test_landmark_colours_are_told_apart_in_light_and_shade() -> None:
    # Directions in colour space, as brightness changes with light and distance.
    unit = {name: np.array(rgb) / np.linalg.norm(rgb) for name, rgb in COLOURS.items()}
    names = sorted(unit)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert math.degrees(math.acos(min(1.0, float(unit[a] @ unit[b])))) > 12, (a, b)


@pytest.mark.parametrize("shape", SHAPES)
def test_furniture_stands_on_the_floor_within_its_footprint(shape: str) -> None:
    item = SHAPES[shape]((1.0, 0.0, 0.0))
    points = np.concatenate([part.triangles.reshape(-1, 3) for part in item.parts])
    assert points[:, 1].min() == pytest.approx(0.0, abs=1e-6)
    assert points[:, 1].max() == pytest.approx(item.height, abs=0.02)
    assert 0.8 <= item.height <= 1.8
    # What sticks out lies above or is a hand's breadth.
    assert np.abs(points[:, 0]).max() <= item.half_size[0] + 0.16
    assert np.abs(points[:, 2]).max() <= item.half_size[1] + 0.16


def test_a_landmark_looks_like_its_colour() -> None:
    sim = MeshSimulator(Embodiment(width=96, height=96))
    for episode in sim.make_episodes(level=0, seed=2, count=10):
        seen = sim.reset(episode)
        (mark,) = (mark for mark in sim.landmarks() if mark.name == episode.info["landmark"])
        colour = np.array(COLOURS[mark.colour])
        pixels = seen.rgb.reshape(-1, 3) / 255.0
        unit = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)
        alike = (unit @ (colour / np.linalg.norm(colour)) > 0.995).mean()
        assert alike >= 0.5 * mark.visible_fraction
