"""Every row is told, in order, however often the connection breaks; as present only what is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core.rows import Row
from edge_ad.sparkplug.feed import Feed

RESEND_S = 10.0
STEPS = st.one_of(
    st.tuples(st.just("store"), st.integers(1, 5)),
    st.tuples(st.just("turn"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.integers(1, 30)),
    st.tuples(st.just("break"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
)


class Line:
    """An outbox, a feed and a host that hears everything but what is on its way when the connection breaks."""

    def __init__(self) -> None:
        self.stored = 0
        self.now_s = 0.0
        self.feed = Feed(0, RESEND_S)
        self.heard: list[tuple[int, bool]] = []  # (row, historical), of all sessions
        self.session: list[tuple[float, int, bool]] = []  # of the present one, with when it was sent

    def step(self, step: str, number: int) -> None:
        if step == "store":
            self.stored += number
        elif step == "turn":
            self.turn(limit=number)
        elif step == "wait":
            self.now_s += number
            self.feed.pass_time(self.now_s)
        else:
            self.lose(restart=step == "restart")

    def turn(self, limit: int) -> None:
        rows = [Row(row_id, None) for row_id in range(self.feed.sent_id + 1, self.stored + 1)]
        more_wait = len(rows) > limit
        for told in self.feed.take(rows[:limit], more_wait=more_wait):
            self.session.append((self.now_s, told.row.id, told.historical))
            self.feed.sent(told.row.id)
        if more_wait:
            self.feed.shown(self.stored)  # the newest part was told beside them
        self.feed.pass_time(self.now_s)

    def lose(self, *, restart: bool) -> None:
        """The connection breaks: what was sent within the time to notice it is lost."""
        self.heard += [(row, old) for at_s, row, old in self.session if self.now_s - at_s >= RESEND_S]
        self.session = []
        self.feed.interrupted()
        if restart:
            self.feed = Feed(self.feed.settled_id, RESEND_S)
        self.feed.shown(self.stored)  # the next birth


@given(st.lists(STEPS, max_size=60))
def test_no_row_is_lost_and_copies_are_history(steps: list[tuple[str, int]]) -> None:
    line = Line()
    for step in steps:
        line.step(*step)
    while line.feed.sent_id < line.stored:
        line.turn(limit=4)
    heard = line.heard + [(row, old) for _, row, old in line.session]
    assert {row for row, _ in heard} == set(range(1, line.stored + 1))
    present = [row for row, historical in heard if not historical]
    assert present == sorted(set(present))


@given(st.lists(STEPS, max_size=60))
def test_while_the_connection_stands_each_row_is_told_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    line = Line()
    for step in steps:
        line.step(*step)
        rows = [row for _, row, _ in line.session]
        assert rows == list(range(rows[0], rows[0] + len(rows))) if rows else True


@given(st.integers(1, 20), st.integers(2, 9))
def test_what_is_stored_before_a_birth_is_history_and_what_comes_after_is_present(before: int, after: int) -> None:
    feed = Feed(0, RESEND_S)
    feed.shown(before)
    rows = [Row(row_id, None) for row_id in range(1, before + after + 1)]
    told = feed.take(rows, more_wait=False)
    assert [each.historical for each in told] == [True] * before + [False] * after


def test_an_acknowledgement_settles_all_that_was_sent_before() -> None:
    feed = Feed(0, RESEND_S)
    feed.sent(7)
    feed.pass_time(0.0)
    assert feed.settled_id == 0
    feed.confirmed()
    feed.interrupted()
    assert (feed.settled_id, feed.sent_id) == (7, 7)
