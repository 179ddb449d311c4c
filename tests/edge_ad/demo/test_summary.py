"""The demo's figures against an independent implementation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from edge_ad.demo.summary import Summary, clopper_pearson


@settings(max_examples=40)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_that_of_scipy(case: tuple[int, int]) -> None:
    k, n = case
    expected = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(k, n, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_an_impossible_count_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="need 0 <= k <= n"):
        clopper_pearson(k, n, 0.95)


@pytest.mark.parametrize(("false_alarms", "kept"), [(0, True), (8, True), (14, True), (30, False)])
def test_more_false_alarms_than_chance_explains_break_the_wish(false_alarms: int, kept: bool) -> None:
    summary = Summary(100, 168, 60, false_alarms, 0, 0, 0.05)
    assert summary.keeps_its_wish is kept


def test_a_part_without_a_result_or_with_two_is_not_complete() -> None:
    assert Summary(1, 1, 0, 0, 0, 0, 0.05).complete
    assert not Summary(1, 1, 0, 0, 1, 0, 0.05).complete
    assert not Summary(1, 1, 0, 0, 0, 1, 0.05).complete
