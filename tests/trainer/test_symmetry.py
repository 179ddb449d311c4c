"""What a set of good images says of its own symmetry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from edge_ad.core.layout import Box
from trainer.config import DataConfig
from trainer.data.symmetry import FEWEST, Symmetry, find_symmetries, find_symmetry
from trainer.data.variation import View, draw_variation

SIZE = 96
Image = NDArray[np.uint8]


def _part(rng: Generator, angle: float, inscription: str) -> Image:
    """A disc with an inscription, at an angle, with grain."""
    image = np.full((SIZE, SIZE, 3), 60, np.uint8)
    cv2.circle(image, (48, 48), 36, (170, 160, 150), -1)
    cv2.putText(image, inscription, (26, 58), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (40, 40, 40), 2)
    turn = cv2.getRotationMatrix2D((47.5, 47.5), angle, 1.0)
    turned = cv2.warpAffine(image, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
    return np.clip(turned + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def _aligned(rng: Generator) -> Image:
    return np.roll(_part(rng, 0, "R7"), tuple(rng.integers(-3, 4, 2)), (0, 1))


def _anyhow(rng: Generator) -> Image:
    return _part(rng, rng.uniform(0, 360), "R7")


def _texture(rng: Generator) -> Image:
    noise = cv2.GaussianBlur(rng.normal(128, 60, (SIZE, SIZE, 3)), (0, 0), 1.5)
    return np.clip(noise, 0, 255).astype(np.uint8)


def _even_sides(rng: Generator) -> Image:
    """Stripes across, lighter at the top: its left and right are alike."""
    column = np.linspace(200, 40, SIZE) + 30 * np.sin(np.arange(SIZE) / 3)
    image = np.repeat(column[:, None], SIZE, axis=1)[..., None] + rng.normal(0, 6, (SIZE, SIZE, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def _small_part(rng: Generator) -> Image:
    """A part with a hole at its right, always at the same place of a large even ground, 2 % of it."""
    image, (x, y) = np.full((SIZE, SIZE, 3), 180, np.uint8), rng.integers(14, 17, 2)
    cv2.rectangle(image, (int(x), int(y)), (int(x) + 18, int(y) + 9), (40, 60, 150), -1)
    cv2.circle(image, (int(x) + 14, int(y) + 5), 2, (230, 230, 230), -1)
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def _brushed(rng: Generator) -> Image:
    """Brushed metal: its grain has a direction and no sense."""
    grain = cv2.blur(rng.normal(0, 1, (SIZE, 3 * SIZE)), (41, 1))[:, SIZE:-SIZE]
    grey = 120 + 14 * grain / grain.std() + rng.normal(0, 3, grain.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (_aligned, Symmetry()),
        (_small_part, Symmetry()),
        (_brushed, Symmetry(left_right=True, top_bottom=True)),
        (_anyhow, Symmetry(any_angle=True)),
        (_texture, Symmetry(left_right=True, top_bottom=True, any_angle=True)),
        (_even_sides, Symmetry(left_right=True)),
    ],
)
def test_only_what_the_good_images_show_is_a_symmetry(draw: Callable[[Generator], Image], expected: Symmetry):
    """Parts with an inscription may never be mirrored, and turned only where the set shows them turned."""
    good = np.stack([draw(np.random.default_rng(seed)) for seed in range(80)])
    assert find_symmetry(good) == expected


def _long_part(rng: Generator, height: int, width: int) -> Image:
    """An ellipse of the canvas' own shape, a few per cent larger or smaller and out of its middle, with grain."""
    image = np.full((height, width, 3), 40, np.uint8)
    size, (y, x) = 0.38 * rng.uniform(0.95, 1.05), np.array([height, width]) * (0.5 + rng.uniform(-0.03, 0.03, 2))
    axes = (round(size * width), round(size * height))
    cv2.ellipse(image, (round(x), round(y)), axes, 0, 0, 360, (180, 170, 160), -1)
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(128, 512), (512, 128), (96, 128)])
def test_aligned_parts_on_a_canvas_of_their_shape_may_be_mirrored_and_not_turned(height: int, width: int):
    """Squeezed to a square they would be discs, which training does not turn: it turns the canvas as it is."""
    good = np.stack([_long_part(np.random.default_rng(seed), height, width) for seed in range(40)])
    assert find_symmetry(good) == Symmetry(left_right=True, top_bottom=True)


def _wide_texture(rng: Generator) -> Image:
    return np.hstack([_texture(rng), _texture(rng), _texture(rng)])


def _anyhow_on(rng: Generator, width: int) -> Image:
    """A disc with an inscription, at any angle, in the middle of a canvas of this width."""
    canvas = np.clip(rng.normal(60, 4, (SIZE, width, 3)), 0, 255).astype(np.uint8)
    left = (width - SIZE) // 2
    canvas[:, left : left + SIZE] = _anyhow(rng)
    return canvas


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (_wide_texture, Symmetry(left_right=True, top_bottom=True, any_angle=True)),
        (partial(_anyhow_on, width=116), Symmetry(any_angle=True)),
        (partial(_anyhow_on, width=216), Symmetry()),
    ],
)
def test_a_canvas_that_is_not_square_is_turned_with_what_lies_beyond_its_border(
    draw: Callable[[Generator], Image], expected: Symmetry
):
    """A wide one shows there, when it lies across, the mirror images of the part: good parts do not come in threes."""
    good = np.stack([draw(np.random.default_rng(seed)) for seed in range(100)])
    assert find_symmetry(good) == expected


def test_few_images_have_no_symmetry():
    good = np.stack([_texture(np.random.default_rng(seed)) for seed in range(FEWEST - 1)])
    assert find_symmetry(good) == Symmetry()
    assert "fewer than 40 images cannot tell" in str(find_symmetries(good))


def test_a_part_without_symmetry_keeps_its_place_and_one_with_it_is_turned():
    """Seen at a mark in one corner: it stays there, or turns up in others."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[4:20, 4:20] = 255
    where = {
        symmetry: {
            np.unravel_index(int(cv2.resize(seen, (2, 2), interpolation=cv2.INTER_AREA)[..., 0].argmax()), (2, 2))
            for seed in range(20)
            for variation in [draw_variation(64, 64, DataConfig(), np.random.default_rng(seed), symmetry)]
            for seen in [View(image, Box(0, 0, 64, 64), variation).seen()]
        }
        for symmetry in (Symmetry(), Symmetry(any_angle=True), Symmetry(left_right=True))
    }
    assert where[Symmetry()] == {(0, 0)}
    assert where[Symmetry(any_angle=True)] == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert where[Symmetry(left_right=True)] == {(0, 0), (0, 1)}
