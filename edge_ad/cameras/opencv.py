"""V4L2, CSI, RTSP and video files through OpenCV's videoio.

What OpenCV does not tell: FFMPEG honours its time-outs only where they are given at open, and a frozen RTSP server
makes read() last about three times the time-out; V4L2 reads its time-out once per process from the environment. So
a read that OpenCV does not end is ended by `cameras/capture.py`.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import cv2
import numpy as np
from loguru import logger
from numpy.typing import NDArray

from edge_ad.cameras.base import Delivered, EndOfFrames, Pace, Picture, Unreadable
from edge_ad.config import CsiCamera, FileCamera, RtspCamera, V4l2Camera
from edge_ad.errors import CameraError
from edge_ad.secret import read_secret

DAMAGED_FRAMES = 100  # in a row that a video file may hold; more of them are its end
HICCUPS = 3  # frames in a row that a live camera may fail to give at once; more of them are a fault
AT_ONCE_S = 0.5
GSTREAMER_TIMEOUTS = (4, 7)  # the version of OpenCV that takes them at open
DAMAGED = "a frame that cannot be decoded"
VIDEOIO = {"FFMPEG": "FFMPEG", "GStreamer": "GStreamer", "V4L2": "v4l/v4l2"}  # our name -> cv2's build information


def videoio() -> dict[str, bool]:
    """Which of OpenCV's video back-ends this cv2 was built with."""
    information = cv2.getBuildInformation()
    return {name: bool(re.search(rf"{label}:\s+YES", information)) for name, label in VIDEOIO.items()}


class LiveCamera:
    """A camera that runs free: the newest frame wins (implements `Camera`)."""

    complete = False

    def __init__(
        self,
        source: str,
        connect: Callable[[], cv2.VideoCapture],
        no_part_yet: Callable[[float], bool] = lambda _read_s: False,
        is_part: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take what to call the source in messages, and how to connect to it.

        Args:
            source: its name.
            connect: opens it.
            no_part_yet: asked when a read that took so many seconds gave no frame: whether that is no fault, for the
                camera waits for its own trigger.
            is_part: asked when a frame came damaged: whether it is a part all the same, for that trigger has fired.
        """
        self._source = source
        self._connect = connect
        self._no_part_yet = no_part_yet
        self._is_part = is_part
        self._capture: cv2.VideoCapture | None = None
        self._hiccups = HICCUPS  # before its first frame it may fail to give none

    def open(self) -> None:
        """See `Camera.open`."""
        self._capture = self._connect()
        self._hiccups = HICCUPS

    def read(self) -> Delivered | None:
        """See `Camera.read`; a frame that was damaged on its way is none, or no picture, and no fault yet."""
        if self._capture is None:
            raise CameraError(f"{self._source} is not open")
        began_s = time.monotonic()
        ok, image = self._capture.read()
        took_s = time.monotonic() - began_s
        if ok:
            self._hiccups = 0
            return Picture(_checked(image, self._source))
        if self._no_part_yet(took_s):
            return None
        self._hiccups += 1
        if self._hiccups > HICCUPS or took_s > AT_ONCE_S:
            raise CameraError(f"{self._source} delivered no frame: unplugged, switched off, or its network is down?")
        logger.warning("{}: a frame cannot be decoded", self._source)
        return Unreadable(None, DAMAGED) if self._is_part() else None

    def close(self) -> None:
        """See `Camera.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class VideoFile:
    """A video file, frame by frame (implements `Camera`)."""

    def __init__(self, config: FileCamera) -> None:
        """Take the file; each `open` starts at its first frame."""
        self.complete = config.pace == "block"
        self._config = config
        self._capture: cv2.VideoCapture | None = None
        self._pace = Pace(0.0)
        self._frames = 0
        self._waiting: deque[Delivered] = deque()  # read already

    def open(self) -> None:
        """See `Camera.open`."""
        path = self._config.path
        if not path.is_file():
            raise CameraError(f"no such video file: {path}")
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise CameraError(f"OpenCV cannot decode {path}: not a video, or of an unknown codec")
        if not self.complete:
            self._pace = Pace(1.0 / self._rate(self._capture))
        self._frames = 0
        self._waiting.clear()

    def read(self) -> Delivered | None:
        """See `Camera.read`."""
        if self._capture is None:
            raise CameraError(f"{self._config.path} is not open")
        if not self._pace.wait():
            return None
        if not self._waiting and not self._read_ahead(self._capture):
            self._at_end(self._capture)
            return None
        self._frames += 1
        self._pace.advance()
        return self._waiting.popleft()

    def _read_ahead(self, capture: cv2.VideoCapture) -> bool:
        """Read the next frame that can be decoded; those before it that cannot be are parts too. False at the end."""
        name = self._config.path.name
        for damaged in range(DAMAGED_FRAMES + 1):
            ok, image = capture.read()
            if ok:
                numbers = range(self._frames + 1, self._frames + damaged + 1)
                self._waiting.extend(Unreadable(f"{name}#{n}", f"{name}: frame {n} is damaged") for n in numbers)
                self._waiting.append(Picture(_checked(image, str(self._config.path))))
                return True
        return False

    def close(self) -> None:
        """See `Camera.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _at_end(self, capture: cv2.VideoCapture) -> None:
        if self._frames == 0:
            raise CameraError(f"{self._config.path} holds no frame that OpenCV can decode")
        stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if self._frames < stated:  # some containers only guess: this is no fault
            logger.warning("{} ends after {} of the {} frames that it states", self._config.path, self._frames, stated)
        if self._config.at_end == "stop":
            raise EndOfFrames
        self.close()
        self.open()

    def _rate(self, capture: cv2.VideoCapture) -> float:
        rate = capture.get(cv2.CAP_PROP_FPS)
        if not (math.isfinite(rate) and rate > 0):
            raise CameraError(f"{self._config.path} states no frame rate: set pace: block")
        return rate


def connect_v4l2(config: V4l2Camera) -> cv2.VideoCapture:
    """Open a V4L2 device in the configured mode.

    Raises:
        CameraError: no such device, it is busy or not ours to open, or it does not have the mode.
    """
    if not Path(config.device).exists():
        raise CameraError(f"no camera at {config.device}: plug it in, or look for its name in /dev/v4l/by-id")
    # Read by OpenCV once per process, whole seconds; without it a stalled camera blocks for 10 s.
    os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = str(config.select_timeout_s)
    capture = cv2.VideoCapture(config.device, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraError(f"cannot open {config.device}: used by another program, or this user is not in group video")
    _set_mode(capture, config)
    return capture


def _set_mode(capture: cv2.VideoCapture, config: V4l2Camera) -> None:
    if config.fourcc is not None:  # first: it decides which sizes and rates there are
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
    wanted = {
        cv2.CAP_PROP_FRAME_WIDTH: config.width,
        cv2.CAP_PROP_FRAME_HEIGHT: config.height,
        cv2.CAP_PROP_FPS: config.fps,
    }
    for setting, value in wanted.items():
        if value is not None:
            capture.set(setting, value)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # drivers may ignore it; the capture thread drops stale frames anyway
    _refuse_other_size(capture, config)


def _refuse_other_size(capture: cv2.VideoCapture, config: V4l2Camera) -> None:
    width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if config.width not in (None, width) or config.height not in (None, height):
        capture.release()
        raise CameraError(
            f"{config.device} gives {width}x{height}, not the configured {config.width}x{config.height}: choose a mode "
            "that it has (v4l2-ctl --list-formats-ext)"
        )


def csi_pipeline(config: CsiCamera) -> str:
    """The GStreamer pipeline of a Jetson's CSI camera; the appsink keeps only the newest frame."""
    return (
        f"nvarguscamerasrc sensor-id={config.sensor_id} ! "
        f"video/x-raw(memory:NVMM), width={config.width}, height={config.height}, "
        f"framerate={config.fps}/1, format=NV12 ! "
        "nvvidconv ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def connect_csi(config: CsiCamera) -> cv2.VideoCapture:
    """Open a Jetson's CSI camera.

    Raises:
        CameraError: this cv2 has no GStreamer, or Argus did not start the sensor.
    """
    if not videoio()["GStreamer"]:
        raise CameraError(
            f"cv2 {cv2.__version__} ({cv2.__file__}) has no GStreamer, which CSI needs: use JetPack's own cv2 "
            "(pip uninstall opencv-python; README, Deploy on a Jetson)"
        )
    # Before 4.7 (Ubuntu's own) OpenCV opens nothing by GStreamer with time-outs; a hang is ended anyway.
    options = _timeouts(config) if _version() >= GSTREAMER_TIMEOUTS else []
    capture = cv2.VideoCapture(csi_pipeline(config), cv2.CAP_GSTREAMER, options)
    if not capture.isOpened():
        raise CameraError(
            f"CSI sensor {config.sensor_id} did not start at {config.width}x{config.height}, {config.fps} fps: check "
            "the ribbon cable and the mode, or restart nvargus-daemon"
        )
    return capture


def _version() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", cv2.__version__)[:2])


def connect_rtsp(config: RtspCamera) -> cv2.VideoCapture:
    """Open an IP camera at its URL with the password in it.

    Raises:
        CameraError: it cannot be reached, refused the password, or has no such stream.
        ConfigError: its password file cannot be read.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"rtsp_transport;{config.transport}"
    capture = cv2.VideoCapture(rtsp_url(config), cv2.CAP_FFMPEG, _timeouts(config))
    if not capture.isOpened():
        raise CameraError(
            f"cannot open {shown(config.url)} over {config.transport}: check address, path, user and password, and "
            "that the camera is on"
        )
    return capture


def _timeouts(config: CsiCamera | RtspCamera) -> list[int]:
    return [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(config.open_timeout_s * 1000)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(config.read_timeout_s * 1000)),
    ]


def shown(url: str) -> str:
    """What of a valid URL may be shown: scheme, host and port (see `RtspCamera`)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def rtsp_url(config: RtspCamera) -> str:
    """The URL with user and password in it; never shown.

    Raises:
        ConfigError: the password file cannot be read.
    """
    if config.username is None:
        return config.url
    parts = urlsplit(config.url)
    password = "" if config.password_file is None else f":{quote(read_secret(config.password_file), safe='')}"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(config.username, safe='')}{password}@{host}"))


def _checked(image: cv2.typing.MatLike, source: str) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise CameraError(f"{source} delivers {image.dtype} {image.shape}, not 8-bit colour: set fourcc, e.g. MJPG")
    return image.astype(np.uint8, copy=False)
