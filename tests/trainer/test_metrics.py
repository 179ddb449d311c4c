"""Rules of the figures of merit: equal to scikit-learn's, and to a brute force over every threshold."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from edge_ad.errors import DataError
from trainer.metrics import ImageMetrics, PixelMetrics, area_mask, image_metrics, pixel_metrics, pointing, rank, regions

CLOSE = 1e-12


@st.composite
def ranked(draw: st.DrawFn) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Labels of both classes and scores with anything from no ties to nothing but ties."""
    n = draw(st.integers(2, 60))
    labels = draw(hnp.arrays(np.bool_, n).filter(lambda a: a.any() and not a.all()))
    levels = draw(st.sampled_from([1, 2, 3, 10, 1000]))
    return labels, draw(hnp.arrays(np.int16, n, elements=st.integers(0, levels))).astype(np.float32)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks with defect and normal pixels, and maps with ties."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 6)), draw(st.integers(2, 6)))
    masks = draw(hnp.arrays(np.bool_, shape).filter(lambda a: a.any() and not a.all()))
    levels = draw(st.sampled_from([1, 3, 50]))
    return masks, draw(hnp.arrays(np.int16, shape, elements=st.integers(0, levels))).astype(np.float32) / levels


def sklearn_figures(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> list[float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return [roc_auc_score(labels, scores), average_precision_score(labels, scores), f1.max()]


def brute_force_aupro(masks: NDArray[np.bool_], maps: NDArray[np.float32], limit: float) -> float:
    """Loop over every threshold and every defect, straight from the definition."""
    defects = []
    for i, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        defects += [maps[i][labels == j] for j in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        overlap = np.mean([(defect >= threshold).mean() for defect in defects])
        points.append((float((maps[~masks] >= threshold).mean()), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        cut = min(x1, limit)
        y_cut = y1 if x1 == cut else y0 + (y1 - y0) * (cut - x0) / (x1 - x0)
        area += (cut - x0) * (y0 + y_cut) / 2
    return area / limit


# --- images -----------------------------------------------------------------------------------------------------


@given(ranked())
def test_the_image_figures_are_scikit_learns(case: tuple[NDArray[np.bool_], NDArray[np.float32]]) -> None:
    found = image_metrics(*case)
    assert [found.auroc, found.ap, found.f1_max] == pytest.approx(sklearn_figures(*case), abs=CLOSE)


@given(ranked())
def test_only_the_order_of_the_scores_matters(case: tuple[NDArray[np.bool_], NDArray[np.float32]]) -> None:
    labels, scores = case
    assert image_metrics(labels, np.exp(scores.astype(np.float64) / 100)) == image_metrics(labels, scores)


@pytest.mark.parametrize("label", [True, False])
def test_one_class_alone_has_no_figures(label: bool) -> None:
    assert image_metrics(np.full(3, label), np.arange(3.0)) == ImageMetrics(None, None, None)
    masks = np.full((1, 2, 2), label)
    assert set(asdict(pixel_metrics(masks, np.zeros((1, 2, 2), np.float32))).values()) == {None}


def test_a_perfect_ranking_scores_one_and_an_all_tied_one_a_half() -> None:
    labels = np.array([False, False, True, True])
    assert image_metrics(labels, np.array([0.1, 0.2, 0.3, 0.4])) == ImageMetrics(1.0, 1.0, 1.0)
    assert image_metrics(labels, np.zeros(4)) == ImageMetrics(0.5, 0.5, 2 / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        image_metrics(np.array([True, False]), np.array([0.5, bad]))


def test_shapes_that_do_not_match_are_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="must be"):
        image_metrics(np.array([True, False]), np.zeros(3))
    with pytest.raises(ValueError, match="must be"):
        pixel_metrics(np.zeros((1, 2, 2), bool), np.zeros((1, 3, 2), np.float32))


# --- pixels -----------------------------------------------------------------------------------------------------


@given(pictures())
def test_the_pixel_figures_are_scikit_learns_over_all_pixels(
    case: tuple[NDArray[np.bool_], NDArray[np.float32]],
) -> None:
    masks, maps = case
    found = pixel_metrics(masks, maps)
    expected = sklearn_figures(masks.ravel(), maps.ravel())
    assert [found.auroc, found.ap, found.f1_max] == pytest.approx(expected, abs=CLOSE)


@given(pictures())
def test_aupro_is_the_brute_force_over_every_threshold(case: tuple[NDArray[np.bool_], NDArray[np.float32]]) -> None:
    found = pixel_metrics(*case)
    assert found.aupro == pytest.approx(brute_force_aupro(*case, 0.3), abs=1e-9)
    assert found.aupro_005 == pytest.approx(brute_force_aupro(*case, 0.05), abs=1e-9)


def test_aupro_is_the_brute_force_on_pictures_of_a_real_size() -> None:
    rng = np.random.default_rng(7)
    masks = ndimage.gaussian_filter(rng.normal(size=(4, 48, 64)), (0, 3, 3)) > 0.15
    maps = np.round(rng.random((4, 48, 64)) + 0.4 * masks, 2).astype(np.float32)
    found = pixel_metrics(masks, maps)
    assert found.aupro == pytest.approx(brute_force_aupro(masks, maps, 0.3), abs=1e-9)
    assert found.aupro_005 == pytest.approx(brute_force_aupro(masks, maps, 0.05), abs=1e-9)


def test_aupro_by_hand() -> None:
    """Two defects, of 1 and of 2 pixels, and 4 normal pixels.

    Threshold 0.9: no normal pixel, overlaps 1 and 0, so (0, 1/2). Threshold 0.8: one normal pixel and half of the
    second defect, so (1/4, 3/4). Threshold 0.5: (1/2, 1). At FPR 0.3 the last segment gives 3/4 + 0.2/4 = 0.8.
    Area to 0.3: 0.25 (1/2 + 3/4) / 2 + 0.05 (0.75 + 0.8) / 2 = 0.195, divided by 0.3 is 0.65.
    To 0.05: the segment from (0, 1/2) to (0.05, 0.55) has the mean 0.525.
    """
    masks = np.array([[[1, 0, 0, 1, 1, 0, 0]]], dtype=bool)
    maps = np.array([[[0.9, 0.8, 0.1, 0.8, 0.5, 0.5, 0.1]]], dtype=np.float32)
    found = pixel_metrics(masks, maps)
    assert (found.aupro, found.aupro_005) == pytest.approx((0.65, 0.525))


@given(pictures())
def test_aupro_is_the_mean_over_the_regions(case: tuple[NDArray[np.bool_], NDArray[np.float32]]) -> None:
    masks, maps = case
    ranking = rank(masks.ravel(), maps.ravel())
    for limit, whole in ((0.3, "aupro"), (0.05, "aupro_005")):
        overlaps = [region.overlap for region in regions(list(masks), ranking, limit)]
        assert np.mean(overlaps) == pytest.approx(getattr(pixel_metrics(masks, maps), whole), abs=1e-9)
        assert overlaps == sorted(overlaps)


def test_regions_by_hand() -> None:
    """The picture of `test_aupro_by_hand`.

    The first defect is marked before any normal pixel: 1. Half of the second enters between FPR 0 and 1/4: 0.3 - 0.125
    of 0.3. Its other half enters between 1/4 and 1/2, a fifth of it before 0.3: 0.05 x 0.2 / 2 of 0.3.
    """
    masks = np.array([[[1, 0, 0, 1, 1, 0, 0]]], dtype=bool)
    maps = np.array([[[0.9, 0.8, 0.1, 0.8, 0.5, 0.5, 0.1]]], dtype=np.float32)
    second, first = regions(list(masks), rank(masks.ravel(), maps.ravel()))
    assert (second.image, second.x, second.y, second.w, second.h, second.area) == (0, 3, 0, 2, 1, 2)
    assert (first.x, first.area) == (0, 1)
    assert (first.overlap, second.overlap) == pytest.approx((1.0, (0.175 + 0.005) / 0.3 / 2))


def test_pixels_that_touch_at_a_corner_are_one_defect() -> None:
    """Marked half of one two-pixel defect is 0.5; of two defects, one found, it would be as well, but not of 1 + 2."""
    masks = np.zeros((1, 4, 5), bool)
    masks[0, [0, 1, 3], [0, 1, 4]] = True  # a diagonal pair and a single pixel
    maps = np.zeros((1, 4, 5), np.float32)
    maps[0, 3, 4] = 1.0
    expected = brute_force_aupro(masks, maps, 0.3)
    assert pixel_metrics(masks, maps).aupro == pytest.approx(expected)
    assert expected == pytest.approx(0.5 + 0.3 / 4)  # from (0, 1/2) straight to (1, 1)


def test_a_map_equal_to_the_mask_is_perfect() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 2:4, 2:5] = True
    assert pixel_metrics(masks, masks.astype(np.float32)) == PixelMetrics(1.0, 1.0, 1.0, 1.0, 1.0)


# --- masks ------------------------------------------------------------------------------------------------------

binary = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 1))


def brute_force_coverage(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Area resize by growing each pixel to a block that both grids divide."""
    H, W = mask.shape
    fine = np.repeat(np.repeat(mask, height, axis=0), width, axis=1).astype(np.float64)
    return fine.reshape(height, H, width, W).mean(axis=(1, 3))


@given(mask=binary, height=st.integers(1, 10), width=st.integers(1, 10))
def test_every_pixel_at_least_half_covered_is_defect(mask: NDArray[np.uint8], height: int, width: int) -> None:
    covered = brute_force_coverage(mask, height, width) >= 0.5 - 1e-9
    assert (area_mask(mask, height, width) & covered).sum() == covered.sum()


@given(mask=binary, height=st.integers(1, 10), width=st.integers(1, 10))
def test_what_is_added_is_the_most_covered_pixel_of_a_defect_that_would_vanish(
    mask: NDArray[np.uint8], height: int, width: int
) -> None:
    result = area_mask(mask, height, width)
    added = result & ~(brute_force_coverage(mask, height, width) >= 0.5 - 1e-9)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    own = [brute_force_coverage((labels == i).astype(np.uint8), height, width) for i in range(1, count + 1)]
    for y, x in zip(*np.nonzero(added), strict=True):
        assert any(c[y, x] == pytest.approx(c.max()) and c.max() > 0 for c in own)
    assert all(result[c > 0].any() for c in own), "no defect vanishes"


@given(mask=binary)
def test_a_mask_of_the_right_size_stays_as_it_is(mask: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(area_mask(mask * 255, *mask.shape), mask > 0)


def test_exactly_half_counts() -> None:
    mask = np.array([[255, 255, 0, 0], [0, 0, 0, 0]], dtype=np.uint8)
    assert area_mask(mask, 1, 2).tolist() == [[True, False]]


def test_a_scratch_thinner_than_a_pixel_survives() -> None:
    mask = np.zeros((900, 900), np.uint8)
    mask[450:600, 301] = 1
    result = area_mask(mask, 256, 256)
    assert result.sum() == 1
    assert result[:, 301 * 256 // 900].any()


@pytest.mark.parametrize(("column", "hit"), [(4, 1.0), (20, 1.0), (21, 0.0), (60, 0.0)])
def test_the_pointing_game_allows_fifteen_pixels(column: int, hit: float) -> None:
    mask = np.zeros((64, 64), bool)
    mask[:, :6] = True  # its last column is 5
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[30, column] = 0.5
    assert pointing(anomaly_map, mask) == hit


def test_of_highest_pixels_that_tie_the_share_on_the_defect_counts() -> None:
    mask = np.zeros((64, 64), bool)
    mask[30, 4] = True
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[30, [4, 50, 60]] = 1.0
    assert pointing(anomaly_map, mask) == pytest.approx(1 / 3)
