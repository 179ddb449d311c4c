"""`edge-ad capture`: full frames through the station's own camera, the way to training images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.cameras.capture import HUNG_FACTOR, Capture
from edge_ad.config import Camera as CameraConfig
from edge_ad.config import StationConfig
from edge_ad.console import complain, say, tracked
from edge_ad.core.preprocess import resize
from edge_ad.errors import CameraError, UsageError
from edge_ad.images import write_png
from edge_ad.lock import in_use
from edge_ad.pictures import captioned, sheet
from edge_ad.records import CameraPhase, CameraState, Frame, Scored

ONE_USER = ("v4l2", "csi")  # cameras that a second program cannot open
SHEET = Path("contact-sheet", "contact-sheet.png")  # in a folder of its own: it is not a picture of a part
MAX_THUMBNAILS = 200
THUMBNAIL = (120, 160)  # height, width
COLUMNS = 10
WAIT_S = 0.25
TELL_S = 3.0  # without a frame for so long: a person is told what it waits for
RECONNECT_S = 60.0  # a camera that worked may be away for so long
WAITS_FOR: dict[CameraPhase, str] = {
    "opening": "is being opened",
    "online": "is online, no part came yet",
    "fault": f"has failed and may take {RECONNECT_S:g} s to come back",
}


def collect(station: StationConfig, out: Path, count: int, interval_s: float) -> None:
    """Write `count` frames as PNG and a contact sheet of them into the empty folder `out`.

    Args:
        station: whose camera it is.
        out: made if it is missing.
        count: number of frames.
        interval_s: pause between two frames of a free-running camera; one frame a part, not thirty.

    Raises:
        UsageError: `out` is not empty, or the station's daemon runs and has the camera.
        CameraError: the camera is not there or does not come back, or its source ended too early. Then, and on Ctrl-C,
            what was written stays, with its contact sheet.
    """
    camera = station.camera
    if taken(station):
        raise UsageError(
            f"the running daemon has {camera.name} ({camera.kind}): systemctl stop edge-ad, and start it afterwards"
        )
    _refuse_filled(out)
    every = math.ceil(count / MAX_THUMBNAILS)
    thumbnails: list[NDArray[np.uint8]] = []
    written = 0
    try:
        with running(camera) as capture:
            frames = _Frames(capture, camera.name)
            for number in tracked(range(1, count + 1), "capture"):
                image = frames.take(written).image
                write_png(out / f"{number:06d}.png", image)
                written = number
                if number % every == 1 % every:
                    thumbnails.append(captioned(_thumbnail(image), f"{number:06d}"))
                _skip(capture, interval_s if number < count else 0.0)
    finally:
        _finish(out, thumbnails, written, count)


def taken(station: StationConfig) -> bool:
    """Whether a running daemon has the camera for itself."""
    return station.camera.kind in ONE_USER and in_use(station.state_dir, if_unknown=False)


@contextmanager
def running(camera: CameraConfig) -> Iterator[Capture]:
    """A capture thread for the length of a block."""
    capture = Capture(camera)
    capture.start()
    try:
        yield capture
    finally:
        capture.stop(HUNG_FACTOR * camera.read_limit_s)


def next_shot(capture: Capture, name: str, delivered: int = 0) -> Frame | Scored | None:
    """The next readable frame or recorded score of camera `name`; None if none came within one turn of waiting.

    Raises:
        CameraError: its source ended after `delivered` frames, or so many calls into it hang that it cannot come back.
    """
    capture.supervise()
    shot = capture.frames.get(WAIT_S)
    if isinstance(shot, (Frame, Scored)):
        return shot
    if capture.frames.finished:
        raise CameraError(f"camera {name}: its source ended after {delivered} frames")
    return None


class _Frames:
    """The frames of a camera for a person who watches.

    A camera that is online may take its time: it waits for a part. One that worked may be away for `RECONNECT_S`.
    """

    def __init__(self, capture: Capture, name: str) -> None:
        self._capture = capture
        self._name = name
        self._has_worked = False
        self._seen_s = 0.0  # it was not yet known to be away
        self._told: set[CameraPhase] = set()

    def take(self, delivered: int) -> Frame:
        """The next readable frame.

        Raises:
            CameraError: as `next_shot`; it is not there or does not come back; it plays recorded scores.
        """
        began_s = self._seen_s = time.monotonic()
        while (shot := next_shot(self._capture, self._name, delivered)) is None:
            state, now_s = self._capture.state(), time.monotonic()
            self._give_up_if_lost(state, now_s)
            if now_s - began_s > TELL_S:
                self._tell(state.state)
        if isinstance(shot, Scored):
            raise CameraError(f"camera {self._name} plays recorded scores: there are no frames to take")
        self._has_worked = True
        return shot

    def _give_up_if_lost(self, state: CameraState, now_s: float) -> None:
        if state.state == "online":
            self._has_worked, self._seen_s = True, now_s
        if state.state != "fault":
            return
        if not self._has_worked:
            raise CameraError(f"camera {self._name}: {state.detail}")
        if now_s - self._seen_s > RECONNECT_S:
            raise CameraError(f"camera {self._name} did not come back within {RECONNECT_S:g} s: {state.detail}")

    def _tell(self, phase: CameraPhase) -> None:
        """What is waited for; once for each phase."""
        if phase not in self._told:
            self._told.add(phase)
            complain(f"camera {self._name} {WAITS_FOR[phase]}: waiting; Ctrl-C ends the capture, what is written stays")


def _finish(out: Path, thumbnails: Sequence[NDArray[np.uint8]], written: int, count: int) -> None:
    """Say what there is, also where that is not all."""
    if written == 0:
        return
    of_all = "" if written == count else f" of {count}"
    try:
        (out / SHEET).parent.mkdir()
        write_png(out / SHEET, sheet(thumbnails, COLUMNS))
    except OSError:
        say(f"{written}{of_all} frames in {out}, without a contact sheet")
        raise
    say(f"{written}{of_all} frames in {out}; look through {out / SHEET} before you train on them")


def _skip(capture: Capture, interval_s: float) -> None:
    """Let the frames of an interval pass by; a folder or file waits, so nothing of it is lost."""
    time.sleep(interval_s)
    if capture.frames.policy == "drop_oldest" and interval_s > 0:
        capture.frames.get_all(0.0)


def _refuse_filled(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        filled = any(out.iterdir())
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}") from error
    if filled:
        raise UsageError(f"{out} is not empty: name a new folder, so that two captures do not mix")


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image fitted into THUMBNAIL, on white."""
    height, width = THUMBNAIL
    scale = min(height / image.shape[0], width / image.shape[1])
    small = resize(image, max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale)))
    bottom, right = height - small.shape[0], width - small.shape[1]
    padded = cv2.copyMakeBorder(small, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return padded.astype(np.uint8, copy=False)
