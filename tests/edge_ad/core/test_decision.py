"""Rules of the verdict: strict threshold, fail-safe, and a defect that always shows where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edge_ad.core.decision import decide, find_regions
from edge_ad.records import Decision, Region, Roi, Thresholds

Map = NDArray[np.float32]

maps = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(0, 1, width=32))
rois = st.builds(Roi, st.integers(0, 500), st.integers(0, 500), st.integers(1, 400), st.integers(1, 400))


def judge(score: float, anomaly_map: Map, thresholds: Thresholds | None = None, roi: Roi | None = None) -> Decision:
    height, width = anomaly_map.shape
    return decide(score, anomaly_map, thresholds, roi or Roi(0, 0, width, height), max_regions=16, min_area_px=1)


def top_k_mean(anomaly_map: Map, k: int) -> float:
    return float(np.sort(anomaly_map, axis=None)[-k:].mean(dtype=np.float32))


@given(maps, rois, st.integers(1, 9), st.floats(0, 1), st.integers(1, 4), st.integers(1, 1000))
def test_a_defect_is_a_score_above_the_threshold_and_has_a_region_inside_the_roi(
    anomaly_map: Map, roi: Roi, k: int, threshold: float, max_regions: int, min_area_px: int
) -> None:
    score = top_k_mean(anomaly_map, k)
    thresholds = Thresholds(image=threshold, pixel=threshold, record=3)
    decision = decide(score, anomaly_map, thresholds, roi, max_regions, min_area_px)

    assert decision.verdict == ("defect" if score > threshold else "ok")
    assert (decision.threshold, decision.calibration, decision.score) == (threshold, 3, score)
    assert bool(decision.regions) == (decision.verdict == "defect")
    assert len(decision.regions) <= max_regions
    assert [r.area for r in decision.regions] == sorted((r.area for r in decision.regions), reverse=True)
    for region in decision.regions:
        assert_inside(region, roi)


def assert_inside(region: Region, roi: Roi) -> None:
    assert roi.x <= region.x < region.x + region.w <= roi.x + roi.w
    assert roi.y <= region.y < region.y + region.h <= roi.y + roi.h
    assert 1 <= region.area <= region.w * region.h
    assert 0 <= region.peak <= 1


@given(maps, st.floats(0, 1, exclude_max=True))
def test_the_regions_hold_exactly_the_pixels_above_the_threshold(anomaly_map: Map, threshold: float) -> None:
    height, width = anomaly_map.shape
    regions = find_regions(anomaly_map, threshold, Roi(0, 0, width, height), 1000, 1)
    above = anomaly_map > threshold
    expected = above.sum() if above.any() else (anomaly_map == anomaly_map.max()).sum()
    assert sum(region.area for region in regions) == expected
    assert max(region.peak for region in regions) == anomaly_map.max()


@given(maps, st.floats(0, 1))
def test_a_score_equal_to_the_threshold_is_ok(anomaly_map: Map, score: float) -> None:
    assert judge(score, anomaly_map, Thresholds(score, 0.0, 1)).verdict == "ok"


@given(maps, st.floats(0, 1))
def test_uncalibrated_publishes_the_score_and_judges_nothing(anomaly_map: Map, score: float) -> None:
    assert judge(score, anomaly_map) == Decision("not_inspected", "uncalibrated", score, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("thresholds", [None, Thresholds(0.5, 0.5, 1)])
def test_a_number_that_is_not_finite_is_a_model_fault_and_never_ok(bad: float, thresholds: Thresholds | None) -> None:
    good_map = np.zeros((3, 4), np.float32)
    bad_map = good_map.copy()
    bad_map[2, 1] = bad
    fault = Decision("not_inspected", "model_fault", None, None)
    assert judge(bad, good_map, thresholds) == fault
    assert judge(0.1, bad_map, thresholds) == fault


def test_a_region_is_scaled_outwards_to_the_full_frame_and_shifted_by_the_roi() -> None:
    anomaly_map = np.zeros((4, 4), np.float32)
    anomaly_map[1, 2:4] = [0.7, 0.9]
    (region,) = find_regions(anomaly_map, 0.5, Roi(100, 50, 10, 8), 16, 1)
    # x: 2..4 of 4 -> 5..10 of 10; y: 1..2 of 4 -> 2..4 of 8; each graph pixel covers 10 * 8 / 16 = 5
    assert region == Region(x=105, y=52, w=5, h=2, area=10, peak=pytest.approx(0.9))


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    assert len(find_regions(np.eye(5, dtype=np.float32), 0.5, Roi(0, 0, 5, 5), 16, 1)) == 1


def test_where_every_region_is_too_small_the_largest_stays() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[0, 0] = anomaly_map[4:6, 4] = 1
    (region,) = find_regions(anomaly_map, 0.5, Roi(0, 0, 8, 8), 16, min_area_px=10)
    assert (region.x, region.y, region.area) == (4, 4, 2)


@pytest.mark.parametrize("size", [512, 520])  # 65,536 labels, background and all, are what 16 bits can tell apart
def test_as_many_regions_as_a_map_can_hold_are_told_apart(size: int) -> None:
    marked = np.zeros((size, size), np.float32)
    marked[::2, ::2] = 0.5
    marked[-2:, -1] = 0.5
    regions = find_regions(marked, 0.4, Roi(0, 0, size, size), max_regions=size * size, min_area_px=3)
    assert [(region.x, region.y, region.w, region.h) for region in regions] == [(size - 2, size - 2, 2, 2)]


def test_a_score_rounded_above_every_pixel_still_has_a_region() -> None:
    anomaly_map = np.full((3, 3), 0.3, np.float32)
    pixel = float(anomaly_map.max())
    decision = judge(float(np.nextafter(np.float32(0.3), np.float32(1))), anomaly_map, Thresholds(pixel, pixel, 1))
    assert decision.verdict == "defect"
    assert len(decision.regions) == 1
