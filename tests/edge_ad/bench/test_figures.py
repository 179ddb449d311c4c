"""Rules of the bench's statistics."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.bench.figures import STAGES, Ceiling, Sample, find_ceiling, quantiles, speed, summarise

times = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300)
factors = st.lists(st.floats(0.1, 10), min_size=1, max_size=6)


def sample(engine_ms: list[float], scale: float = 1.0, start_s: float = 1.0) -> Sample:
    """A round in which the step takes 1 ms more than the engine."""
    engine = [ms * scale for ms in engine_ms]
    step = [ms + 1.0 for ms in engine]
    flat = [0.5] * len(engine)
    return Sample(start_s, {"pre": flat, "engine": engine, "post": flat, "step": step}, 80_000_000, 90_000_000)


@given(times)
def test_a_quantile_is_a_time_that_was_measured_and_bounds_its_share(values: list[float]) -> None:
    found = quantiles(values)
    assert found.p50 <= found.p95 <= found.p99
    for value, share in ((found.p50, 0.5), (found.p95, 0.95), (found.p99, 0.99)):
        assert value in values
        assert sum(other > value for other in values) <= (1 - share) * len(values) + 1e-9


@given(times, st.randoms(use_true_random=False))
def test_the_order_of_the_frames_does_not_matter(values: list[float], order: random.Random) -> None:
    assert quantiles(order.sample(values, len(values))) == quantiles(values)


def test_quantiles_of_a_hundred() -> None:
    found = quantiles([float(ms) for ms in range(1, 101)])
    assert (found.p50, found.p95, found.p99) == (50, 95, 99)


def test_no_times_have_no_quantiles() -> None:
    with pytest.raises(ValueError, match="no times"):
        quantiles([])


@given(factors)
def test_a_slower_hour_for_both_sides_does_not_change_the_ratio(slowdowns: list[float]) -> None:
    """Each round has its own load; an engine that is twice as fast in each stays so."""
    fast = [sample([10.0, 11.0, 12.0], scale) for scale in slowdowns]
    slow = [sample([20.0, 22.0, 24.0], scale) for scale in slowdowns]
    ratio = speed(fast, slow)
    assert (ratio.lowest, ratio.median, ratio.highest) == pytest.approx((2.0, 2.0, 2.0))
    assert speed(slow, slow).median == 1.0


def test_sides_of_different_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        speed([sample([1.0])], [sample([1.0]), sample([1.0])])


def test_the_ceiling_is_the_best_of_the_medians() -> None:
    assert find_ceiling({"a": [1.0, 9.0, 2.0], "b": [3.0, 3.0, 3.0]}) == Ceiling("b", 3.0)
    assert find_ceiling({}) is None


def test_the_share_of_the_ceiling_is_that_of_the_median_engine_time() -> None:
    found = summarise([sample([9.0] * 10)], [sample([18.0])], 90_000_000, Ceiling("b", 40.0))
    assert found.ceiling_share == pytest.approx(0.25)
    assert summarise([sample([9.0])], [sample([18.0])], 90_000_000).ceiling_share is None


def test_the_figures_of_known_times() -> None:
    found = summarise(
        [sample([9.0] * 10, start_s=0.5), sample([9.0] * 10, start_s=0.7)], [sample([18.0])] * 2, 90_000_000
    )
    assert found.ms.keys() == set(STAGES)
    assert found.ms["step"].p99 == 10.0
    assert found.frames_per_s == pytest.approx(100.0)
    assert found.gmacs_per_s == pytest.approx(10.0)
    assert found.cold_start_s == [0.5, 0.7]
    assert (found.resident_mb, found.peak_mb) == (80.0, 90.0)
    assert found.speed.median == 2.0
