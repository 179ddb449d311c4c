"""Rules of taking frames by hand: `capture` waits for parts and for a camera that comes back, `check` does not."""

from __future__ import annotations

import _thread
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad import check, collect
from edge_ad.cameras import base
from edge_ad.cameras.base import Picture
from edge_ad.errors import CameraError, UsageError
from edge_ad.images import list_images, write_png
from edge_ad.lock import locked
from tests.broker import free_port
from tests.disk import small_files
from tests.station import config

READ_TIMEOUT_S = 0.1
FIELDS = {"open_timeout_s": 0.1, "read_timeout_s": READ_TIMEOUT_S, "backoff_min_s": 0.05, "backoff_max_s": 0.05}
LONG_S = 1.0  # longer than all of a camera's time-outs
V4L2 = {"kind": "v4l2", "device": "/dev/video0", **FIELDS}
TRIGGERED = {**V4L2, "hardware_trigger": True}
BY_CAMERA = {"trigger": {"kind": "camera"}}

Script = Iterator["Picture | None"]


class ScriptedCamera:
    """A live camera that delivers what the next script yields, each time it is opened; without one, it is away."""

    complete = False

    def __init__(self, scripts: Iterator[Script]) -> None:
        self._scripts = scripts

    def open(self) -> None:
        script = next(self._scripts, None)
        if script is None:
            raise CameraError("cable pulled")
        self._script = script

    def read(self) -> Picture | None:
        return next(self._script)

    def close(self) -> None:
        pass


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """From now on, V4L2 cameras follow these scripts; a person hears and gives up soon."""
    monkeypatch.setattr(collect, "WAIT_S", 0.02)
    monkeypatch.setattr(collect, "TELL_S", 0.3)
    monkeypatch.setattr(collect, "RECONNECT_S", 0.5)

    def play(*scripts: Script) -> None:
        camera = ScriptedCamera(iter(scripts))
        monkeypatch.setitem(base.KINDS, "v4l2", lambda _config, _resume_after: camera)

    return play


def parts(count: int) -> Script:
    for _ in range(count):
        time.sleep(0.01)
        yield Picture(np.zeros((8, 8, 3), np.uint8))


def no_part(seconds: float) -> Script:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(READ_TIMEOUT_S)
        yield None


def until_it_fails(*scripts: Script) -> Script:
    for script in scripts:
        yield from script
    raise CameraError("delivered no frame")


def one_after_the_other(*scripts: Script) -> Script:
    for script in scripts:
        yield from script
    yield from no_part(60.0)


def take(tmp_path: Path, camera: dict[str, Any], count: int, interval_s: float = 0.0) -> list[Path]:
    changes = BY_CAMERA if camera is TRIGGERED else {}
    collect.collect(config(tmp_path, camera, changes), tmp_path / "out", count, interval_s)
    return list_images(tmp_path / "out")


def test_for_the_next_part_of_a_camera_with_its_own_trigger_it_waits_however_long_that_is(
    tmp_path: Path, plays: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    plays(one_after_the_other(no_part(LONG_S), parts(2), no_part(LONG_S), parts(2)))
    assert len(take(tmp_path, TRIGGERED, 4)) == 4
    said = capsys.readouterr()
    assert said.err.count("online, no part came yet: waiting; Ctrl-C ends the capture") == 1
    assert said.out.startswith("4 frames in")


def test_a_camera_that_fails_and_comes_back_is_waited_for(tmp_path: Path, plays: Callable[..., None]) -> None:
    plays(until_it_fails(parts(3)), until_it_fails(parts(3)), one_after_the_other(parts(100)))
    assert len(take(tmp_path, V4L2, 10)) == 10


def test_a_camera_that_was_online_without_a_part_is_waited_for_too(tmp_path: Path, plays: Callable[..., None]) -> None:
    plays(until_it_fails(no_part(LONG_S)), one_after_the_other(parts(1)))
    assert len(take(tmp_path, TRIGGERED, 1)) == 1


def test_a_camera_may_be_away_for_as_long_after_a_pause_between_two_frames(
    tmp_path: Path, plays: Callable[..., None]
) -> None:
    away = [until_it_fails() for _ in range(8)]  # 0.4 s, from before the end of the pause
    plays(until_it_fails(parts(1), no_part(0.7 * LONG_S)), *away, one_after_the_other(parts(1)))
    assert len(take(tmp_path, TRIGGERED, 2, interval_s=LONG_S)) == 2


def test_a_call_that_hangs_is_given_up(tmp_path: Path, plays: Callable[..., None]) -> None:
    def hangs() -> Script:
        yield from parts(1)
        time.sleep(10 * LONG_S)
        yield None

    plays(hangs(), one_after_the_other(parts(1)))
    began_s = time.monotonic()
    assert len(take(tmp_path, V4L2, 2)) == 2
    assert time.monotonic() - began_s < 5 * LONG_S


def test_a_camera_that_does_not_come_back_ends_it_and_what_was_written_stays_with_its_contact_sheet(
    tmp_path: Path, plays: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    plays(until_it_fails(parts(1), no_part(LONG_S)))
    with pytest.raises(CameraError, match=r"camera top did not come back within 0.5 s: cable pulled"):
        take(tmp_path, TRIGGERED, 3)
    assert len(list_images(tmp_path / "out")) == 1
    assert (tmp_path / "out" / collect.SHEET).is_file()
    assert capsys.readouterr().out.startswith("1 of 3 frames in")


def test_where_the_contact_sheet_finds_no_room_the_frames_are_told_all_the_same(
    tmp_path: Path, plays: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    plays(one_after_the_other(parts(3)))
    station = config(tmp_path, V4L2)
    with small_files(200), pytest.raises(OSError, match="File too large"):  # a frame has 71 bytes, the sheet captions
        collect.collect(station, tmp_path / "out", 3, 0.0)
    assert len(list_images(tmp_path / "out")) == 3
    assert not (tmp_path / "out" / collect.SHEET).exists()
    assert capsys.readouterr().out == f"3 frames in {tmp_path / 'out'}, without a contact sheet\n"


def test_a_camera_that_the_running_daemon_has_for_itself_is_not_tried_and_what_to_do_is_said(
    tmp_path: Path, plays: Callable[..., None]
) -> None:
    plays(one_after_the_other(parts(1)))
    with locked(tmp_path / "state"):
        with pytest.raises(UsageError, match=r"the running daemon has top \(v4l2\): systemctl stop edge-ad"):
            take(tmp_path, V4L2, 1)
        assert not (tmp_path / "out").exists()
        write_png(tmp_path / "parts.png", np.zeros((8, 8, 3), np.uint8))
        assert len(take(tmp_path, {"kind": "folder", "path": str(tmp_path)}, 1)) == 1  # which two may read


def test_a_camera_that_never_was_there_is_not_waited_for(tmp_path: Path, plays: Callable[..., None]) -> None:
    plays()
    began_s = time.monotonic()
    with pytest.raises(CameraError, match="camera top: cable pulled"):
        take(tmp_path, V4L2, 1)
    assert time.monotonic() - began_s < 0.5


def test_ctrl_c_ends_it_and_what_was_written_is_told(
    tmp_path: Path, plays: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupts() -> Script:
        yield from parts(2)
        yield from no_part(LONG_S)
        _thread.interrupt_main()
        yield from no_part(60.0)

    plays(interrupts())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):  # the console script's exit code is 130
            take(tmp_path, TRIGGERED, 9)
    finally:
        signal.signal(signal.SIGINT, before)
    out = tmp_path / "out"
    assert len(list_images(out)) == 2
    assert capsys.readouterr().out.startswith(f"2 of 9 frames in {out}; look through {out / collect.SHEET}")


@pytest.mark.parametrize(
    ("camera", "scripts", "state", "said"),
    [
        (TRIGGERED, [no_part(60.0)], "warning", "top (v4l2) is online, no part came"),
        (TRIGGERED, [one_after_the_other(parts(1))], "ok", "delivers 8x8"),
        (TRIGGERED, [until_it_fails(no_part(0.1))], "failed", "camera top: "),
        (V4L2, [], "failed", "cable pulled"),
    ],
)
def test_check_tells_a_camera_that_waits_for_its_trigger_from_one_that_fails(
    tmp_path: Path, plays: Callable[..., None], camera: dict[str, Any], scripts: list[Script], state: str, said: str
) -> None:
    plays(*scripts)
    changes = BY_CAMERA if camera is TRIGGERED else {}
    station = config(tmp_path, camera, {**changes, "mqtt": {"port": free_port()}})
    (found,) = (finding for finding in check.examine(station) if finding.name == "camera")
    assert found.state == state
    assert said in found.detail
