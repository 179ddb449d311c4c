"""The part on its ground: a texture, or light that falls off, is no part on a ground."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.synthesis.foreground import foreground, parts_told

SIZE = 128
SEEDS = st.integers(0, 2**31 - 1)


def grainy(levels: NDArray[np.float64], seed: int, sigma: float = 3.0) -> NDArray[np.uint8]:
    """(H, W) grey levels as a camera gives them: (H, W, 3)."""
    rng = np.random.default_rng(seed)
    return np.repeat(np.clip(levels + rng.normal(0, sigma, levels.shape), 0, 255).astype(np.uint8)[..., None], 3, 2)


def bricks(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Most of any border is bricks of one level, the rest is mortar."""
    y, x = np.mgrid[:SIZE, :SIZE] + np.floor(32 * phase)[:, None, None]
    return np.where((y % 16 < 3) | ((x + 16 * (y // 16 % 2)) % 32 < 3), 190.0, 110.0)


def grid(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    y, x = np.mgrid[:SIZE, :SIZE] + 8 * phase[:, None, None]
    return 110.0 + 45 * (np.sin(2 * np.pi * x / 8) > 0.3) + 45 * (np.sin(2 * np.pi * y / 8) > 0.3)


def stripes(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.arange(SIZE) + 5 * phase[0]
    return np.tile(120 + 50 * np.sin(2 * np.pi * x / 5), (SIZE, 1))


def falling_off(depth: float) -> NDArray[np.float64]:
    """Plain, darker by `depth` levels at the middle of a side and by twice that in the corners."""
    y, x = (np.mgrid[:SIZE, :SIZE] - SIZE / 2) / (SIZE / 2)
    return 150 - depth * (x**2 + y**2)


@pytest.mark.parametrize("texture", [bricks, grid, stripes])
@given(seed=SEEDS)
@settings(max_examples=20)
def test_a_texture_is_a_part_without_a_ground_wherever_the_border_cuts_it(texture: object, seed: int) -> None:
    assert callable(texture)
    assert foreground(grainy(texture(np.random.default_rng(seed).random(2)), seed)).all()


@given(st.floats(0, 60), SEEDS)
@settings(max_examples=60)
def test_light_that_falls_off_makes_no_part_however_deep(depth: float, seed: int) -> None:
    assert foreground(grainy(falling_off(depth), seed)).all()


@pytest.mark.parametrize(("half_height", "is_part"), [(3, True), (20, False)])
def test_a_part_may_leave_the_image_where_nearly_all_of_the_border_is_ground(half_height: int, is_part: bool) -> None:
    levels = np.full((SIZE, SIZE), 200.0)
    band = slice(SIZE // 2 - half_height, SIZE // 2 + half_height)
    levels[band] = 60
    cv2.circle(levels, (SIZE // 2, SIZE // 2), 30, 60, -1)
    found = foreground(grainy(levels, 0))
    assert found.all() != is_part
    assert found[levels == 60].mean() > 0.99


@pytest.mark.parametrize("shade", [0, 2])
@given(seed=SEEDS)
@settings(max_examples=20)
def test_a_part_on_a_ground_that_is_nearly_even_is_found_as_it_is(shade: int, seed: int) -> None:
    levels = 200 + np.tile(np.linspace(-shade, shade, SIZE), (SIZE, 1))
    wanted = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(wanted, (64, 60), 25, 1, -1)
    levels[wanted > 0] = 120
    assert (foreground(grainy(levels, seed)) != (wanted > 0)).mean() < 0.01


def test_it_is_told_in_how_many_images_the_part_is_found() -> None:
    levels = np.full((SIZE, SIZE), 200.0)
    cv2.circle(levels, (64, 60), 25, 120, -1)
    part, plain = grainy(levels, 0), grainy(falling_off(20), 0)
    assert parts_told([part, part]) == "foreground: the part is found in 2 of 2 good images"
    assert parts_told([part, plain, plain]).startswith("foreground: the part is found in 1 of 3 good images; in the")
