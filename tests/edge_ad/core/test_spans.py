"""Sets of numbers in runs are sets of numbers, and what is missing is what lies between and was not heard of."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core.spans import Heard, Span, Spans

spans = st.builds(lambda first, length: Span(first, first + length), st.integers(1, 40), st.integers(0, 12))
many = st.lists(spans, max_size=12)


def numbers(of: Iterable[Span]) -> set[int]:
    return {number for span in of for number in range(span.first, span.last + 1)}


def is_in_runs(found: Spans) -> bool:
    runs = list(found)
    return all(a.last + 1 < b.first for a, b in pairwise(runs)) and all(len(run) > 0 for run in runs)


@given(st.lists(st.tuples(st.booleans(), spans), max_size=30))
def test_what_was_put_in_and_not_taken_out_again_is_in_it(steps: list[tuple[bool, Span]]) -> None:
    found, expected = Spans(), set[int]()
    for put_in, span in steps:
        if put_in:
            found.add(span)
            expected |= numbers([span])
        else:
            found.discard(span)
            expected -= numbers([span])
        assert numbers(found) == expected
        assert is_in_runs(found)
    assert (found.count(), bool(found)) == (len(expected), bool(expected))
    assert {number for number in range(60) if number in found} == expected


@given(many, many)
def test_within_and_without_are_intersection_and_difference(some: list[Span], others: list[Span]) -> None:
    assert numbers(Spans(some).within(others)) == numbers(some) & numbers(others)
    assert numbers(Spans(some).without(others)) == numbers(some) - numbers(others)
    assert is_in_runs(Spans(some).within(others))


@given(st.lists(st.tuples(st.booleans(), spans), max_size=30))
def test_missing_is_what_lies_between_the_first_and_the_last_and_was_not_heard_of(
    steps: list[tuple[bool, Span]],
) -> None:
    """`steps`: numbers that were heard of, or that there is a number up to the end of a span."""
    heard, known, expected = Heard(), set[int](), 0
    for was_heard, span in steps:
        if was_heard:
            heard.take(span)
            known |= numbers([span])
        else:
            heard.expect(span.last)
        expected = max(expected if known else 0, span.last if known else 0)
        if known:
            assert numbers(heard.missing) == set(range(min(known), expected + 1)) - known
            assert (heard.first, heard.last) == (min(known), expected)
        else:
            assert not heard.missing
