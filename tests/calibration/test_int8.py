"""Rules of the activation ranges for INT8."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from calibration.int8 import BINS, PERCENTILE, RANGE_RULES, Magnitudes, histogram, least_error, observe, squared_error

values = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e3, 1e3, width=32))


def seen(array: NDArray[np.float32]) -> Magnitudes:
    largest = float(np.abs(array).max())
    return Magnitudes(largest, histogram(array, largest))


def bell_with_an_outlier() -> Magnitudes:
    """100,000 values of a normal distribution, and one at 40 sigma."""
    return seen(np.append(np.random.default_rng(0).normal(size=100_000), 40).astype(np.float32))


@given(values)
def test_every_value_is_counted_once(array: NDArray[np.float32]) -> None:
    counts = seen(array).counts
    assert (len(counts), counts.sum()) == (BINS, array.size)


@given(values, values)
def test_the_magnitudes_of_two_images_are_those_of_both_together(
    one: NDArray[np.float32], two: NDArray[np.float32]
) -> None:
    images = {0: one, 1: two}
    found = observe(lambda image: {"t": images[int(image[0])]}, [np.array([i], np.uint8) for i in images])["t"]
    together = seen(np.concatenate([one, two]))
    assert found.largest == together.largest
    assert np.array_equal(found.counts, together.counts)


@pytest.mark.parametrize("rule", RANGE_RULES)
@given(array=values)
def test_a_range_is_never_beyond_the_largest_magnitude_and_0_only_for_zeros(
    rule: str, array: NDArray[np.float32]
) -> None:
    magnitudes = seen(array)
    found = RANGE_RULES[rule](magnitudes)
    assert 0 <= found <= magnitudes.largest
    assert (found == 0) == (magnitudes.largest == 0)


@pytest.mark.parametrize(("rule", "sigmas"), [("percentile", 5), ("least error", 30)])
def test_one_outlier_does_not_decide(rule: str, sigmas: float) -> None:
    assert RANGE_RULES[rule](bell_with_an_outlier()) < sigmas


def test_the_largest_magnitude_clips_nothing() -> None:
    assert RANGE_RULES["largest"](bell_with_an_outlier()) == 40


def test_the_percentile_clips_no_more_than_its_share() -> None:
    magnitudes = bell_with_an_outlier()
    inside = round(RANGE_RULES["percentile"](magnitudes) / magnitudes.largest * BINS)
    assert magnitudes.counts[:inside].sum() / magnitudes.counts.sum() >= PERCENTILE


@given(values)
def test_the_least_error_is_not_above_that_of_clipping_nothing(array: NDArray[np.float32]) -> None:
    magnitudes = seen(array)
    centres = (np.arange(BINS) + 0.5) * (magnitudes.largest / BINS)
    found, all_of_it = (
        squared_error(centres, magnitudes.counts, r) for r in (least_error(magnitudes), magnitudes.largest)
    )
    assert found <= all_of_it
