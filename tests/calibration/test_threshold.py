"""Rules of the threshold: what it promises, against scipy's distributions and against simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from calibration.threshold import (
    Guarantee,
    binomial_cdf,
    expected_rate,
    fit,
    guarantee,
    reached_confidence,
    required_images,
    supported_rate,
)
from edge_ad.errors import CalibrationError

rates = st.floats(1e-4, 0.6)
confidences = st.floats(0.01, 0.9999)
DRAWS = 10_000


# --- the promise, against scipy ---------------------------------------------------------------------------------


@given(n=st.integers(1, 3000), p=st.floats(1e-6, 1 - 1e-6))
def test_the_binomial_distribution_is_scipys(n: int, p: float) -> None:
    expected = stats.binom.cdf(np.arange(n + 1), n, p)
    np.testing.assert_allclose(binomial_cdf(n, p), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("p", [1e-6, 1e-3, 0.01, 0.5, 0.99])
def test_the_binomial_distribution_is_sound_for_a_million_images(p: float) -> None:
    n = 1_000_000
    k = np.unique(np.clip(stats.binom.ppf([1e-12, 0.01, 0.05, 0.5, 0.95], n, p), 0, n)).astype(int)
    np.testing.assert_allclose(binomial_cdf(n, p)[k], stats.binom.cdf(k, n, p), rtol=1e-8)


@pytest.mark.parametrize("confidence", [1e-5, 1e-12, 1e-13, 1e-300])
@pytest.mark.parametrize("n", [1, 30, 300])
def test_a_confidence_however_low_gives_a_rank_that_there_is(n: int, confidence: float) -> None:
    found = guarantee(n, 0.1, confidence)
    assert 1 <= found.rank <= n
    assert stats.beta.cdf(0.1, n - found.rank + 1, found.rank) >= confidence - 1e-15


@given(n=st.integers(1, 5000), rate=rates, confidence=confidences)
def test_the_rank_is_the_smallest_that_reaches_the_confidence(n: int, rate: float, confidence: float) -> None:
    try:
        found = guarantee(n, rate, confidence)
    except CalibrationError:
        assert stats.beta.cdf(rate, 1, n) < confidence + 1e-9
        return
    assert 1 <= found.rank <= n
    assert stats.beta.cdf(rate, n - found.rank + 1, found.rank) >= confidence - 1e-9
    if found.rank > 1:
        assert stats.beta.cdf(rate, n - found.rank + 2, found.rank - 1) < confidence + 1e-9


@given(n=st.integers(1, 2000), rate=rates, data=st.data())
def test_what_is_reported_as_reached_is_the_beta_distributions(n: int, rate: float, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, n))
    beta = stats.beta(n - rank + 1, rank)
    assert reached_confidence(n, rank, rate) == pytest.approx(beta.cdf(rate), abs=1e-10)
    assert expected_rate(n, rank) == pytest.approx(beta.mean())


@given(n=st.integers(1, 2000), rate=rates, confidence=st.floats(0.01, 0.99))
def test_the_guarantee_reports_what_its_rank_reaches(n: int, rate: float, confidence: float) -> None:
    if n < required_images(rate, confidence):
        return
    found = guarantee(n, rate, confidence)
    assert found.reached_confidence >= confidence * (1 - 1e-9)
    assert found.reached_confidence == pytest.approx(reached_confidence(n, found.rank, rate))


@pytest.mark.parametrize(("rate", "n"), [(0.05, 59), (0.01, 299), (0.001, 2995)])
def test_the_published_sample_sizes(rate: float, n: int) -> None:
    """With the maximum as the threshold at 95 %: 5 % needs 59 images, 1 % 299, 0.1 % 2,995."""
    assert required_images(rate, 0.95) == n
    assert guarantee(n, rate, 0.95).rank == n
    with pytest.raises(CalibrationError, match=rf"needs {n:,} independent good images, there are {n - 1:,}"):
        guarantee(n - 1, rate, 0.95)


@given(rate=rates, confidence=confidences)
def test_the_number_that_a_refusal_names_is_exactly_the_smallest_supported(rate: float, confidence: float) -> None:
    n = required_images(rate, confidence)
    assert guarantee(n, rate, confidence).rank == n
    with pytest.raises(CalibrationError, match=f"needs {n:,} "):
        guarantee(n - 1, rate, confidence)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.95])
def test_a_wish_met_exactly_is_met(rate: float) -> None:
    """One image with the maximum as the threshold keeps a rate p with confidence exactly p."""
    assert required_images(rate, rate) == 1
    assert guarantee(1, rate, rate).rank == 1


@given(n=st.integers(3, 5000))
def test_the_rate_that_a_refusal_offers_is_supported(n: int) -> None:
    with pytest.raises(CalibrationError) as refused:
        guarantee(n, 1e-6, 0.95)
    offered = float(str(refused.value).rsplit(" ", 1)[1])
    assert guarantee(n, offered, 0.95).rank == n
    assert offered == pytest.approx(supported_rate(n, 0.95), rel=0.011)


@pytest.mark.parametrize(
    ("rate", "confidence", "named"),
    [
        (0.0, 0.95, "rate 0"),
        (1.0, 0.95, "rate 1"),
        (-0.1, 0.95, "rate -0.1"),
        (float("nan"), 0.95, "rate nan"),
        (0.01, 0.0, "confidence 0"),
        (0.01, 1.0, "confidence 1"),
        (0.01, float("nan"), "confidence nan"),
    ],
)
def test_a_wish_out_of_range_is_refused_by_name(rate: float, confidence: float, named: str) -> None:
    with pytest.raises(CalibrationError, match=f"{named} is out of range"):
        guarantee(1000, rate, confidence)


def test_no_images_support_nothing() -> None:
    with pytest.raises(CalibrationError, match=r"needs 299 independent good images, there are 0: add images$"):
        guarantee(0, 0.01, 0.95)


# --- the promise, by simulation ---------------------------------------------------------------------------------

CONTINUOUS = {
    "normal": stats.norm(),
    "Cauchy (heavy tail)": stats.cauchy(),
    "log-normal (skewed)": stats.lognorm(2.0),
    "beta (scores near 0)": stats.beta(0.3, 8),
}
DISCRETE = {
    "Poisson (ties)": stats.poisson(3),
    "geometric (ties)": stats.geom(0.05),
    "two values (nearly all tied)": stats.bernoulli(0.005),
}


def exceeding(promise: Guarantee, true_rates: NDArray[np.float64]) -> int:
    """How many of the draws have a true false-alarm rate above the wish."""
    return int((true_rates > promise.false_alarm_rate * (1 + 1e-12)).sum())


def simulate(
    draw: Callable[..., NDArray[np.float64]], rate_above: Callable[..., NDArray[np.float64]], n: int, rank: int
):  # type: ignore[no-untyped-def]
    """The true false-alarm rates of DRAWS thresholds, each the rank-th smallest of n fresh scores."""
    rng = np.random.default_rng(20_261_122)
    scores = np.sort(draw(size=(DRAWS, n), random_state=rng), axis=1)
    return rate_above(scores[:, rank - 1])


def p_value(exceeded: int, confidence: float) -> float:
    """Exact one-sided binomial test of "a draw exceeds the wish with probability at most 1 - confidence"."""
    return float(stats.binomtest(exceeded, DRAWS, 1 - confidence, alternative="greater").pvalue)


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
@pytest.mark.parametrize(("n", "rate"), [(299, 0.01), (473, 0.01), (100, 0.05)])
def test_the_true_rate_exceeds_the_wish_in_at_most_5_percent_of_10000_draws(name: str, n: int, rate: float) -> None:
    """Whatever the scores' distribution.

    The Monte-Carlo error is allowed for by an exact binomial test at 0.00135 (3 sigma): 10,000 draws with a true
    5 % are refused above 567. The control below shows that the test has the power to see a rank too low.
    """
    distribution = (CONTINUOUS | DISCRETE)[name]
    promise = guarantee(n, rate, 0.95)
    true_rates = simulate(distribution.rvs, distribution.sf, n, promise.rank)
    assert p_value(exceeding(promise, true_rates), 0.95) > 0.00135


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_simulation_would_see_a_rank_that_is_one_too_low(name: str) -> None:
    promise = guarantee(473, 0.01, 0.95)
    true_rates = simulate(CONTINUOUS[name].rvs, CONTINUOUS[name].sf, 473, promise.rank - 1)
    assert p_value(exceeding(promise, true_rates), 0.95) < 1e-9


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_mean_true_rate_is_the_expected_one(name: str) -> None:
    promise = guarantee(473, 0.01, 0.95)
    true_rates = simulate(CONTINUOUS[name].rvs, CONTINUOUS[name].sf, 473, promise.rank)
    assert true_rates.mean() == pytest.approx(promise.expected_rate, abs=4 * true_rates.std() / DRAWS**0.5)


# --- the thresholds ---------------------------------------------------------------------------------------------

# few distinct values, so that ties are common
maps = hnp.arrays(np.float64, st.tuples(st.integers(1, 80), st.integers(1, 12)), elements=st.integers(0, 20).map(float))


@given(maps=maps, rate=st.floats(0.05, 0.9), data=st.data())
def test_a_defect_always_has_a_marked_pixel(maps: NDArray[np.float64], rate: float, data: st.DataObject) -> None:
    """Pixel threshold <= image threshold, and max pixel >= score > image threshold."""
    k = data.draw(st.integers(1, maps.shape[1]))
    top = np.sort(maps, axis=1)[:, ::-1][:, :k]
    found = fit(top.mean(axis=1), top[:, -1], rate, min(0.5, 1 - (1 - rate) ** len(maps)))
    assert found.pixel_threshold <= found.image_threshold
    part = data.draw(hnp.arrays(np.float64, maps.shape[1], elements=st.integers(0, 40).map(float)))
    if np.sort(part)[::-1][:k].mean() > found.image_threshold:
        assert part.max() > found.pixel_threshold


def test_the_pixel_threshold_stays_at_the_image_threshold_where_the_mean_rounds_down() -> None:
    """The mean of k equal float32 pixels can be one unit below each of them."""
    scores = np.full(59, np.nextafter(np.float32(0.7), np.float32(0)), np.float32)
    found = fit(scores, np.full(59, 0.7, np.float32), 0.05, 0.95)
    assert found.pixel_threshold == found.image_threshold == float(scores[0])


@given(
    scores=hnp.arrays(np.float32, st.integers(30, 300), elements=st.integers(-9, 9).map(float)),
    rate=st.floats(0.1, 0.5),
)
def test_of_the_good_images_themselves_no_more_alarm_than_lie_above_the_rank(
    scores: NDArray[np.float32], rate: float
) -> None:
    """Ties can only lower the number."""
    found = fit(scores, scores, rate, 0.9)
    alarms = int((scores > found.image_threshold).sum())
    assert alarms <= len(scores) - found.guarantee.rank
    assert found.image_threshold in scores


@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_images_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=120).astype(np.float32)
    order = rng.permutation(120)
    assert fit(scores, scores - 1, 0.05, 0.95) == fit(scores[order], (scores - 1)[order], 0.05, 0.95)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_a_fault_of_the_caller(bad: float) -> None:
    scores = np.zeros(100, np.float32)
    scores[7] = bad
    with pytest.raises(ValueError, match="must be finite"):
        fit(scores, np.zeros(100, np.float32), 0.05, 0.95)
