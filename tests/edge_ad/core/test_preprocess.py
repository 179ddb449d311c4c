"""Rules of the resize that training, calibration and the daemon share."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import MAX_HALVINGS, halvings, preprocess, resize

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))


@given(source=SIZES, target=SIZES)
def test_only_exact_halvings_that_leave_the_target_come_first(source: tuple[int, int], target: tuple[int, int]) -> None:
    times = halvings(source, target)
    assert 0 <= times <= MAX_HALVINGS
    assert times == 0 or all(a % (1 << times) == 0 and a >> times >= b for a, b in zip(source, target, strict=True))


@settings(max_examples=40)
@given(
    target=st.tuples(st.integers(8, 48), st.integers(8, 48)),
    times=st.integers(0, MAX_HALVINGS),
    more=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    seed=st.integers(0, 1000),
)
def test_a_halved_image_is_the_area_average_but_for_rounding_and_half_a_pixel(
    target: tuple[int, int], times: int, more: tuple[int, int], seed: int
) -> None:
    """A halved pixel at an area's border belongs to both sides alike: what that moves, the slope bounds."""
    height, width = ((size + extra) << times for size, extra in zip(target, more, strict=True))
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    direct = cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA).astype(int)
    slope = max(int(np.abs(np.diff(image.astype(int), axis=axis)).max()) for axis in (0, 1))
    assert np.abs(resize(image, *target) - direct).max() <= 2 + (slope << times)


@pytest.mark.parametrize("height", [1080, 256, 120], ids=["shrinks", "stays", "grows"])
def test_no_pixel_is_left_out_however_far_a_frame_shrinks(height: int) -> None:
    """A line of one pixel fades by as much as the frame shrinks, wherever it lies and whatever the other axis does."""
    for column in range(0, 1920, 97):
        frame = np.zeros((height, 1920, 3), np.uint8)
        frame[:, column] = 255
        seen = preprocess(frame, None, Layout(256, 256))[0, 128, :, 0].astype(float)
        assert abs(seen.sum() - 255 * 256 / 1920) <= 2


def test_colours_are_reversed_and_nothing_else_at_the_size_of_the_graph() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found = preprocess(frame, None, Layout(64, 64))
    assert np.array_equal(found[0], frame[:, :, ::-1])
    assert found.flags.c_contiguous


@pytest.mark.parametrize("layout", [Layout(32, 32), Layout(32, 32, "letterbox", 2, 3, 8)], ids=["one", "tiles"])
def test_it_writes_where_it_is_told_to(layout: Layout) -> None:
    """Of a page-locked buffer, whose address the GPU knows, no other array will do."""
    image = np.random.default_rng(4).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    out = np.zeros((layout.tiles, 32, 32, 3), np.uint8)
    assert preprocess(image, None, layout, out=out) is out
    assert np.array_equal(out, preprocess(image, None, layout))
