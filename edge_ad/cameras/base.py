"""The seam between the frame path and a source of images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_ad import config as configuration

POLL_S = 0.1  # the longest that a source sleeps before it gives its thread a chance to stop
WAITED_SHARE = 0.9  # of the driver's time-out: a read that took less did not wait for a part, it failed


@dataclass(frozen=True, slots=True)
class Picture:
    """What a source delivered.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        part_id: what the source itself knows the part by; a file's name for folders.
        resume_after: the part_id that the source goes on after, once this part has its result; None: this part's.
    """

    image: NDArray[np.uint8]
    part_id: str | None = None
    resume_after: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A part of which the source has no usable image: it still gets exactly one result; `resume_after` as above."""

    part_id: str | None
    detail: str
    resume_after: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedScore:
    """A part of which the source knows no image, but the score that it once had, raw units."""

    part_id: str
    score: float


Delivered = Picture | Unreadable | RecordedScore


class EndOfFrames(Exception):  # noqa: N818 - not an error, as StopIteration is not
    """The source has delivered its last frame."""


class Camera(Protocol):
    """A source of images, used by one thread at a time.

    Attributes:
        complete: every frame must be inspected, so the reader waits; otherwise the source runs free and the newest
            frame wins.
    """

    complete: bool

    def open(self) -> None:
        """Connect, also again after `close`; a source of files then goes on where it was.

        Raises:
            CameraError: it is not there, refused, or did not answer within `open_timeout_s`.
        """

    def read(self) -> Delivered | None:
        """Wait for the next frame; None if there is none yet and that is no fault.

        Raises:
            CameraError: it failed, or did not deliver within `read_timeout_s`; close it and open it again.
            EndOfFrames: there will be no more.
        """

    def close(self) -> None:
        """Release the device; harmless if it is not open."""


class Pace:
    """Releases one frame per interval, in naps short enough to notice a stop."""

    def __init__(self, interval_s: float) -> None:
        """Release the first frame at once."""
        self._interval_s = interval_s
        self._due = time.monotonic()

    def wait(self) -> bool:
        """Wait for the next frame's time, `POLL_S` at the most; True once it has come."""
        now = time.monotonic()
        if now < self._due:
            time.sleep(min(self._due - now, POLL_S))
        return time.monotonic() >= self._due

    def advance(self) -> None:
        """The frame was delivered: the next is due one interval after this one was, or now if that has passed."""
        self._due = max(self._due + self._interval_s, time.monotonic())


def _v4l2(config: configuration.V4l2Camera, _resume_after: str | None) -> Camera:
    from edge_ad.cameras.opencv import LiveCamera, connect_v4l2

    def is_triggered() -> bool:
        return config.hardware_trigger and Path(config.device).exists()

    def waits_for_its_trigger(read_s: float) -> bool:
        return read_s >= WAITED_SHARE * config.select_timeout_s and is_triggered()

    return LiveCamera(config.device, lambda: connect_v4l2(config), waits_for_its_trigger, is_triggered)


def _csi(config: configuration.CsiCamera, _resume_after: str | None) -> Camera:
    from edge_ad.cameras.opencv import LiveCamera, connect_csi

    return LiveCamera(f"CSI sensor {config.sensor_id}", lambda: connect_csi(config))


def _rtsp(config: configuration.RtspCamera, _resume_after: str | None) -> Camera:
    from edge_ad.cameras.opencv import LiveCamera, connect_rtsp, rtsp_url, shown

    rtsp_url(config)  # here too, not only in the capture thread: a password file that is missing is the user's mistake
    return LiveCamera(shown(config.url), lambda: connect_rtsp(config))


def _file(config: configuration.FileCamera, _resume_after: str | None) -> Camera:
    from edge_ad.cameras.opencv import VideoFile

    return VideoFile(config)


def _folder(config: configuration.FolderCamera, resume_after: str | None) -> Camera:
    from edge_ad.cameras.folder import Folder

    return Folder(config, resume_after)


def _simulated(config: configuration.SimulatedCamera, resume_after: str | None) -> Camera:
    from edge_ad.cameras.playback import Playback

    return Playback(config, resume_after)


# Any: each kind takes its own configuration; the discriminator `kind` of the configuration pairs them.
KINDS: dict[str, Callable[[Any, str | None], Camera]] = {
    "v4l2": _v4l2,
    "csi": _csi,
    "rtsp": _rtsp,
    "file": _file,
    "folder": _folder,
    "simulated": _simulated,
}
SIMULATED = frozenset({"file", "folder", "simulated"})  # these do not show the part that is on the line now


def make_camera(config: configuration.Camera, resume_after: str | None = None) -> Camera:
    """The source of a configuration, not yet open.

    Args:
        config: the station's camera.
        resume_after: part_id of the last part that has its result; a folder and a simulation go on after it.

    Raises:
        ConfigError: its password file cannot be read.
    """
    return KINDS[config.kind](config, resume_after)
