"""Rules of the unit: systemd takes every line of it, and it stays hardened."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "systemd"
UNIT = "edge-ad.service"
COMMAND = "/opt/edge-ad/bin/edge-ad"
EXPOSURE_TENTHS = 25
AFTER_249 = {"systemd-254.conf"}  # drop-ins for newer systemds only

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def systemd_version() -> int:
    first = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True).stdout
    return int(re.findall(r"\d+", first)[0])


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as installed, but for its command, which systemd-analyze wants to see on this machine."""
    text = (UNITS / UNIT).read_text()
    assert f"ExecStart={COMMAND} run " in text
    (tmp_path / UNIT).write_text(text.replace(COMMAND, "/bin/true"))
    return tmp_path / UNIT


@needs_systemd
def test_systemd_understands_the_whole_unit(unit: Path) -> None:
    verified = analyze("verify", str(unit))
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("drop_in", sorted(path.name for path in (UNITS / "optional").iterdir()))
def test_systemd_understands_each_drop_in(unit: Path, drop_in: str) -> None:
    if drop_in in AFTER_249 and systemd_version() < 254:
        pytest.skip(f"{drop_in} is for systemd 254, this is {systemd_version()}")
    folder = unit.with_name(f"{UNIT}.d")
    folder.mkdir()
    shutil.copy(UNITS / "optional" / drop_in, folder)
    verified = analyze("verify", str(unit))
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd
def test_the_exposure_is_at_most_2_5(unit: Path) -> None:
    if systemd_version() < 250:
        pytest.skip(f"systemd {systemd_version()} cannot rate a unit offline")
    rated = analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_TENTHS}", str(unit))
    assert rated.returncode == 0, rated.stdout.splitlines()[-1]


def test_a_mistake_of_the_user_is_not_restarted_and_anything_else_is() -> None:
    text = (UNITS / UNIT).read_text()
    for line in ("Type=notify", "NotifyAccess=main", "Restart=on-failure", "RestartPreventExitStatus=2"):
        assert line in text.splitlines()
