"""Rules of the daemon process: how it starts, shows that it lives, and ends. The daemon is the real one."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.images import write_png
from tests.bundles import STALL_PIXEL, make_bundle
from tests.daemons import DEADLINE_S, Daemon, ServiceManager, clean_environment, running_daemon
from tests.station import calibrate, part, write_config, write_parts

WATCHDOG_S = 1.0
LIMITS = {"inference_s": 0.5}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_bundle(tmp_path_factory.mktemp("daemon") / "bundle", stalls=True)
    calibrate(path)
    return path


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections for the length of the test: bound, not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def configure(
    tmp_path: Path, bundle: Path, port: int, camera: dict[str, Any], changes: dict[str, Any] | None = None
) -> Path:
    fields = {"mqtt": {"port": port}, "limits": LIMITS, **(changes or {})}
    return write_config(tmp_path / "station.yaml", bundle, camera, fields)


def folder(tmp_path: Path, at_end: str = "wait") -> dict[str, Any]:
    return {"kind": "folder", "path": str(tmp_path / "parts"), "at_end": at_end}


def one_line(daemon: Daemon) -> str:
    (line,) = daemon.logged().splitlines()
    return line


def test_without_camera_and_broker_it_is_ready_says_so_keeps_trying_and_stops_cleanly(
    tmp_path: Path, bundle: Path, closed_port: int
) -> None:
    absent = {"kind": "v4l2", "device": "/dev/v4l/by-id/none", "backoff_min_s": 0.1}
    config = configure(tmp_path, bundle, closed_port, absent)
    with (
        ServiceManager(tmp_path, WATCHDOG_S) as manager,
        running_daemon(config, manager.environment()) as daemon,
    ):
        manager.wait_for("READY=1")
        status = manager.wait_for("camera fault")
        assert "no camera at /dev/v4l/by-id/none" in status
        assert "broker unreachable" in manager.wait_for("unreachable")
        for _ in range(3):
            manager.wait_for("WATCHDOG=1")
        assert daemon.terminate() == 0
        manager.wait_for("STOPPING=1")
        assert daemon.logged().count("no camera at") == 1  # said once, however often it is tried


def test_the_status_line_counts_the_verdicts(tmp_path: Path, bundle: Path, closed_port: int) -> None:
    write_parts(tmp_path / "parts", 8, every=4)
    config = configure(tmp_path, bundle, closed_port, folder(tmp_path))
    with (
        ServiceManager(tmp_path, WATCHDOG_S) as manager,
        running_daemon(config, manager.environment()) as daemon,
    ):
        status = manager.wait_for("ok 6, defect 2, not_inspected 0")
        assert "calibration 1" in status
        assert daemon.terminate() == 0


def test_a_hung_engine_ends_the_signs_of_life_and_the_abort_shows_where_it_hangs(
    tmp_path: Path, bundle: Path, closed_port: int
) -> None:
    stalling = part(1, defect=False, height=32, width=32)
    stalling[0, 0] = STALL_PIXEL
    (tmp_path / "parts").mkdir()
    write_png(tmp_path / "parts" / "stalls.png", stalling)
    config = configure(tmp_path, bundle, closed_port, folder(tmp_path))
    with (
        ServiceManager(tmp_path, WATCHDOG_S) as manager,
        running_daemon(config, manager.environment()) as daemon,
    ):
        manager.wait_for("READY=1")
        while manager.receive(WATCHDOG_S) is not None:  # what was on its way
            pass
        assert manager.receive(WATCHDOG_S) is None
        daemon.process.send_signal(signal.SIGABRT)  # systemd does, when WATCHDOG=1 stays away
        assert daemon.wait() == -signal.SIGABRT
        assert "onnxruntime.py" in daemon.logged()


def test_under_systemd_every_line_of_its_log_has_a_priority(tmp_path: Path, bundle: Path, closed_port: int) -> None:
    write_parts(tmp_path / "parts", 1)
    config = configure(tmp_path, bundle, closed_port, folder(tmp_path, "stop"))
    with running_daemon(config, {"INVOCATION_ID": "x"}) as daemon:
        assert daemon.wait() == 0
        assert [line for line in daemon.logged().splitlines() if not re.match("<[2-6]>", line)] == []
    wrong = configure(tmp_path, tmp_path / "none", closed_port, folder(tmp_path))
    with running_daemon(wrong, {"INVOCATION_ID": "x"}) as daemon:
        assert daemon.wait() == 2
        assert one_line(daemon).startswith("<3>error: ")


def test_a_source_that_ends_ends_the_daemon_with_exit_code_0(tmp_path: Path, bundle: Path, closed_port: int) -> None:
    write_parts(tmp_path / "parts", 3)
    with running_daemon(configure(tmp_path, bundle, closed_port, folder(tmp_path, "stop"))) as daemon:
        assert daemon.wait() == 0


def test_an_unknown_error_in_any_thread_ends_the_process_with_1_and_its_traceback(
    tmp_path: Path, bundle: Path, closed_port: int
) -> None:
    write_parts(tmp_path / "parts", 1)
    config = configure(tmp_path, bundle, closed_port, folder(tmp_path))
    program = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from edge_ad import config, daemon\n"
        "def fail():\n"
        "    while threading.excepthook is threading.__excepthook__:\n"
        "        time.sleep(0.01)\n"
        "    1 / 0\n"
        "threading.Thread(target=fail).start()\n"
        "daemon.run(config.load(Path(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", program, str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=DEADLINE_S)
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
    assert "Traceback" in ended.stderr


def test_a_second_daemon_on_one_state_directory_is_refused_with_one_line(
    tmp_path: Path, bundle: Path, closed_port: int
) -> None:
    write_parts(tmp_path / "parts", 1)
    config = configure(tmp_path, bundle, closed_port, folder(tmp_path))
    second = configure(tmp_path / "..", bundle, closed_port, folder(tmp_path), {"state_dir": str(tmp_path / "state")})
    with running_daemon(config) as daemon:
        daemon.wait_for_log("camera top: online")
        with running_daemon(second) as refused:
            assert refused.wait() == 1  # it may end, or be the rest of one that hangs: systemd tries again
        assert f"another edge-ad (process {daemon.process.pid})" in one_line(refused)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"statoin": "x"}, "statoin"),
        ({"limits": {"inference_s": -1}}, "limits.inference_s"),
        ({"bundle": "none"}, "is not a bundle"),
        ({"record": {"dir": "frames", "max_frames": 0}}, "record.max_frames"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, bundle: Path, closed_port: int, changes: dict[str, Any], said: str
) -> None:
    with running_daemon(configure(tmp_path, bundle, closed_port, folder(tmp_path), changes)) as daemon:
        assert daemon.wait() == 2
        assert said in one_line(daemon)


def test_an_altered_bundle_is_refused(tmp_path: Path, closed_port: int) -> None:
    altered = make_bundle(tmp_path / "bundle")
    with (altered / "model.onnx").open("r+b") as model:
        model.seek(40)
        model.write(b"\xff")
    with running_daemon(configure(tmp_path, altered, closed_port, folder(tmp_path))) as daemon:
        assert daemon.wait() == 2
        assert f"{altered / 'model.onnx'} was altered" in one_line(daemon)


def test_a_watchdog_that_is_shorter_than_an_inference_may_take_is_refused(
    tmp_path: Path, bundle: Path, closed_port: int
) -> None:
    config = configure(tmp_path, bundle, closed_port, folder(tmp_path), {"limits": {"inference_s": 5.0}})
    with ServiceManager(tmp_path, 4.0) as manager, running_daemon(config, manager.environment()) as daemon:
        assert daemon.wait() == 2
        assert "WatchdogSec" in one_line(daemon)
