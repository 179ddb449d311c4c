"""Rules of the capture thread: numbering, newest frame or every frame, reconnecting, and calls that never return."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_ad.cameras.base import Camera, EndOfFrames, Picture, Unreadable
from edge_ad.cameras.capture import CAPACITY, HUNG_FACTOR, MAX_HUNG_THREADS, Capture
from edge_ad.config import Camera as CameraConfig
from edge_ad.config import CameraTrigger, CommandTrigger, FolderCamera, FreeTrigger
from edge_ad.errors import CameraError
from edge_ad.records import CameraState, Frame, Missed, Trigger
from edge_ad.trigger_desk import TriggerDesk
from tests.daemons import wait_until
from tests.station import config

IMAGE = np.zeros((2, 3, 3), np.uint8)
READ_TIMEOUT_S = 2.0


class ScriptedCamera:
    """Each time it is opened, it delivers what the next script yields; an exception in one is one of the camera."""

    def __init__(self, scripts: Iterator[Iterator[Picture | Unreadable | None]], *, complete: bool) -> None:
        self.complete = complete
        self.closed = False
        self._scripts = scripts

    def open(self) -> None:
        self._script = next(self._scripts)

    def read(self) -> Picture | Unreadable | None:
        for shot in self._script:
            return shot
        raise EndOfFrames

    def close(self) -> None:
        self.closed = True


def capture_of(
    scripts: Iterator[Iterator[Picture | Unreadable | None]],
    *,
    complete: bool = True,
    last_frame_id: int = 0,
    last_part_id: str | None = None,
    seen: list[str | None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    triggers: TriggerDesk | None = None,
) -> Capture:
    """A capture whose camera follows the next script each time it is opened.

    `seen` collects the resume_after of each camera that is made to be opened.
    """
    folder = FolderCamera.model_validate(
        {
            "kind": "folder",
            "name": "top",
            "path": "unused",
            "read_timeout_s": READ_TIMEOUT_S,
            "backoff_min_s": 0.01,
            "backoff_max_s": 0.05,
        }
    )

    def make(_config: CameraConfig, resume_after: str | None) -> Camera:
        if seen is not None:
            seen.append(resume_after)
        return ScriptedCamera(scripts, complete=complete)

    capture = Capture(folder, last_frame_id, last_part_id, make, clock, triggers)
    if seen is not None:
        seen.clear()  # the constructor asks one camera whether it is complete
    return capture


def pictures(count: int) -> Iterator[Picture]:
    return (Picture(IMAGE, f"part-{number}") for number in range(count))


def drain(capture: Capture) -> list[Frame | Missed]:
    shots = []
    while not capture.frames.finished:
        shot = capture.frames.get(0.05)
        if shot is not None:
            shots.append(shot)
    return shots


def until(capture: Capture, wanted: Callable[[CameraState], bool]) -> CameraState:
    while not wanted(capture.state()):
        time.sleep(0.005)
    return capture.state()


def test_a_complete_camera_loses_nothing_however_slow_the_reader() -> None:
    capture = capture_of(iter([pictures(20)]))
    capture.start()
    assert [shot.frame_id for shot in drain(capture)] == list(range(1, 21))
    assert capture.stop(1.0)
    state = capture.state()
    assert (state.state, state.frames, state.skipped) == ("online", 20, 0)


def test_a_free_running_camera_keeps_the_newest_and_counts_the_skipped() -> None:
    capture = capture_of(iter([pictures(20)]), complete=False)
    capture.start()
    until(capture, lambda state: state.frames == 20)
    kept = [shot.frame_id for shot in drain(capture)]
    assert kept == [20 - CAPACITY + 1 + i for i in range(CAPACITY)]
    assert capture.state().skipped == 20 - CAPACITY
    assert capture.stop(1.0)


def test_numbering_and_parts_go_on_after_the_last_result() -> None:
    seen: list[str | None] = []
    capture = capture_of(iter([pictures(2)]), last_frame_id=41, last_part_id="part-x", seen=seen)
    capture.start()
    assert [shot.frame_id for shot in drain(capture)] == [42, 43]
    assert seen == ["part-x"]
    assert capture.stop(1.0)


def test_an_unreadable_image_is_a_missed_part_with_its_number_and_name() -> None:
    shots = [Unreadable("part-0", "cannot decode", "part-7"), Picture(IMAGE, "part-1", "part-8")]
    capture = capture_of(iter([iter(shots)]))
    capture.start()
    missed, frame = drain(capture)
    assert isinstance(missed, Missed)
    assert (missed.frame_id, missed.part_id, missed.reason) == (1, "part-0", "unreadable")
    assert isinstance(frame, Frame)
    assert frame.frame_id == 2
    assert [shot.resume_after for shot in (missed, frame)] == ["part-7", "part-8"]
    assert capture.stop(1.0)


def test_a_camera_that_fails_is_a_state_and_the_same_one_is_opened_again() -> None:
    def breaks() -> Iterator[Picture]:
        yield Picture(IMAGE, "part-0")
        raise CameraError("cable pulled")

    def absent() -> Iterator[Picture]:
        raise CameraError("nobody there")
        yield

    seen: list[str | None] = []
    released = threading.Event()

    def comes_back() -> Iterator[Picture | None]:
        while not released.is_set():
            yield None
        yield Picture(IMAGE, "part-1")

    capture = capture_of(iter([breaks(), absent(), absent(), comes_back()]), seen=seen)
    assert capture.state().state == "opening"
    capture.start()
    fault = until(capture, lambda state: state.detail == "nobody there")
    assert fault.state == "fault"
    released.set()
    shots = drain(capture)
    assert [(shot.frame_id, shot.part_id) for shot in shots] == [(1, "part-0"), (2, "part-1")]
    assert seen == [None]
    assert capture.state().state == "online"
    assert capture.stop(1.0)


def test_a_read_that_does_not_return_is_a_fault_then_given_up_and_at_last_fatal() -> None:
    """The read is a fault after its time-out; its thread is given up later; three such threads end the process."""
    now = [0.0]
    release = threading.Event()
    entered = threading.Semaphore(0)

    def hangs() -> Iterator[Picture]:
        yield Picture(IMAGE, "part-0")
        entered.release()
        release.wait()

    capture = capture_of((hangs() for _ in range(MAX_HUNG_THREADS)), complete=False, clock=lambda: now[0])
    capture.start()
    for hung in range(1, MAX_HUNG_THREADS + 1):
        entered.acquire()
        assert capture.state().state == "online"
        now[0] += READ_TIMEOUT_S + 0.1
        capture.supervise()
        assert capture.state().state == "fault"
        now[0] += HUNG_FACTOR * READ_TIMEOUT_S
        if hung < MAX_HUNG_THREADS:
            capture.supervise()
    with pytest.raises(CameraError, match="restart"):
        capture.supervise()
    assert not capture.stop(0.05)  # they hang still, and that is said
    release.set()


def test_of_a_thread_that_was_given_up_no_frame_is_delivered_and_another_camera_goes_on_in_its_place() -> None:
    now = [0.0]
    release, entered = threading.Event(), threading.Event()
    seen: list[str | None] = []

    def late() -> Iterator[Picture]:
        yield Picture(IMAGE, "part-9")
        yield Picture(IMAGE, "part-1", resume_after="part-9")
        entered.set()
        release.wait()
        yield Picture(IMAGE, "late")

    capture = capture_of(iter([late(), iter([Picture(IMAGE, "fresh")])]), clock=lambda: now[0], seen=seen)
    capture.start()
    entered.wait()
    now[0] += (HUNG_FACTOR + 1) * READ_TIMEOUT_S
    capture.supervise()
    assert [shot.part_id for shot in drain(capture)] == ["part-9", "part-1", "fresh"]
    assert seen == [None, "part-9"]
    release.set()
    assert capture.stop(1.0)


def test_a_slow_reader_is_not_a_camera_fault() -> None:
    now = [0.0]
    capture = capture_of(iter([pictures(CAPACITY + 1)]), clock=lambda: now[0])
    capture.start()
    until(capture, lambda state: state.frames == CAPACITY + 1)  # the last waits for room in the channel
    now[0] += 100 * READ_TIMEOUT_S
    capture.supervise()
    assert capture.state().state == "online"
    assert capture.stop(1.0)


def test_a_password_file_that_goes_away_while_running_is_a_camera_fault_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    fields = {"kind": "rtsp", "url": "rtsp://127.0.0.1:1/cam", "username": "u", "password_file": "password"}
    capture = Capture(config(tmp_path, {**fields, "backoff_min_s": 0.01, "backoff_max_s": 0.01}).camera)
    (tmp_path / "password").unlink()
    capture.start()
    fault = until(capture, lambda state: state.state == "fault")
    assert "password" in fault.detail
    assert capture.stop(5.0)


def triggered(**values: float) -> TriggerDesk:
    return TriggerDesk(CommandTrigger(kind="command", **values))


def endless(pause_s: float = 0.002) -> Iterator[Picture]:
    while True:
        time.sleep(pause_s)
        yield Picture(IMAGE)


def trigger_ids(shots: list[Frame | Missed]) -> list[str | None]:
    return [shot.trigger.trigger_id if shot.trigger is not None else None for shot in shots]


def test_of_a_camera_that_runs_only_the_first_frame_read_after_a_trigger_is_a_part() -> None:
    triggers = triggered()
    capture = capture_of(iter([endless()]), complete=False, triggers=triggers)
    capture.start()
    until(capture, lambda state: state.frames >= 5)
    assert len(capture.frames) == 0
    before_ns = time.monotonic_ns()
    triggers.ask(Trigger("a", "A0042"))
    shot = capture.frames.get(10.0)
    assert shot is not None
    assert (shot.trigger, shot.captured_monotonic_ns > before_ns) == (Trigger("a", "A0042"), True)
    frames = capture.state().frames
    until(capture, lambda state: state.frames >= frames + 5)
    assert len(capture.frames) == 0
    assert capture.stop(1.0)


def test_a_source_that_waits_gives_each_image_to_one_trigger_and_loses_none() -> None:
    triggers = triggered()
    capture = capture_of(iter([pictures(3)]), triggers=triggers)
    capture.start()
    assert until(capture, lambda state: state.state == "online").frames == 0
    for name in "abc":
        triggers.ask(Trigger(name))
    shots = [capture.frames.get(10.0) for _ in range(3)]
    assert [shot.part_id for shot in shots if shot is not None] == ["part-0", "part-1", "part-2"]
    assert trigger_ids([shot for shot in shots if shot is not None]) == ["a", "b", "c"]
    assert capture.stop(1.0)


def test_an_image_that_came_too_late_for_its_trigger_is_for_the_next_one() -> None:
    triggers = triggered(timeout_s=0.05)

    def slow() -> Iterator[Picture]:
        while not triggers.take_lost():  # the trigger gives up while the image is being read
            time.sleep(0.01)
        yield Picture(IMAGE, "part-0")

    capture = capture_of(iter([slow()]), triggers=triggers)
    capture.start()
    triggers.ask(Trigger("a"))
    wait_until(lambda: triggers.figures().timeouts == 1)
    triggers.ask(Trigger("b"))
    shot = capture.frames.get(10.0)
    assert shot is not None
    assert (shot.part_id, shot.frame_id, trigger_ids([shot])) == ("part-0", 1, ["b"])
    assert capture.stop(1.0)


def test_a_frame_that_finds_no_room_is_an_overrun_of_its_trigger_and_holds_up_no_other() -> None:
    triggers = triggered(max_waiting=2)
    capture = capture_of(iter([endless()]), complete=False, triggers=triggers)
    capture.start()
    for name in "abc":
        triggers.ask(Trigger(name))
        wait_until(lambda: triggers.figures().waiting == 0)
    wait_until(lambda: triggers.figures().overruns == 1)
    assert [(lost.trigger.trigger_id, lost.reason) for lost in triggers.take_lost()] == [("c", "overrun")]
    assert trigger_ids(capture.frames.get_all(1.0)) == ["a", "b"]
    assert capture.stop(1.0)


def test_every_frame_of_a_camera_with_its_own_trigger_is_a_part_and_none_gives_way_to_a_newer_one() -> None:
    triggers = TriggerDesk(CameraTrigger(kind="camera", max_waiting=4))
    capture = capture_of(iter([pictures(6)]), complete=False, triggers=triggers)
    capture.start()
    until(capture, lambda state: state.frames == 6)
    kept = drain(capture)
    assert [shot.frame_id for shot in kept] == [1, 2, 3, 4]
    assert [str(name).rsplit("-", 1)[-1] for name in trigger_ids(kept)] == ["1", "2", "3", "4"]
    assert [lost.reason for lost in triggers.take_lost()] == ["overrun", "overrun"]
    assert capture.state().skipped == 0
    assert capture.stop(1.0)


def test_a_camera_that_waits_for_its_own_trigger_is_online_without_a_frame() -> None:
    def nothing() -> Iterator[None]:
        while True:
            time.sleep(0.01)
            yield None

    triggers = TriggerDesk(CameraTrigger(kind="camera"))
    capture = capture_of(iter([nothing()]), complete=False, triggers=triggers)
    capture.start()
    assert until(capture, lambda state: state.state == "online").frames == 0
    assert capture.stop(1.0)


def test_paused_a_camera_that_runs_is_read_and_its_frames_are_no_parts_and_a_folder_waits() -> None:
    triggers = TriggerDesk(FreeTrigger())
    triggers.set_mode("pause")
    running = capture_of(iter([endless()]), complete=False, triggers=triggers)
    waiting = capture_of(iter([pictures(2)]), triggers=triggers)
    running.start()
    waiting.start()
    until(running, lambda state: state.frames >= 5)
    assert (len(running.frames), waiting.state().frames) == (0, 0)
    assert running.stop(1.0)
    triggers.set_mode("run")
    assert [shot.part_id for shot in drain(waiting)] == ["part-0", "part-1"]
    assert waiting.stop(1.0)
