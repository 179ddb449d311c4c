"""Shapes of real defects: turned, shrunk, thinned, placed, and blended without a seam."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.real_shapes import (
    centre_line,
    components,
    laid,
    line_share,
    membrane,
    place,
    place_at_border,
    scaled,
    turned,
)
from edge_ad.errors import DataError
from edge_ad.images import write_png

seeds = st.integers(0, 2**32 - 1)


def ellipse(a: int = 14, b: int = 8) -> NDArray[np.bool_]:
    mask = np.zeros((2 * b + 3, 2 * a + 3), np.uint8)
    cv2.ellipse(mask, (a + 1, b + 1), (a, b), 0, 0, 360, 1, -1)
    return mask.astype(bool)


@given(degrees=st.floats(0, 360))
def test_a_turned_shape_keeps_its_area_and_is_not_cut_off(degrees: float) -> None:
    found = turned(ellipse(), degrees)
    assert found.sum() == pytest.approx(ellipse().sum(), rel=0.05)
    assert all(edge.any() for edge in (found[0], found[-1], found[:, 0], found[:, -1]))  # tight


@given(factor=st.floats(0.01, 3.0))
def test_a_scaled_shape_has_its_area_and_never_vanishes(factor: float) -> None:
    found = scaled(ellipse(), factor)
    assert found.any()
    if factor > 0.5:
        assert found.sum() == pytest.approx(factor**2 * ellipse().sum(), rel=0.15)


def test_every_defect_of_a_mask_is_a_component_with_its_place_and_share(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[5:15, 10:20] = 255
    mask[30:38, 40:48] = 255
    mask[20, 20] = 255  # a speck
    write_png(tmp_path / "a_mask.png", mask)
    found = components([tmp_path / "a_mask.png"])
    assert [(c.x, c.y, c.mask.shape, c.share) for c in found] == [
        (10, 5, (10, 10), 100 / 2000),
        (40, 30, (8, 8), 64 / 2000),
    ]


def test_masks_without_a_defect_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "a_mask.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(DataError, match="no defect"):
        components([tmp_path / "a_mask.png"])


@given(length=st.floats(20, 200), degrees=st.floats(0, 360), width=st.floats(1.0, 3.0))
def test_a_line_is_as_long_and_as_wide_as_wanted(length: float, degrees: float, width: float) -> None:
    bar = np.zeros((9, 90), bool)
    bar[3:6, 2:88] = True
    line = centre_line(bar)
    share = line_share(line, length, degrees, width)
    assert 0 <= share.min() <= share.max() <= 1
    ys, xs = np.nonzero(share > 0.3)
    assert np.hypot(np.ptp(ys), np.ptp(xs)) == pytest.approx(length, abs=width + 3)
    assert 0.6 * length * width <= share.sum() <= (length + width) * (width + 1.2)


@given(seed=seeds)
def test_a_shape_is_placed_on_the_part_or_nowhere(seed: int) -> None:
    part = np.zeros((60, 60), bool)
    part[20:50, 10:55] = True
    shape = ellipse(8, 4)
    corner = place(shape, part, np.random.default_rng(seed))
    assert corner is not None
    x, y = corner
    assert part[y : y + shape.shape[0], x : x + shape.shape[1]][shape].mean() >= 0.98
    assert place(np.ones((40, 60), bool), part, np.random.default_rng(seed)) is None


@given(seed=seeds)
def test_a_shape_at_the_border_is_cut_off_by_the_part_or_the_frame(seed: int) -> None:
    part = np.zeros((60, 70), bool)
    part[20:, 10:55] = True  # it leaves the frame below
    shape = ellipse(8, 4)
    corner = place_at_border(shape, part, np.random.default_rng(seed))
    found = laid(shape.astype(np.float32), corner, (60, 70)) > 0
    assert 0.2 * shape.sum() < (found & part).sum() < 0.9 * shape.sum()


@given(x=st.integers(-30, 80), y=st.integers(-30, 80))
def test_what_is_laid_outside_of_the_frame_is_cut_off(x: int, y: int) -> None:
    cover = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    room = np.zeros((120, 130), np.float32)
    room[y + 30 : y + 32, x + 30 : x + 33] = cover
    np.testing.assert_array_equal(laid(cover, (x, y), (60, 70)), room[30:90, 30:100])


@given(slope=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_a_membrane_over_a_plane_is_the_plane(slope: tuple[float, float]) -> None:
    """It is harmonic: what lies under the mask is forgotten."""
    y, x = np.mgrid[0:24, 0:30].astype(np.float32)
    plane = np.repeat((100 + slope[0] * x + slope[1] * y)[..., None], 3, axis=2)
    mask = np.zeros((24, 30), bool)
    mask[8:16, 10:20] = True
    spoiled = np.where(mask[..., None], np.float32(240), plane)
    np.testing.assert_allclose(membrane(spoiled, mask), plane, atol=0.5)
