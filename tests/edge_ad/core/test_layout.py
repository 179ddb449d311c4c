"""Rules of the canvas and its tiles: they cover it, a letterbox keeps the aspect ratio, a single tile is as it was."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_ad.core.layout import MAX_TILES, Box, Fit, Layout
from edge_ad.core.preprocess import on_canvas, preprocess, resize, shown
from edge_ad.records import Roi

SIZES = st.integers(1, 40)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout of small tiles."""
    height, width = draw(st.integers(2, 12)), draw(st.integers(2, 12))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    overlap = draw(st.integers(0, min(height, width) // 2))
    fit: Fit = draw(st.sampled_from(get_args(Fit)))
    if draw(st.booleans()):
        return Layout(height, height, fit, *sorted((rows, columns)), min(overlap, height // 2), turns=True)
    return Layout(height, width, fit, rows, columns, overlap)


@st.composite
def still(draw: st.DrawFn) -> Layout:
    """A layout of some picture: it does not turn any more."""
    return draw(layouts()).of(draw(st.integers(1, 2)), draw(st.integers(1, 2)))


@st.composite
def placed(draw: st.DrawFn) -> tuple[Layout, int, int]:
    """A layout of a picture, and the picture's height and width."""
    height, width = draw(SIZES), draw(SIZES)
    return draw(layouts()).of(height, width), height, width


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(still())
def test_tiles_cover_the_canvas_and_end_with_it_and_no_pixel_is_in_more_than_four(layout: Layout) -> None:
    count = np.zeros(layout.canvas, int)
    for box in layout.boxes():
        assert count[box.slices].shape == (layout.height, layout.width)
        count[box.slices] += 1
    assert len(layout.boxes()) == layout.tiles
    assert 1 <= count.min() <= count.max() <= 4


@given(still(), st.integers(0, 10**6))
def test_a_defect_no_larger_than_the_overlap_lies_whole_in_a_tile(layout: Layout, place: int) -> None:
    height, width = layout.canvas
    side = max(1, layout.overlap)
    top, left = place % max(1, height - side), (place // height) % max(1, width - side)
    defect = Box(top, left, side, side)
    assert any((seen.height, seen.width) == (side, side) for seen in (defect.within(box) for box in layout.boxes()))


@given(placed())
def test_a_letterbox_fills_one_side_of_the_canvas_and_keeps_the_aspect_ratio_to_half_a_pixel(
    picture: tuple[Layout, int, int],
) -> None:
    layout, height, width = picture
    content, (full_height, full_width) = layout.content(height, width), layout.canvas
    assert content.within(Box(0, 0, full_height, full_width)) == content
    if layout.fit == "stretch":
        assert (content.height, content.width) == layout.canvas
        return
    scale = min(full_height / height, full_width / width)
    assert content.height == full_height or content.width == full_width
    assert abs(content.height - height * scale) <= 0.5 or content.height == 1
    assert abs(content.width - width * scale) <= 0.5 or content.width == 1
    assert abs(2 * content.top + content.height - full_height) <= 1  # centred
    assert abs(2 * content.left + content.width - full_width) <= 1


@pytest.mark.parametrize("size", [(64, 64), (100, 900), (480, 640), (300, 200), (32, 40)], ids=str)
def test_a_single_tile_that_is_stretched_is_the_frame_resized_and_nothing_else(size: tuple[int, int]) -> None:
    """The layout of every bundle that says nothing about tiles."""
    frame = noise(*size)
    assert np.array_equal(preprocess(frame, None, Layout(32, 40)), resize(frame, 32, 40)[None, :, :, ::-1])


@given(layouts(), SIZES, SIZES)
def test_tiles_are_cut_from_the_canvas_and_the_padding_repeats_the_border(
    layout: Layout, height: int, width: int
) -> None:
    frame = noise(height, width)
    tiles, canvas = preprocess(frame, None, layout), on_canvas(frame, None, layout)
    layout = layout.of(height, width)
    assert canvas.shape[:2] == layout.canvas
    assert tiles.shape == (layout.tiles, layout.height, layout.width, 3)
    assert tiles.flags.c_contiguous
    for tile, box in zip(tiles, layout.boxes(), strict=True):
        assert np.array_equal(tile[:, :, ::-1], canvas[box.slices])
    content = layout.content(height, width)
    inside = shown(frame, None, layout)[0, :, :, ::-1]
    y = np.clip(np.arange(layout.canvas[0]) - content.top, 0, content.height - 1)
    x = np.clip(np.arange(layout.canvas[1]) - content.left, 0, content.width - 1)
    assert np.array_equal(canvas, inside[y][:, x])


@given(layouts(), st.integers(0, 255))
def test_a_flat_frame_gives_flat_tiles(layout: Layout, value: int) -> None:
    frame = np.full((30, 50, 3), value, np.uint8)
    assert (preprocess(frame, Roi(3, 5, 40, 20), layout) == value).all()


@given(layouts(), SIZES, SIZES)
def test_what_turns_is_as_large_and_lies_along_the_longer_side(layout: Layout, height: int, width: int) -> None:
    found = layout.of(height, width)
    assert found.tiles == layout.tiles
    if not layout.turns:
        assert found is layout
        return
    assert sorted(found.canvas) == sorted(layout.canvas)
    assert found.canvas[0] == found.canvas[1] or (found.canvas[0] > found.canvas[1]) == (height > width)
    assert found.of(width, height) is found  # once and for all
    assert layout.halved().of(height, width) == found.halved()


def test_half_the_size_is_half_of_everything() -> None:
    layout = Layout(64, 96, "letterbox", 2, 3, 16)
    half = layout.halved()
    assert half == Layout(32, 48, "letterbox", 2, 3, 8)
    assert half.canvas == (layout.canvas[0] // 2, layout.canvas[1] // 2)


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ({"rows": 9, "columns": 8}, f"9 x 8 are more than {MAX_TILES}"),
        ({"rows": 2, "overlap": 17}, "an overlap of 17 is more than half of a tile of 32 pixels"),
        ({"columns": 2, "overlap": 25}, "an overlap of 25 is more than half of a tile of 48 pixels"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_with_the_reason(grid: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Layout(32, 48, **grid)


def test_tiles_have_places_once_there_is_a_picture() -> None:
    layout = Layout(32, 32, "stretch", 1, 2, 8, turns=True)
    with pytest.raises(ValueError, match="ask `of` first"):
        layout.boxes()
    assert [len(layout.of(*size).boxes()) for size in ((40, 90), (90, 40))] == [2, 2]
    assert layout.content(90, 40) == Box(0, 0, *layout.of(90, 40).canvas)


def test_only_square_tiles_in_a_row_turn() -> None:
    """A canvas tells by its shape which way it was turned."""
    for layout in ((32, 48, "stretch", 1, 2, 8), (32, 32, "stretch", 2, 1, 8)):
        with pytest.raises(ValueError, match="square tiles, and columns no fewer than rows"):
            Layout(*layout, turns=True)  # type: ignore[arg-type]
