"""`edge-ad capture`: full frames through the station's own camera, the way to training images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.cameras.capture import HUNG_FACTOR, Capture
from edge_ad.config import Camera as CameraConfig
from edge_ad.console import say, tracked
from edge_ad.core.preprocess import resize
from edge_ad.errors import CameraError, UsageError
from edge_ad.images import write_png
from edge_ad.pictures import captioned, sheet
from edge_ad.records import Frame, Scored

SHEET = Path("contact-sheet", "contact-sheet.png")  # in a folder of its own: it is not a picture of a part
MAX_THUMBNAILS = 200
THUMBNAIL = (120, 160)  # height, width
COLUMNS = 10
WAIT_S = 0.25


def collect(camera: CameraConfig, out: Path, count: int, interval_s: float) -> None:
    """Write `count` frames as PNG and a contact sheet of them into the empty folder `out`.

    Args:
        camera: the station's camera.
        out: made if it is missing.
        count: number of frames.
        interval_s: pause between two frames of a free-running camera; one frame a part, not thirty.

    Raises:
        UsageError: `out` is not empty.
        CameraError: the camera failed, or its source ended too early; what was written stays.
    """
    _refuse_filled(out)
    every = math.ceil(count / MAX_THUMBNAILS)
    thumbnails = []
    with running(camera) as capture:
        for number in tracked(range(1, count + 1), "capture"):
            image = next_frame(capture, camera, number - 1).image
            write_png(out / f"{number:06d}.png", image)
            if number % every == 1 % every:
                thumbnails.append(captioned(_thumbnail(image), f"{number:06d}"))
            _skip(capture, interval_s if number < count else 0.0)
    (out / SHEET).parent.mkdir()
    write_png(out / SHEET, sheet(thumbnails, COLUMNS))
    say(f"{count} frames in {out}; look through {out / SHEET} before you train on them")


@contextmanager
def running(camera: CameraConfig) -> Iterator[Capture]:
    """A capture thread for the length of a block."""
    capture = Capture(camera)
    capture.start()
    try:
        yield capture
    finally:
        capture.stop(HUNG_FACTOR * camera.read_timeout_s)


def next_frame(capture: Capture, camera: CameraConfig, delivered: int = 0) -> Frame:
    """The next readable frame, within the camera's own time-outs.

    Raises:
        CameraError: as `next_shot`; or it plays recorded scores.
    """
    shot = next_shot(capture, camera, delivered)
    if isinstance(shot, Scored):
        raise CameraError(f"camera {camera.name} plays recorded scores: there are no frames to take")
    return shot


def next_shot(capture: Capture, camera: CameraConfig, delivered: int = 0) -> Frame | Scored:
    """The next readable frame or recorded score, within the camera's own time-outs.

    Raises:
        CameraError: it failed, ended after `delivered` frames, or did not deliver in time.
    """
    deadline = time.monotonic() + camera.open_timeout_s + HUNG_FACTOR * camera.read_timeout_s
    while time.monotonic() < deadline:
        shot = capture.frames.get(WAIT_S)
        if isinstance(shot, (Frame, Scored)):
            return shot
        state = capture.state()
        if shot is None and state.state == "fault":
            raise CameraError(f"camera {camera.name}: {state.detail}")
        if capture.frames.finished:
            raise CameraError(f"camera {camera.name}: its source ended after {delivered} frames")
    raise CameraError(f"camera {camera.name} delivered nothing within its time-outs")


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
