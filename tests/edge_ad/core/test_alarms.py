"""The alarm state machine: only documented states, no acknowledgement without a raise, and silence that ends."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.core.alarms import (
    MEANING,
    TRANSITIONS,
    AlarmEvent,
    AlarmInput,
    AlarmRules,
    AlarmState,
    Condition,
    InputKind,
    Trigger,
    shown,
    silence,
    step,
    target,
)

DOC = Path(__file__).parents[3] / "docs" / "alarms.md"
SECOND = 1_000_000_000
SILENCES = ("out_of_service", "suppressed", "shelved")

rules = st.builds(
    AlarmRules,
    acknowledge=st.booleans(),
    latch=st.booleans(),
    raise_parts=st.integers(1, 3),
    of_parts=st.integers(3, 5),
    reset_parts=st.integers(1, 3),
    raises_per_minute=st.none() | st.integers(1, 3),
    realarm_s=st.none() | st.integers(10, 100),
    out_of_service=st.sampled_from([False, False, False, True]),
)
kinds = st.sampled_from([*get_args(InputKind), "bad", "bad", "good"])
steps = st.lists(st.tuples(kinds, st.integers(0, 40), st.integers(1, 120)), max_size=60)
Steps = list[tuple[InputKind, int, int]]


def history(
    given_rules: AlarmRules, happened: Steps
) -> list[tuple[AlarmState, AlarmInput, AlarmState, list[AlarmEvent]]]:
    """(before, input, after, events) of each step; each input comes so many seconds after the one before."""
    state, now_ns, all_of_it = AlarmState(), 0, []
    for seq, (kind, pause_s, seconds) in enumerate(happened, start=1):
        now_ns += pause_s * SECOND
        seconds_or_none = float(seconds) if kind == "shelve" else 0.0
        one = AlarmInput(kind, now_ns, seq if kind in ("bad", "good") else None, None, seconds_or_none)
        after, events = step(state, one, given_rules)
        all_of_it.append((state, one, after, list(events)))
        state = after
    return all_of_it


def run(word: str, given_rules: AlarmRules) -> tuple[AlarmState, list[str]]:
    """Give one input a second, each by its letter; the state then, and the kinds of the events."""
    names: dict[str, InputKind] = {
        "b": "bad",
        "g": "good",
        "a": "acknowledge",
        "r": "reset",
        "s": "shelve",
        "u": "unshelve",
        "t": "time",
        "c": "cause",
        "n": "gone",
    }
    state, told = AlarmState(), []
    for number, letter in enumerate(word, start=1):
        one = AlarmInput(names[letter], number * SECOND, number, 0.5, seconds=10.0, by="anna")
        state, events = step(state, one, given_rules)
        told += [event.kind for event in events]
    return state, told


PLAIN = AlarmRules()
ISA = AlarmRules(acknowledge=True)


@pytest.mark.parametrize(
    ("word", "given_rules", "condition", "told"),
    [
        ("gbbgg", PLAIN, "normal", ["raised", "cleared"]),
        ("b", PLAIN, "active", ["raised"]),
        ("ba", PLAIN, "active", ["raised"]),
        ("b", ISA, "unacknowledged", ["raised"]),
        ("bag", ISA, "normal", ["raised", "acknowledged", "cleared"]),
        ("bg", ISA, "returned_unacknowledged", ["raised", "returned"]),
        ("bga", ISA, "normal", ["raised", "returned", "acknowledged", "cleared"]),
        ("bgb", ISA, "unacknowledged", ["raised", "returned", "raised"]),
        ("bg", AlarmRules(latch=True), "latched", ["raised", "returned"]),
        ("bgggr", AlarmRules(latch=True), "normal", ["raised", "returned", "cleared"]),
        ("br", AlarmRules(latch=True), "active", ["raised"]),
        ("bagr", AlarmRules(acknowledge=True, latch=True), "normal", ["raised", "acknowledged", "returned", "cleared"]),
        ("bgbgbb", AlarmRules(raise_parts=3, of_parts=5), "active", ["raised"]),
        ("bggggbgb", AlarmRules(raise_parts=3, of_parts=5), "normal", []),
        ("bgbgg", AlarmRules(reset_parts=2), "normal", ["raised", "cleared"]),
        ("bgbg", AlarmRules(reset_parts=2), "active", ["raised"]),
        ("sbg", PLAIN, "normal", ["shelved"]),
        ("sbu", PLAIN, "active", ["shelved", "unshelved", "raised"]),
        ("bsgu", PLAIN, "normal", ["raised", "shelved", "unshelved", "cleared"]),
        ("sbtttttttttt", PLAIN, "active", ["shelved", "unshelved", "raised"]),
        ("cnc", PLAIN, "active", ["raised", "cleared", "raised"]),
        ("bgbgbg", AlarmRules(raises_per_minute=2), "normal", ["raised", "cleared", "raised", "cleared"]),
        ("b" + 10 * "t", AlarmRules(realarm_s=10), "active", ["raised", "realarmed"]),
        ("ba" + 20 * "t", AlarmRules(acknowledge=True, realarm_s=10), "acknowledged", ["raised", "acknowledged"]),
        ("bg", AlarmRules(out_of_service=True), "normal", []),
    ],
)
def test_what_happens_and_what_is_told(word: str, given_rules: AlarmRules, condition: str, told: list[str]) -> None:
    state, events = run(word, given_rules)
    assert (state.condition, events) == (condition, told)


def test_a_raise_that_the_cap_held_back_is_told_when_there_is_room_while_it_still_holds() -> None:
    state, told = run("bgb" + 60 * "t", AlarmRules(raises_per_minute=1))
    assert told == ["raised", "cleared", "raised"]
    assert state.withheld == 1


def test_an_activation_that_the_cap_holds_back_counts_once_however_often_it_returns() -> None:
    state, _ = run("bgrbgbg", AlarmRules(latch=True, raises_per_minute=1))
    assert state.withheld == 2  # bad parts 2 and 3 after the reset


@pytest.mark.parametrize("word", ["s" + 6 * "bg" + "bu", "s" + 6 * "bg" + "bb"])
def test_activations_that_nobody_was_to_hear_of_are_not_counted_with_the_next(word: str) -> None:
    state, _ = run(word, PLAIN)
    assert state.count == word[-2:].count("b")


def test_an_acknowledgement_says_when_and_by_whom_and_ends_with_the_activation() -> None:
    acknowledged, _ = run("ba", ISA)
    assert (acknowledged.acknowledged_ns, acknowledged.acknowledged_by) == (2 * SECOND, "anna")
    again, _ = run("bagb", ISA)
    assert (again.acknowledged_ns, again.acknowledged_by) == (None, None)


def test_the_bad_parts_of_an_activation_are_counted_those_that_raised_it_included() -> None:
    events: list[AlarmEvent] = []
    state = AlarmState()
    for number, kind in enumerate(("bad", "good", "bad", "bad", "good"), start=1):
        state, told = step(state, AlarmInput(kind, number, number), AlarmRules(raise_parts=2, of_parts=3))  # type: ignore[arg-type]
        events += told
    assert [(event.kind, event.seq, event.count) for event in events] == [("raised", 3, 2), ("cleared", 5, 3)]
    assert state.count == 0


@given(rules, steps)
def test_no_sequence_reaches_an_undocumented_state(given_rules: AlarmRules, happened: Steps) -> None:
    documented = {(row[0], row[3]) for row in TRANSITIONS}
    for before, one, after, _ in history(given_rules, happened):
        assert after.condition in get_args(Condition)
        assert shown(after, given_rules) in (*get_args(Condition), *SILENCES)
        if after.condition != before.condition and one.kind != "configured":
            assert (before.condition, after.condition) in documented


@given(rules, steps)
def test_what_is_acknowledged_was_raised_before_and_not_cleared_since(given_rules: AlarmRules, happened: Steps) -> None:
    told = [event.kind for *_, events in history(given_rules, happened) for event in events]
    last = "cleared"
    for kind in told:
        if kind in ("acknowledged", "realarmed", "returned", "cleared"):
            assert last in ("raised", "returned")
        if kind in ("raised", "returned", "cleared"):
            assert kind != last or kind == "raised"
            last = kind


@given(rules, steps)
def test_a_latched_alarm_gets_normal_by_a_reset_only(given_rules: AlarmRules, happened: Steps) -> None:
    latching = replace(given_rules, latch=True)
    for before, one, after, _ in history(latching, happened):
        if before.condition == "latched" and after.condition == "normal":
            assert one.kind == "reset"
        if before.condition != "normal" and after.condition == "normal":
            assert before.condition == "latched"


@given(rules, steps)
def test_an_alarm_that_wants_an_acknowledgement_gets_normal_after_one_only(
    given_rules: AlarmRules, happened: Steps
) -> None:
    for before, _, after, _ in history(replace(given_rules, acknowledge=True), happened):
        if before.condition != "normal" and after.condition == "normal":
            assert after.acknowledged_ns is not None


@given(rules, steps, st.integers(0, 10**12))
def test_shelving_always_ends(given_rules: AlarmRules, happened: Steps, much_later_s: int) -> None:
    for _, one, after, _ in history(given_rules, happened):
        ended, _ = step(after, AlarmInput("time", one.at_ns + 121 * SECOND + much_later_s), given_rules)
        assert ended.shelved_ns is None
        if after.shelved_ns is not None:
            set_back, _ = step(after, AlarmInput("time", after.shelved_ns[0] - 1), given_rules)
            assert set_back.shelved_ns is None


@given(rules, steps)
def test_the_rate_cap_holds(given_rules: AlarmRules, happened: Steps) -> None:
    told = [event for *_, events in history(given_rules, happened) for event in events]
    raises_ns = [event.at_ns for event in told if event.kind == "raised"]
    cap = given_rules.raises_per_minute
    if cap is not None:
        assert all(later - first >= 60 * SECOND for first, later in zip(raises_ns, raises_ns[cap:], strict=False))


@given(rules, steps)
def test_while_silenced_nothing_of_its_condition_is_told(given_rules: AlarmRules, happened: Steps) -> None:
    for before, _, after, events in history(given_rules, happened):
        if silence(before, given_rules) is not None and silence(after, given_rules) is not None:
            assert not {event.kind for event in events} & {"raised", "realarmed", "returned", "cleared"}


@given(rules, steps)
def test_without_silence_and_cap_what_was_told_is_what_is(given_rules: AlarmRules, happened: Steps) -> None:
    for _, _, after, _ in history(replace(given_rules, raises_per_minute=None), happened):
        if silence(after, given_rules) is None:
            assert after.announced == MEANING[after.condition]


@given(rules, rules, steps)
def test_after_other_rules_came_in_force_no_duty_is_left_that_they_do_not_know(
    old: AlarmRules, new: AlarmRules, happened: Steps
) -> None:
    for _, one, after, _ in history(old, happened):
        configured, _ = step(after, AlarmInput("configured", one.at_ns), new)
        if not new.acknowledge:
            assert configured.condition not in ("unacknowledged", "acknowledged", "returned_unacknowledged")
            assert new.latch or configured.condition != "latched"


@settings(max_examples=50)
@given(rules)
def test_the_table_is_unambiguous(given_rules: AlarmRules) -> None:
    for condition, trigger in itertools.product(get_args(Condition), get_args(Trigger)):
        target(condition, trigger, given_rules)
        guards = [row[2] for row in TRANSITIONS if row[:2] == (condition, trigger)]
        assert guards in ([], [""], ["acknowledge", "no acknowledge"], ["latch", "no latch"], guards[:1])


def test_the_document_shows_the_table_of_the_code() -> None:
    lines = [line for line in DOC.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    shown_rows = {tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in lines}
    assert {row for row in shown_rows if len(row) == 4} == set(TRANSITIONS)
