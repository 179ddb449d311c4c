"""Which frame is a part: every one, those that a trigger asked for, or those that the camera's own trigger gave."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from pydantic import TypeAdapter

from edge_ad.config import TriggerConfig
from edge_ad.records import Trigger
from edge_ad.trigger_desk import Admission, TriggerDesk


def desk(**values: Any) -> TriggerDesk:
    config: TriggerConfig = TypeAdapter(TriggerConfig).validate_python(values)
    return TriggerDesk(config)


def admitted(triggers: TriggerDesk) -> Admission | None:
    return triggers.admit(time.monotonic_ns())


def reasons(triggers: TriggerDesk) -> list[str]:
    return [lost.reason for lost in triggers.take_lost()]


def test_free_running_every_frame_is_a_part_and_paused_none_is() -> None:
    free = desk(kind="free")
    assert admitted(free) == Admission(None)
    free.set_mode("pause")
    assert admitted(free) is None
    assert not free.is_ready
    assert not free.wants(0.0)
    free.set_mode("run")
    assert free.is_ready
    assert free.wants(0.0)


def test_triggered_only_a_frame_that_was_asked_for_is_a_part() -> None:
    triggered = desk(kind="command")
    assert admitted(triggered) is None
    triggered.ask(Trigger("a"))
    assert admitted(triggered) == Admission(Trigger("a"))
    assert admitted(triggered) is None


def test_with_a_trigger_of_its_own_every_frame_of_the_camera_is_a_part_with_an_id_also_while_paused() -> None:
    own = desk(kind="camera")
    first, second = admitted(own), admitted(own)
    assert first is not None
    assert second is not None
    assert first.trigger is not None
    assert second.trigger is not None
    assert first.trigger.trigger_id.rsplit("-", 1)[-1] == "1"
    assert second.trigger.trigger_id.rsplit("-", 1)[-1] == "2"
    own.set_mode("pause")
    assert admitted(own) is None
    assert reasons(own) == ["paused"]


def test_no_two_runs_give_the_same_id() -> None:
    assert desk(kind="camera").name() != desk(kind="camera").name()


def test_a_pause_answers_those_that_wait() -> None:
    triggered = desk(kind="command")
    triggered.ask(Trigger("a"))
    triggered.set_mode("pause")
    assert reasons(triggered) == ["paused"]


@pytest.mark.parametrize(("offset_ns", "reason"), [(-1_000_000, "missed"), (0, "missed")])
def test_a_trigger_that_comes_after_it_expired_is_missed(offset_ns: int, reason: str) -> None:
    triggered = desk(kind="command")
    triggered.ask(Trigger("a", expires_ns=time.time_ns() + offset_ns))
    assert admitted(triggered) is None
    assert reasons(triggered) == [reason]


def test_one_that_gets_no_frame_in_time_is_lost_without_anybody_asking_for_a_frame() -> None:
    triggered = desk(kind="command", timeout_s=0.01)
    triggered.ask(Trigger("a"))
    time.sleep(0.02)
    assert reasons(triggered) == ["timeout"]


def test_at_the_end_nobody_waits() -> None:
    triggered = desk(kind="command")
    triggered.ask(Trigger("a"))
    triggered.end()
    assert reasons(triggered) == ["missed"]


def test_whoever_waits_for_a_trigger_is_woken_by_it() -> None:
    triggered = desk(kind="command")
    woken = threading.Event()
    thread = threading.Thread(target=lambda: woken.set() if triggered.wants(60.0) else None)
    thread.start()
    triggered.ask(Trigger("a"))
    thread.join()
    assert woken.is_set()
