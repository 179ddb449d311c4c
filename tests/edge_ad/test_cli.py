"""Rules of `edge-ad`: capture, check and doctor, as a user calls them."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.bundle import MANIFEST, manifest_digest
from edge_ad.cli import main
from edge_ad.collect import SHEET
from edge_ad.images import list_images, read_image
from edge_ad.lock import locked
from edge_ad.outbox_file import OutboxFile
from tests.broker import Broker, free_port, mqtt_config
from tests.bundles import make_bundle
from tests.station import HEIGHT, WIDTH, calibrate, write_config, write_parts


@pytest.fixture
def station(tmp_path: Path) -> Callable[..., str]:
    """Writes the YAML file of a station whose folder camera has five parts; keyword arguments replace keys."""
    write_parts(tmp_path / "parts", 5)
    bundle = make_bundle(tmp_path / "bundle")
    camera = {"kind": "folder", "path": str(tmp_path / "parts")}

    def write(**changes: Any) -> str:
        return str(write_config(tmp_path / "station.yaml", bundle, camera, changes))

    return write


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """What `check --json` found: name -> (state, detail)."""
    body = json.loads(capsys.readouterr().out)
    assert body["schema"] == "edge-ad/check/1"
    return {finding["name"]: (finding["state"], finding["detail"]) for finding in body["findings"]}


def test_captured_frames_are_the_cameras_own_bit_for_bit(tmp_path: Path, station: Callable[..., str]) -> None:
    out = tmp_path / "images"
    assert main(["capture", station(), "--out", str(out), "--count", "5"]) == 0
    captured = [read_image(path) for path in list_images(out)]
    assert np.array_equal(captured, [read_image(path) for path in list_images(tmp_path / "parts")])


def test_the_contact_sheet_is_never_taken_for_an_image_of_a_part(tmp_path: Path, station: Callable[..., str]) -> None:
    out = tmp_path / "images"
    assert main(["capture", station(), "--out", str(out), "--count", "3"]) == 0
    assert [path.name for path in list_images(out)] == ["000001.png", "000002.png", "000003.png"]
    assert read_image(out / SHEET).ndim == 3


def test_capture_refuses_a_folder_that_holds_something(
    tmp_path: Path, station: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capture", station(), "--out", str(tmp_path / "parts"), "--count", "1"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'parts'} is not empty: name a new folder, so that two captures do not mix\n"
    )


def test_a_source_that_ends_too_early_is_said_and_what_came_stays(
    tmp_path: Path, station: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "images"
    assert main(["capture", station(), "--out", str(out), "--count", "6"]) == 1
    assert "its source ended after 5 frames" in capsys.readouterr().err
    assert len(list_images(out)) == 5


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--count", "1", "--interval-s", "-1"], []])
def test_wrong_arguments_are_one_line_and_exit_code_2(
    station: Callable[..., str], capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["capture", station(), "--out", "unused", *wrong])
    assert refused.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_check_passes_where_everything_is_right(
    tmp_path: Path, station: Callable[..., str], broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate(tmp_path / "bundle")
    assert main(["check", station(mqtt=mqtt_config(broker)), "--json"]) == 0
    found = findings(capsys)
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["camera"][1] == f"top (folder) delivers {WIDTH}x{HEIGHT}"
    assert "cv2/__init__.py" in found["cv2"][1]


def test_check_finds_each_fault_and_exits_with_2(
    tmp_path: Path, station: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    camera = {"name": "top", "kind": "folder", "path": str(tmp_path / "missing")}
    changes = {"camera": camera, "bundle": str(tmp_path / "none"), "mqtt": {"port": free_port()}}
    assert main(["check", station(**changes), "--json"]) == 2
    found = findings(capsys)
    assert {name for name, (state, _) in found.items() if state == "failed"} == {"bundle", "camera", "broker"}
    assert str(tmp_path / "missing") in found["camera"][1]
    assert "refused" in found["broker"][1]


def test_check_tries_the_sensor_that_announces_parts(
    tmp_path: Path, station: Callable[..., str], broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["check", station(mqtt=mqtt_config(broker), trigger={"kind": "interval", "interval_s": 1}), "--json"]) == 0
    )
    assert findings(capsys)["trigger"] == ("ok", "interval can announce parts")
    absent = {"kind": "gpio", "chip": str(tmp_path / "gpiochip9"), "line": 3}
    assert main(["check", station(mqtt=mqtt_config(broker), trigger=absent), "--json"]) == 2
    assert findings(capsys)["trigger"][0] == "failed"


def test_check_looks_at_what_an_earlier_run_has_left(
    tmp_path: Path, station: Callable[..., str], broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    config = station(mqtt=mqtt_config(broker))
    outbox = tmp_path / "state" / "outbox.db"
    OutboxFile(outbox, "cell-7").close()
    for name, problem in (("cell-7", ""), ("cell-8", "belongs to station cell-7")):
        main(["check", station(mqtt=mqtt_config(broker), station=name), "--json"])
        state, said = findings(capsys)["state_dir"]
        assert (state, problem in said) == ("failed" if problem else "ok", True)
    outbox.write_bytes(b"no database" * 1000)
    main(["check", config, "--json"])
    assert findings(capsys)["state_dir"][0] == "failed"
    outbox.write_bytes(b"")  # killed before there were tables
    main(["check", station(mqtt=mqtt_config(broker)), "--json"])
    assert findings(capsys)["state_dir"] == ("ok", str(tmp_path / "state"))


def test_check_says_which_file_of_an_earlier_run_belongs_to_somebody_else(
    tmp_path: Path, station: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = station(mqtt={"port": free_port()})
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "outbox.reserve").touch(0o600)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(".reserve") and real(path, mode))
    main(["check", config, "--json"])
    assert findings(capsys)["state_dir"][1].startswith(f"{tmp_path / 'state' / 'outbox.reserve'}: this user may not")


def test_check_looks_at_the_folders_that_the_daemon_writes_into(
    tmp_path: Path, station: Callable[..., str], broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    bad = {"state_dir": str(tmp_path / "file" / "state"), "record": {"dir": str(tmp_path / "file")}}
    assert main(["check", station(mqtt=mqtt_config(broker), **bad), "--json"]) == 2
    found = findings(capsys)
    assert found["state_dir"] == ("failed", f"{tmp_path / 'file' / 'state'}: {tmp_path / 'file'} is no folder")
    assert found["record.dir"][0] == "failed"
    assert not (tmp_path / "state").exists()
    assert main(["check", station(mqtt=mqtt_config(broker)), "--json"]) == 0
    assert findings(capsys)["state_dir"] == ("ok", str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()


def test_check_names_a_wrong_password(
    station: Callable[..., str], tmp_path: Path, make_broker: Callable[..., Broker], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text("wrong")
    broker = make_broker(users={"cell-7": "right"})
    mqtt = mqtt_config(broker, username="cell-7", password_file=str(tmp_path / "password"))
    assert main(["check", station(mqtt=mqtt), "--json"]) == 2
    assert "wrong user name or password" in findings(capsys)["broker"][1]


def test_check_warns_of_a_missing_calibration_and_fails_a_roi_outside_the_frame(
    station: Callable[..., str], broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    roi = {"x": 0, "y": 0, "w": WIDTH + 1, "h": HEIGHT}
    assert main(["check", station(mqtt=mqtt_config(broker), roi=roi), "--json"]) == 2
    found = findings(capsys)
    assert found["calibration"][0] == "warning"
    assert found["camera"][0] == "failed"
    assert "ROI" in found["camera"][1]


def test_check_warns_where_the_bundle_was_trained_on_another_cut_of_the_frame(
    tmp_path: Path, station: Callable[..., str], broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    roi = {"x": 0, "y": 0, "w": WIDTH // 2, "h": HEIGHT}
    manifest = tmp_path / "bundle" / MANIFEST
    fields = json.loads(manifest.read_text())
    fields["training"]["roi"] = roi
    manifest.write_text(json.dumps({**fields, "digest": manifest_digest(fields)}))
    assert main(["check", station(mqtt=mqtt_config(broker)), "--json"]) == 0
    assert findings(capsys)["roi"] == (
        "warning",
        f"the bundle was trained on 0, 0, {WIDTH // 2} x {HEIGHT} of each image, and is shown the whole frame",
    )
    assert main(["check", station(mqtt=mqtt_config(broker), roi=roi), "--json"]) == 0
    assert "roi" not in findings(capsys)


def test_check_leaves_a_running_station_its_camera_and_its_input_line(
    tmp_path: Path, station: Callable[..., str], broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    camera = {"name": "top", "kind": "v4l2", "device": str(tmp_path / "video0")}
    trigger = {"kind": "gpio", "chip": str(tmp_path / "gpiochip9"), "line": 3}
    config = station(mqtt=mqtt_config(broker), camera=camera, trigger=trigger)
    main(["check", config, "--json"])
    found = findings(capsys)
    assert (found["camera"][0], found["trigger"][0]) == ("failed", "failed")
    with locked(tmp_path / "state"):
        main(["check", config, "--json"])
    found = findings(capsys)
    assert (found["camera"][0], found["trigger"][0]) == ("warning", "warning")
    assert "the running daemon has" in found["camera"][1]


@pytest.mark.parametrize(
    "backend", [{"name": "onnxruntime", "precision": "fp16"}, {"name": "openvino", "device": "cuda"}]
)
def test_an_engine_that_does_not_run_so_is_a_mistake_that_no_restart_mends(
    station: Callable[..., str], backend: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "edge_ad.cli", "run", station(backend=backend, mqtt={"port": free_port()})]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "set precision" in ended.stderr or "set device: cpu" in ended.stderr


def test_doctor_says_which_cv2_runs_and_what_the_configuration_refers_to(
    station: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", station()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  cv2: ") and "GStreamer" in line for line in lines)
    assert "  station: cell-7" in lines
    assert any(line.startswith("  bundle: ") and "darkness/test" in line for line in lines)


def test_doctor_goes_on_where_the_user_has_no_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container: no $HOME, and a number that the passwd file does not know."""
    for name in ("HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert main(["doctor"]) == 0
    assert "  engine: no folder for engines, this user has no home: set $STATE_DIRECTORY" in capsys.readouterr().out


def test_doctor_shows_no_password(
    tmp_path: Path, station: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text("Zq9-hunter2-x7")
    mqtt = {"username": "cell-7", "password_file": str(tmp_path / "password")}
    assert main(["doctor", station(mqtt=mqtt)]) == 0
    shown = capsys.readouterr()
    assert "Zq9-hunter2-x7" not in shown.out + shown.err
