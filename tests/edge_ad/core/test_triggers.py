"""Each trigger ends once: claimed by the first frame that was read after it, or lost for one reason."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core.triggers import Lost, TriggerFigures, TriggerLine
from edge_ad.records import NO_FRAME, Decision, Event, Trigger

TIMEOUT_NS = 100
ROOM = 3


def line() -> TriggerLine:
    return TriggerLine(TIMEOUT_NS, ROOM)


def asked(names: str, *, since_ns: int = 0, lives_ns: int | None = None) -> TriggerLine:
    """A line after triggers of one letter each."""
    waiting = line()
    for name in names:
        waiting.ask(Trigger(name), since_ns, lives_ns)
    return waiting


def lost(waiting: TriggerLine) -> list[tuple[str, str]]:
    return [(each.trigger.trigger_id, each.reason) for each in waiting.take_lost()]


def test_a_frame_is_for_the_trigger_that_has_waited_longest() -> None:
    waiting = asked("ab")
    claimed = [waiting.claim(1), waiting.claim(2), waiting.claim(3)]
    assert claimed == [Trigger("a"), Trigger("b"), None]


def test_a_frame_whose_reading_began_before_the_trigger_came_is_not_for_it() -> None:
    waiting = asked("a", since_ns=10)
    assert waiting.claim(9) is None
    assert waiting.claim(10) == Trigger("a")


@pytest.mark.parametrize(
    ("lives_ns", "at_ns", "reason"),
    [(None, TIMEOUT_NS, "timeout"), (TIMEOUT_NS, TIMEOUT_NS, "timeout"), (40, 40, "missed"), (0, 0, "missed")],
)
def test_a_trigger_waits_until_it_expires_or_its_time_is_over(lives_ns: int | None, at_ns: int, reason: str) -> None:
    waiting = asked("a", lives_ns=lives_ns)
    assert waiting.claim(at_ns) is None
    assert lost(waiting) == [("a", reason)]


def test_one_more_than_there_is_room_for_is_an_overrun_and_the_others_keep_their_place() -> None:
    waiting = asked("abcd")
    assert lost(waiting) == [("d", "overrun")]
    assert not waiting.has_room
    assert waiting.claim(1) == Trigger("a")
    assert waiting.has_room


def test_paused_it_takes_no_trigger_and_running_again_it_does() -> None:
    waiting = line()
    waiting.paused = True
    waiting.ask(Trigger("a"), 0, None)
    assert lost(waiting) == [("a", "paused")]
    waiting.paused = False
    waiting.ask(Trigger("b"), 0, None)
    assert waiting.claim(1) == Trigger("b")


def test_a_lost_trigger_is_a_part_that_was_not_inspected_and_not_captured() -> None:
    trigger = Trigger("a", "A0042", at_ns=5)
    event = Lost(trigger, "overrun").event("top")
    assert event == Event("top", NO_FRAME, None, trigger, 5, Decision("not_inspected", "overrun", None, None))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.none() | st.integers(0, 2 * TIMEOUT_NS)),
        st.tuples(st.sampled_from(["claim", "time", "pause", "run", "end"]), st.none()),
    ),
    max_size=60,
)


@given(steps, st.lists(st.integers(0, TIMEOUT_NS), min_size=60, max_size=60))
def test_whatever_happens_each_trigger_is_claimed_or_lost_once_and_the_figures_say_so(
    happened: list[tuple[str, int | None]], pauses_ns: list[int]
) -> None:
    waiting, now_ns, ended, came = line(), 0, Counter[str](), 0
    for (what, lives_ns), pause_ns in zip(happened, pauses_ns, strict=False):
        now_ns += pause_ns
        if what == "ask":
            came += 1
            waiting.ask(Trigger(str(came)), now_ns, lives_ns)
        elif what == "claim":
            claimed = waiting.claim(now_ns)
            ended.update([claimed.trigger_id] if claimed is not None else [])
        elif what == "time":
            waiting.pass_time(now_ns)
        elif what == "end":
            waiting.lose_all("missed")
        else:
            waiting.paused = what == "pause"
        ended.update(each.trigger.trigger_id for each in waiting.take_lost())
        figures = waiting.figures()
        assert (figures.asked, figures.waiting) == (came, came - ended.total())
        assert figures.waiting <= ROOM
    waiting.lose_all("missed")
    ended.update(each.trigger.trigger_id for each in waiting.take_lost())
    assert ended == Counter(str(number) for number in range(1, came + 1))


def test_the_figures_tell_why_triggers_were_lost() -> None:
    waiting = asked("abcd")
    waiting.pass_time(TIMEOUT_NS)
    waiting.paused = True
    waiting.ask(Trigger("e"), TIMEOUT_NS, None)
    assert waiting.figures() == TriggerFigures(waiting=0, asked=5, paused=1, missed=0, timeouts=3, overruns=1)
