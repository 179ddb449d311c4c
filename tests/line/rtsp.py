"""An IP camera on loopback: GStreamer's RTSP server in a process of its own, and frames that say which they are."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.images import write_png
from edge_ad.records import Verdict
from tests.station import part

FRAMES = 16
DEFECT_EVERY = 4
FPS = 10
HEIGHT, WIDTH = 240, 320

_SYSTEM_PYTHON = "/usr/bin/python3"  # gi is a system package
_SERVER = Path(__file__).with_name("gst_rtsp_server.py")
_NEEDS_GI = "import gi; gi.require_version('GstRtspServer', '1.0')"
_ELEMENTS = ("multifilesrc", "pngdec", "videoconvert", "x264enc", "rtph264pay")
_BITS = 4
_BIT_PX = 16
_ZERO, _ONE = 150, 250  # grey levels: both bright enough not to be a defect


class IpCamera:
    """Serves the frames of `truth` in turn, for ever; `freeze` and `thaw` do what a hung camera does."""

    def __init__(self, folder: Path) -> None:
        _skip_without_gstreamer()
        folder.mkdir()
        for number in range(FRAMES):
            write_png(folder / f"{number:04d}.png", numbered_part(number))
        self._process = subprocess.Popen(
            [_SYSTEM_PYTHON, str(_SERVER), str(folder / "%04d.png"), str(FPS), "0"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = f"rtsp://127.0.0.1:{int(self._process.stdout.readline())}/cam"

    def freeze(self) -> None:
        """Stop answering, with all connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server."""
        with self._process:
            self._process.kill()


def numbered_part(number: int) -> NDArray[np.uint8]:
    """A part with its number in big grey and white squares at the top, which survive H.264."""
    image = part(number, defect=False, height=HEIGHT, width=WIDTH)
    image[:_BIT_PX, : _BITS * _BIT_PX] = _ZERO
    for bit in range(_BITS):
        if number >> bit & 1:
            image[:_BIT_PX, bit * _BIT_PX : (bit + 1) * _BIT_PX] = _ONE
    if truth(number) == "defect":
        image[100:160, 100:160] = 10
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that a decoded frame shows."""
    middle = _BIT_PX // 2
    return sum(int(image[middle, bit * _BIT_PX + middle].mean() > (_ZERO + _ONE) / 2) << bit for bit in range(_BITS))


def truth(number: int) -> Verdict:
    """The verdict that a part deserves."""
    return "defect" if number % DEFECT_EVERY == 0 else "ok"


def _skip_without_gstreamer() -> None:
    if (
        not Path(_SYSTEM_PYTHON).exists()
        or subprocess.run([_SYSTEM_PYTHON, "-c", _NEEDS_GI], capture_output=True).returncode
    ):
        pytest.skip("the system's Python has no GstRtspServer (python3-gi, gir1.2-gst-rtsp-server-1.0)")
    if shutil.which("gst-inspect-1.0") is None:
        pytest.skip("gst-inspect-1.0 is not installed (gstreamer1.0-tools)")
    for element in _ELEMENTS:
        if subprocess.run(["gst-inspect-1.0", "--exists", element]).returncode:
            pytest.skip(f"GStreamer has no {element}")
