"""The clock is called synchronised exactly when the system's own tool says so."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest

from edge_ad.clock import clock_synchronised


def test_it_is_what_timedatectl_says() -> None:
    if shutil.which("timedatectl") is None:
        pytest.skip("timedatectl is not installed")
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode != 0:
        pytest.skip(f"timedatectl cannot tell here: {said.stderr.strip()}")
    assert clock_synchronised() is {"yes": True, "no": False}[said.stdout.strip()]


@pytest.mark.parametrize(
    ("returned", "maxerror", "expected"), [(0, 15_999_999, True), (5, 16_000_000, False), (-1, 0, None)]
)
def test_it_goes_by_the_kernels_estimate_of_the_largest_error(
    monkeypatch: pytest.MonkeyPatch, returned: int, maxerror: int, expected: bool | None
) -> None:
    class Kernel:
        def adjtimex(self, about: object) -> int:
            timex = bytearray(64)
            assert bytes(ctypes.cast(about, ctypes.POINTER(ctypes.c_char * 4)).contents) == bytes(4)  # only asks
            timex[24:32] = maxerror.to_bytes(8, "little")  # the fourth word of struct timex on 64 bits
            ctypes.memmove(about, bytes(timex), len(timex))
            return returned

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Kernel())
    assert clock_synchronised() is expected


def test_the_kernel_answers_everybody_who_only_asks() -> None:
    assert clock_synchronised() in (True, False)
