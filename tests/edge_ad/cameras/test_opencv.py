"""Rules of the OpenCV cameras, as far as they hold without the device; RTSP on loopback is in tests/line."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad.cameras import opencv
from edge_ad.cameras.base import Delivered, EndOfFrames, Picture, Unreadable, make_camera
from edge_ad.cameras.opencv import VideoFile, csi_pipeline, rtsp_url, videoio
from edge_ad.config import CsiCamera, FileCamera, RtspCamera, V4l2Camera
from edge_ad.errors import CameraError, ConfigError
from tests.station import config

FRAMES = 6


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video whose frames get brighter, so that their order can be seen."""
    path = tmp_path / "parts.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (64, 48))
    for number in range(FRAMES):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    return path


def file_camera(path: Path, pace: str = "block", at_end: str = "stop") -> VideoFile:
    fields = {"kind": "file", "name": "top", "path": path, "pace": pace, "at_end": at_end}
    return VideoFile(FileCamera.model_validate(fields))


def brightness(camera: VideoFile, count: int) -> list[int]:
    levels: list[int] = []
    while len(levels) < count:
        picture = camera.read()
        if picture is not None:
            levels.append(round(float(picture.image.mean()) / 40))
    return levels


@pytest.mark.parametrize("pace", ["block", "realtime"])
def test_a_video_file_gives_every_frame_in_order_and_then_the_end(video: Path, pace: str) -> None:
    camera = file_camera(video, pace)
    camera.open()
    assert brightness(camera, FRAMES) == list(range(FRAMES))
    with pytest.raises(EndOfFrames):
        brightness(camera, 1)
    camera.close()


def damage(video: Path, frames: set[int]) -> None:
    """Zero the JPEG of these frames, which are counted from 0."""
    data = bytearray(video.read_bytes())
    begins = [match.start() for match in re.finditer(b"00dc", data) if match.start() > data.index(b"movi")]
    for number in frames:
        size = int.from_bytes(data[begins[number] + 4 : begins[number] + 8], "little")
        data[begins[number] + 8 : begins[number] + 8 + size] = bytes(size)
    video.write_bytes(data)


@pytest.mark.parametrize("pace", ["block", "realtime"])
def test_a_damaged_frame_is_a_part_without_a_verdict_and_not_the_end_of_the_file(video: Path, pace: str) -> None:
    damage(video, {1, 2})
    camera = file_camera(video, pace)
    camera.open()
    delivered: list[Delivered] = []
    with pytest.raises(EndOfFrames):
        while True:
            shot = camera.read()
            delivered += [shot] if shot is not None else []
    assert [type(each).__name__ for each in delivered] == [
        "Picture",
        "Unreadable",
        "Unreadable",
        *["Picture"] * (FRAMES - 3),
    ]
    assert [each.part_id for each in delivered if isinstance(each, Unreadable)] == ["parts.avi#2", "parts.avi#3"]


def test_only_a_file_that_blocks_is_complete(video: Path) -> None:
    assert file_camera(video, "block").complete
    assert not file_camera(video, "realtime").complete


def test_a_repeated_file_starts_over(video: Path) -> None:
    camera = file_camera(video, at_end="repeat")
    camera.open()
    assert brightness(camera, 2 * FRAMES) == [*range(FRAMES), *range(FRAMES)]
    camera.close()


def test_a_file_that_is_missing_or_no_video_is_a_camera_fault_that_names_it(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    for path in (tmp_path / "missing.mp4", text):
        with pytest.raises(CameraError, match=str(path)):
            file_camera(path).open()


@pytest.mark.parametrize(
    ("camera", "named"),
    [
        ({"kind": "v4l2", "device": "/dev/v4l/by-id/none"}, "/dev/v4l/by-id/none"),
        ({"kind": "rtsp", "url": "rtsp://127.0.0.1:1/cam", "open_timeout_s": 1}, "rtsp://127.0.0.1:1 "),
    ],
)
def test_a_live_camera_that_is_not_there_is_a_camera_fault_that_names_it(
    tmp_path: Path, camera: dict[str, object], named: str
) -> None:
    with pytest.raises(CameraError, match=named):
        make_camera(config(tmp_path, camera).camera).open()


def test_csi_without_gstreamer_says_which_cv2_is_wrong() -> None:
    if videoio()["GStreamer"]:
        pytest.skip("this cv2 has GStreamer")
    camera = make_camera(CsiCamera(kind="csi", name="top"))
    with pytest.raises(CameraError, match=r"cv2 .* has no GStreamer"):
        camera.open()


def test_the_csi_pipeline_keeps_only_the_newest_frame() -> None:
    pipeline = csi_pipeline(CsiCamera(kind="csi", name="top", sensor_id=1, width=1280, height=720, fps=60))
    assert pipeline.startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM), width=1280, height=720,")
    assert pipeline.endswith("appsink drop=true max-buffers=1 sync=false")


def test_the_rtsp_password_comes_from_its_file_and_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss/word\n")
    camera = RtspCamera(
        kind="rtsp",
        name="top",
        url="rtsp://127.0.0.1:1/cam",
        username="us er",
        password_file=tmp_path / "password",
        open_timeout_s=1,
    )
    assert rtsp_url(camera) == "rtsp://us%20er:p%40ss%2Fword@127.0.0.1:1/cam"
    with pytest.raises(CameraError) as refusal:
        make_camera(camera).open()
    assert "p@ss" not in str(refusal.value)
    assert "p%40ss" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://user:secret@127.0.0.1:1/cam",
        "rtsp://user:se%2Fcret@127.0.0.1:1/cam",
        "rtsp://127.0.0.1:1/user=admin&password=secret&channel=1.sdp",
        "rtsp://127.0.0.1:1/0/user:secret/main",
        "rtsp://127.0.0.1:1/cam?user=admin&password=secret",
        "rtsp://127.0.0.1:1/cam#secret",
    ],
)
def test_a_password_anywhere_in_the_url_is_not_shown_either(
    tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    camera = config(tmp_path, {"kind": "rtsp", "url": url, "open_timeout_s": 1}).camera
    with pytest.raises(CameraError, match=r"open rtsp://127.0.0.1:1 over tcp") as refusal:
        make_camera(camera).open()
    assert "cret" not in str(refusal.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://admin:se/cret@10.0.0.5/s",
        "rtsp://admin:123/cret@10.0.0.5/s",
        "rtsp://admin:se#cret@10.0.0.5/s",
        "rtsp://admin:12#cret@10.0.0.5/s",
        "rtsp://admin:se?cret@10.0.0.5/s",
        "rtsp://admin:12?cret@10.0.0.5/s",
        "rtsp://admin:se[cret@10.0.0.5/s",
        "rtsp://admin:secret@/s",
        "http://admin:secret@10.0.0.5/s",
        "admin:secret@10.0.0.5/s",
    ],
)
def test_a_url_that_would_fall_into_other_parts_is_refused_without_quoting_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="url must be rtsp://host:port/path; percent-encode") as refusal:
        config(tmp_path, {"kind": "rtsp", "url": url})
    assert "cret" not in str(refusal.value)
    assert "123" not in str(refusal.value)


def test_a_password_file_without_a_user_would_not_be_used_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="password_file wants username"):
        config(tmp_path, {"kind": "rtsp", "url": "rtsp://admin@10.0.0.5/s", "password_file": "password"})


class FirstFrames:
    """A driver that gives so many frames, and then none."""

    def __init__(self, count: int) -> None:
        self._left = count

    def read(self) -> tuple[bool, Any]:
        self._left -= 1
        return self._left >= 0, np.zeros((4, 6, 3), np.uint8)

    def release(self) -> None:
        pass


class NoFrames:
    """A driver that comes back without a frame after so many seconds."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s

    def read(self) -> tuple[bool, None]:
        time.sleep(self._after_s)
        return False, None

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("hardware_trigger", "device", "after_s", "no_fault"),
    [
        (True, "/dev/null", 1.0, True),
        (True, "/dev/null/gone", 1.0, False),
        (False, "/dev/null", 1.0, False),
    ],
)
def test_no_frame_is_no_fault_where_the_camera_is_there_and_waited_for_its_own_trigger(
    monkeypatch: pytest.MonkeyPatch, hardware_trigger: bool, device: str, after_s: float, no_fault: bool
) -> None:
    monkeypatch.setattr(opencv, "connect_v4l2", lambda _config: NoFrames(after_s))
    fields = {"kind": "v4l2", "name": "top", "device": device, "read_timeout_s": 0.2}
    camera = make_camera(V4l2Camera.model_validate({**fields, "hardware_trigger": hardware_trigger}))
    camera.open()
    if no_fault:
        assert camera.read() is None
    else:
        with pytest.raises(CameraError, match="delivered no frame"):
            camera.read()


@pytest.mark.parametrize("hardware_trigger", [True, False])
def test_a_frame_that_is_not_there_at_once_is_passed_over_and_a_few_of_them_are_a_fault(
    monkeypatch: pytest.MonkeyPatch, hardware_trigger: bool
) -> None:
    """One that was damaged on its way is the first; a camera that is unplugged, the other.

    With a trigger of the camera's own each of them is a part.
    """
    monkeypatch.setattr(opencv, "connect_v4l2", lambda _config: FirstFrames(2))
    fields = {"kind": "v4l2", "name": "top", "device": "/dev/null", "hardware_trigger": hardware_trigger}
    camera = make_camera(V4l2Camera.model_validate(fields))
    for _ in range(2):  # after the fault, it is opened again
        camera.open()
        assert [isinstance(camera.read(), Picture) for _ in range(2)] == [True, True]
        passed_over = Unreadable(None, opencv.DAMAGED) if hardware_trigger else None
        assert [camera.read() for _ in range(opencv.HICCUPS)] == [passed_over] * opencv.HICCUPS
        with pytest.raises(CameraError, match="delivered no frame"):
            camera.read()
        camera.close()


@pytest.mark.parametrize("hardware_trigger", [True, False])
def test_a_camera_that_opens_and_gives_no_first_frame_is_at_fault_at_once(
    monkeypatch: pytest.MonkeyPatch, hardware_trigger: bool
) -> None:
    """Were it passed over, the camera would be online and at fault in turn, and its alarm raised each time."""
    monkeypatch.setattr(opencv, "connect_v4l2", lambda _config: NoFrames(0.0))
    fields = {"kind": "v4l2", "name": "top", "device": "/dev/null", "hardware_trigger": hardware_trigger}
    camera = make_camera(V4l2Camera.model_validate(fields))
    for _ in range(2):
        camera.open()
        with pytest.raises(CameraError, match="delivered no frame"):
            camera.read()
        camera.close()


def test_a_camera_that_is_unplugged_brings_no_parts_of_its_trigger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(opencv, "connect_v4l2", lambda _config: FirstFrames(1))
    fields = {"kind": "v4l2", "name": "top", "device": str(tmp_path / "gone"), "hardware_trigger": True}
    camera = make_camera(V4l2Camera.model_validate(fields))
    camera.open()
    assert isinstance(camera.read(), Picture)
    assert [camera.read() for _ in range(opencv.HICCUPS)] == [None] * opencv.HICCUPS
    with pytest.raises(CameraError, match="delivered no frame"):
        camera.read()


@pytest.mark.parametrize("read_timeout_s", [0.2, 0.5, 1.0, 1.01, 2.0])
def test_a_read_as_long_as_the_drivers_time_out_is_well_within_the_limit_of_a_camera_with_its_own_trigger(
    read_timeout_s: float,
) -> None:
    fields = {"kind": "v4l2", "name": "top", "device": "/dev/video0", "read_timeout_s": read_timeout_s}
    camera = V4l2Camera.model_validate({**fields, "hardware_trigger": True})
    assert camera.select_timeout_s >= read_timeout_s
    assert camera.read_limit_s >= camera.select_timeout_s + 1
    assert V4l2Camera.model_validate(fields).read_limit_s == read_timeout_s


@pytest.mark.parametrize(
    ("version", "options"), [("4.6.0", 0), ("4.5.4-dev", 0), ("4.7.0", 4), ("4.10.0", 4), ("5.0.0", 4)]
)
def test_gstreamer_gets_time_outs_where_opencv_takes_them(
    monkeypatch: pytest.MonkeyPatch, version: str, options: int
) -> None:
    """Before 4.7 it opened nothing with them."""
    given = []

    class Opened:
        def __init__(self, _source: str, _backend: int, given_options: list[int]) -> None:
            given.append(len(given_options))

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return True

    monkeypatch.setattr(opencv, "videoio", lambda: {"GStreamer": True})
    monkeypatch.setattr(cv2, "VideoCapture", Opened)
    monkeypatch.setattr(cv2, "__version__", version)
    opencv.connect_csi(CsiCamera.model_validate({"kind": "csi", "name": "top", "width": 640, "height": 480, "fps": 30}))
    assert given == [options]
