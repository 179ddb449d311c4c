"""A controller's side of the handshake: sent again until replied to, and one result for each that was acknowledged."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from edge_ad.core.handshake import Ask, Handshake
from edge_ad.core.heard import Gap, Part


def sent(count: int) -> Handshake:
    """After so many triggers, one a second; without a reply for 0.5 s one is sent again."""
    handshake = Handshake("plc", count, 1.0, 0.5)
    for at_s in range(count):
        assert handshake.due(at_s)[-1] == Ask(f"plc-{at_s + 1}", f"part-{at_s + 1}")
    return handshake


def result(number: int, seq: int, reason: str | None = None, part_id: str | None = None) -> Part:
    verdict = "ok" if reason is None else "not_inspected"
    return Part(seq, "top", part_id or f"part-{number}", verdict, reason, 0, f"plc-{number}")  # type: ignore[arg-type]


def results(*parts: Part) -> dict[str, Sequence[Part]]:
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(str(part.trigger_id), []).append(part)
    return dict(found)


def test_a_trigger_says_which_part_it_is_for() -> None:
    message = Ask("plc-1", "part-1").command("press-3")
    assert message.topic == "edge-ad/press-3/cmd/trigger"
    assert json.loads(message.payload) == {"correlation_id": "plc-1", "part_id": "part-1"}
    assert (message.qos, message.retain) == (1, False)


def test_it_is_sent_again_under_the_same_id_until_there_is_a_reply() -> None:
    handshake = sent(1)
    assert handshake.due(0.4) == []
    assert handshake.due(0.5) == [Ask("plc-1", "part-1")]
    assert handshake.due(1.1) == [Ask("plc-1", "part-1")]
    handshake.take_reply("plc-1", done=True)
    assert handshake.due(9.0) == []
    report = handshake.report({}, {}, ())
    assert (report.sent, report.again, report.acknowledged) == (1, 2, 1)


def test_triggers_keep_their_distance_also_after_a_pause_of_ours() -> None:
    handshake = Handshake("plc", 3, 1.0, 100.0)
    assert len(handshake.due(5.0)) == 1
    assert handshake.due(5.9) == []
    assert len(handshake.due(6.0)) == 1


def test_it_is_settled_once_every_promise_has_come_true() -> None:
    handshake = sent(2)
    handshake.take_reply("plc-1", done=True)
    assert not handshake.is_settled(results(result(1, 1)), ())
    handshake.take_reply("plc-2", done=False)
    assert not handshake.is_settled({}, ())
    assert handshake.is_settled(results(result(1, 1)), ())


def test_one_result_for_each_is_no_fault_and_reasons_are_counted() -> None:
    handshake = sent(2)
    for name in ("plc-1", "plc-2"):
        handshake.take_reply(name, done=True)
    report = handshake.report(results(result(1, 1), result(2, 2, "timeout")), {}, ())
    assert (report.answered, report.reasons, report.faults) == (2, {"timeout": 1}, ())


@pytest.mark.parametrize(
    ("done", "parts", "fault"),
    [
        (True, [], "1 triggers were acknowledged and have no result: plc-1"),
        (True, [result(1, 1), result(1, 2)], "trigger plc-1 has 2 results: seq 1, 2"),
        (False, [result(1, 1)], "trigger plc-1 was refused and has a result: seq 1"),
        (True, [result(1, 1, part_id="part-9")], "trigger plc-1: its result is of part part-9, not part-1"),
        (None, [], "1 triggers have no reply"),
    ],
)
def test_every_broken_promise_is_a_fault(done: bool | None, parts: list[Part], fault: str) -> None:
    handshake = sent(1)
    if done is not None:
        handshake.take_reply("plc-1", done=done)
    (said,) = handshake.report(results(*parts), {}, ()).faults
    assert said.startswith(fault)


def test_a_gap_record_stands_for_the_results_of_the_triggers_that_it_names_and_of_those_it_only_counts() -> None:
    handshake = sent(3)
    for name in ("plc-1", "plc-2", "plc-3"):
        handshake.take_reply(name, done=True)
    gap = Gap(7, 9, "outbox_full", ("plc-1", "other"), left_out=1)
    assert not handshake.is_settled({}, [gap])
    assert handshake.is_settled(results(result(3, 10)), [gap])
    report = handshake.report(results(result(3, 10)), {}, [gap])
    assert (report.answered, report.in_gaps, report.faults) == (1, 1, ())
    assert handshake.report({}, {}, [gap]).faults == ("2 triggers were acknowledged and have no result: plc-2, plc-3",)
    both = handshake.report(results(result(1, 5), result(2, 6), result(3, 10)), {}, [gap])
    assert both.faults == ("trigger plc-1 has a result, seq 5, and is in a gap record",)


def test_the_turnaround_counts_from_the_first_time_that_a_trigger_was_sent() -> None:
    handshake = sent(1)
    handshake.due(0.5)
    assert handshake.report({}, {"plc-1": 0.75, "other": 1.0}, ()).turnaround_ms == {"p50": 750, "p99": 750, "max": 750}
