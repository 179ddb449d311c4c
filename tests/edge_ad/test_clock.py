"""The clock is called synchronised exactly when the system's own tool says so."""

from __future__ import annotations

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


def test_the_kernel_answers_everybody_who_only_asks() -> None:
    assert clock_synchronised() in (True, False)
