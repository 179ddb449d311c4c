"""All alarms of a camera: what a part says to each of them, and which suppress which."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.core.alarm_board import CAMERA, DEFAULT_RULES, DEFECT, NO_ALARMS, Alarms, Rules, take, take_part
from edge_ad.core.alarms import AlarmInput, AlarmRules
from edge_ad.records import Decision

OK = Decision("ok", None, 0.3, 0.5, calibration=1)
DEFECTIVE = Decision("defect", None, 0.9, 0.5, calibration=1)
DECISIONS = {
    "ok": OK,
    "defect": DEFECTIVE,
    "unreadable": Decision("not_inspected", "unreadable", None, None),
    "uncalibrated": Decision("not_inspected", "uncalibrated", 0.3, None),
    "model_fault": Decision("not_inspected", "model_fault", None, None),
    "outbox_full": Decision("not_inspected", "outbox_full", None, None),
}


def inspect(parts: list[str], rules: Rules = DEFAULT_RULES) -> tuple[Alarms, list[tuple[str, str, int | None]]]:
    alarms, told = NO_ALARMS, []
    for seq, name in enumerate(parts, start=1):
        alarms, announced = take_part(alarms, seq, seq, DECISIONS[name], rules)
        told += [(each.alarm, each.event.kind, each.event.seq) for each in announced]
    return alarms, told


@pytest.mark.parametrize(
    ("name", "alarm"),
    [
        ("defect", "defect"),
        ("uncalibrated", "uncalibrated"),
        ("model_fault", "model"),
        ("outbox_full", "outbox"),
    ],
)
def test_each_alarm_is_raised_by_its_own_parts_and_cleared_by_the_next_good_one(name: str, alarm: str) -> None:
    _, told = inspect(["ok", name, name, "ok", "ok"])
    assert told == [(alarm, "raised", 2), (alarm, "cleared", 4)]


@given(st.lists(st.sampled_from(sorted(DECISIONS)), max_size=30))
def test_a_part_that_was_not_inspected_proves_neither_defect_nor_good(parts: list[str]) -> None:
    inspected = [name for name in parts if name in ("ok", "defect")]
    alarms, told = inspect(parts)
    assert (alarms[DEFECT].condition == "active") == (inspected[-1:] == ["defect"])
    kinds = [kind for alarm, kind, _ in told if alarm == DEFECT]
    assert kinds == (["raised", "cleared"] * len(kinds))[: len(kinds)]


def test_an_unreadable_part_says_nothing_at_all_but_that_there_is_room() -> None:
    before, _ = inspect(["ok", "defect"])
    after, told = take_part(before, 3, 3, DECISIONS["unreadable"], DEFAULT_RULES)
    assert (after, told) == (before, ())


def test_a_score_just_below_the_threshold_does_not_end_the_alarm() -> None:
    rules = {**DEFAULT_RULES, DEFECT: AlarmRules(hysteresis=0.2)}
    alarms, _ = inspect(["defect"], rules)
    near, _ = take_part(alarms, 2, 2, replace(OK, score=0.45), rules)
    assert near[DEFECT].condition == "active"
    far, _ = take_part(near, 3, 3, replace(OK, score=0.4), rules)
    assert far[DEFECT].condition == "normal"


def test_a_suppressed_alarm_is_told_when_what_explained_it_is_gone() -> None:
    rules = {**DEFAULT_RULES, DEFECT: AlarmRules(suppressed_by=(CAMERA,))}
    alarms, told = take(NO_ALARMS, {CAMERA: AlarmInput("cause", 1)}, 1, rules)
    assert [(each.alarm, each.event.kind) for each in told] == [("camera", "raised"), ("defect", "suppressed")]
    alarms, told = take_part(alarms, 1, 2, DEFECTIVE, rules)
    assert told == ()
    assert alarms[DEFECT].condition == "active"
    _, told = take(alarms, {CAMERA: AlarmInput("gone", 3)}, 3, rules)
    kinds = [(each.alarm, each.event.kind) for each in told]
    assert kinds == [("camera", "cleared"), ("defect", "unsuppressed"), ("defect", "raised")]


def test_a_part_that_lets_an_alarm_be_heard_is_named_by_it() -> None:
    """As the first defect after a calibration: no part but itself has raised it."""
    rules = {**DEFAULT_RULES, DEFECT: AlarmRules(suppressed_by=("uncalibrated",))}
    alarms, told = take_part(NO_ALARMS, 1, 1, DECISIONS["uncalibrated"], rules)
    assert [(each.alarm, each.event.kind, each.event.seq) for each in told][1:] == [("defect", "suppressed", 1)]
    _, told = take_part(alarms, 2, 2, DEFECTIVE, rules)
    of_defects = [(each.event.kind, each.event.seq, each.event.score) for each in told if each.alarm == DEFECT]
    assert of_defects == [("unsuppressed", 2, 0.9), ("raised", 2, 0.9)]


def test_what_changes_nothing_leaves_equal_alarms() -> None:
    alarms, _ = inspect(["ok", "ok"])
    after, _ = take_part(alarms, 3, 3, OK, DEFAULT_RULES)
    assert after == alarms
