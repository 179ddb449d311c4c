"""Rules of stitching: maxima of maps and scores, pictures without seams, padding that does not count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core.decision import decide
from edge_ad.core.layout import Layout
from edge_ad.core.stitch import FrameOutput, weights
from edge_ad.records import RawOutput, Roi, Thresholds
from tests.edge_ad.core.test_layout import SIZES, still

TOP_K = 5
SEEDS = st.integers(0, 2**32 - 1)


def graph_says(layout: Layout, seed: int) -> RawOutput:
    """As a graph's: the score of a tile is the mean of its TOP_K largest pixels."""
    maps = np.random.default_rng(seed).random((layout.tiles, layout.height, layout.width), np.float32) ** 4
    largest = np.sort(maps.reshape(layout.tiles, -1), axis=1)[:, -TOP_K:]
    if maps[0].size < TOP_K:
        largest = np.concatenate([largest, np.zeros((layout.tiles, TOP_K - maps[0].size), np.float32)], axis=1)
    return RawOutput(maps, largest.mean(axis=1, dtype=np.float64).astype(np.float32), np.repeat(maps[..., None], 3, 3))


def output_of(layout: Layout, seed: int, height: int = 10, width: int = 10) -> FrameOutput:
    return FrameOutput(graph_says(layout, seed), layout, layout.content(height, width), TOP_K)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_a_single_tile_without_padding_is_what_the_graph_said_bit_for_bit(fit: str) -> None:
    output = output_of(Layout(16, 16, fit), 1)  # type: ignore[arg-type]
    joined = output.joined()
    assert joined.anomaly_map.base is output.tiles.anomaly_map or np.shares_memory(
        joined.anomaly_map, output.tiles.anomaly_map
    )
    assert np.array_equal(joined.reconstruction, output.tiles.reconstruction)
    assert np.array_equal(joined.score, output.tiles.score)


@given(still(), SEEDS, SIZES, SIZES)
def test_the_map_is_at_each_pixel_the_largest_of_the_tiles_that_show_it(
    layout: Layout, seed: int, height: int, width: int
) -> None:
    output = output_of(layout, seed, height, width)
    expected = np.zeros(layout.canvas, np.float32)
    for y in range(layout.canvas[0]):
        for x in range(layout.canvas[1]):
            expected[y, x] = max(
                tile[y - box.top, x - box.left]
                for box, tile in zip(layout.boxes(), output.tiles.anomaly_map, strict=True)
                if 0 <= y - box.top < box.height and 0 <= x - box.left < box.width
            )
    assert np.array_equal(output.anomaly_map(), expected[output.content.slices])


@given(still())
def test_the_weights_of_the_cross_fade_add_up_to_one_and_none_is_zero(layout: Layout) -> None:
    total = np.zeros(layout.canvas)
    for box in layout.boxes():
        share = weights(box, layout)
        assert (share > 0).all()
        total[box.slices] += share
    assert np.allclose(total, 1, atol=1e-6)


@given(still(), st.floats(0, 1, width=32))
def test_no_seam_shows_where_all_tiles_say_the_same(layout: Layout, value: float) -> None:
    shape = (layout.tiles, layout.height, layout.width)
    said = RawOutput(
        np.full(shape, value, np.float32), np.full(layout.tiles, value, np.float32), np.full((*shape, 3), value)
    )
    output = FrameOutput(said, layout, layout.content(10, 10), 1)
    assert (output.anomaly_map() == np.float32(value)).all()
    assert np.allclose(output.reconstruction(), value, atol=1e-6)
    assert output.score() == np.float32(value)


@given(still(), SEEDS)
def test_tiles_of_one_picture_are_stitched_to_that_picture(layout: Layout, seed: int) -> None:
    canvas = np.random.default_rng(seed).random((*layout.canvas, 3), np.float32)
    cut = np.stack([canvas[box.slices] for box in layout.boxes()])
    output = FrameOutput(RawOutput(cut[..., 0], np.zeros(layout.tiles), cut), layout, layout.content(10, 10), 1)
    assert np.allclose(output.reconstruction(), canvas[output.content.slices], atol=1e-6)
    assert np.array_equal(output.anomaly_map(), canvas[output.content.slices][..., 0])


@given(still(), SEEDS, SIZES, SIZES)
def test_the_score_is_the_largest_of_the_tiles_over_what_they_show_of_the_frame(
    layout: Layout, seed: int, height: int, width: int
) -> None:
    output = output_of(layout, seed, height, width)
    masked = np.zeros((layout.tiles, *layout.canvas), np.float32)
    for place, box in enumerate(layout.boxes()):
        masked[place][box.slices] = output.tiles.anomaly_map[place]
    seen = masked[:, output.content.slices[0], output.content.slices[1]].reshape(layout.tiles, -1)
    seen = np.concatenate([seen, np.zeros((layout.tiles, TOP_K), np.float32)], axis=1)
    expected = np.sort(seen, axis=1)[:, -TOP_K:].mean(axis=1, dtype=np.float64).max()
    assert output.score() == pytest.approx(expected, rel=1e-6)


@given(still(), SEEDS, SEEDS, SIZES, SIZES)
def test_whatever_the_graph_says_about_padding_changes_nothing(
    layout: Layout, seed: int, other: int, height: int, width: int
) -> None:
    output = output_of(layout, seed, height, width)
    said = output.tiles
    maps, scores, pictures = said.anomaly_map.copy(), said.score.copy(), said.reconstruction.copy()
    for index, box in enumerate(layout.boxes()):
        seen = output.content.within(box)
        padding = np.ones(maps.shape[1:], bool)
        padding[seen.slices] = False
        maps[index][padding] = 1.0
        pictures[index][padding] = np.random.default_rng(other).random()
        if padding.any():
            scores[index] = 1.0  # the graph's own score knows of no padding
    painted = FrameOutput(RawOutput(maps, scores, pictures), layout, output.content, TOP_K)
    assert painted.score() == output.score()
    assert painted.kth_largest() == output.kth_largest()
    assert np.array_equal(painted.anomaly_map(), output.anomaly_map())
    assert np.array_equal(painted.reconstruction(), output.reconstruction())


@given(still(), SEEDS, SIZES, SIZES)
def test_what_calibration_rests_on_holds_for_tiles_too(layout: Layout, seed: int, height: int, width: int) -> None:
    """The pixel threshold is at most the image threshold, and a frame above it has a pixel above it."""
    output = output_of(layout, seed, height, width)
    rounding = 1 + 1e-6
    assert output.kth_largest() <= output.score() * rounding
    assert output.score() <= output.anomaly_map().max() * rounding


@given(still(), SEEDS, st.integers(0, 9), st.integers(0, 9), SIZES, SIZES)
def test_regions_lie_in_the_region_of_interest_of_the_full_frame(
    layout: Layout, seed: int, x: int, y: int, w: int, h: int
) -> None:
    roi = Roi(x, y, w, h)
    output = output_of(layout, seed, roi.h, roi.w)
    found = decide(output.score(), output.anomaly_map(), Thresholds(-1.0, 0.2, 1), roi, 1000, 1)
    assert found.verdict == "defect"
    for region in found.regions:
        assert roi.x <= region.x < region.x + region.w <= roi.x + roi.w
        assert roi.y <= region.y < region.y + region.h <= roi.y + roi.h


@pytest.mark.parametrize("what", ["map", "score"])
def test_a_number_that_is_none_in_any_tile_is_none_for_the_frame(what: str) -> None:
    layout = Layout(8, 8, "stretch", 2, 2, 4)
    said = graph_says(layout, 3)
    (said.anomaly_map if what == "map" else said.score)[-1] = np.nan
    output = FrameOutput(said, layout, layout.content(8, 8), TOP_K)
    decision = decide(output.score(), output.anomaly_map(), Thresholds(0.5, 0.5, 1), Roi(0, 0, 8, 8), 1, 1)
    assert (decision.verdict, decision.reason) == ("not_inspected", "model_fault")
