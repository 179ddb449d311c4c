"""Rules of a build's memory: bounded scratch memory, and a warning in time where RAM and GPU memory are one."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edge_ad.engines.memory import (
    GIB,
    MIB,
    WORKSPACE_LEAST,
    WORKSPACE_MOST,
    available_bytes,
    warning,
    workspace_bytes,
)


@given(st.integers(0, 256 * GIB))
def test_scratch_memory_is_a_quarter_of_what_is_free_within_limits(available: int) -> None:
    found = workspace_bytes(available)
    assert WORKSPACE_LEAST <= found <= WORKSPACE_MOST
    assert found == available // 4 or found in (WORKSPACE_LEAST, WORKSPACE_MOST)


def test_what_is_free_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  7990000 kB\nMemFree:  100 kB\nMemAvailable:    1024 kB\n")
    assert available_bytes(tmp_path / "meminfo") == MIB
    assert available_bytes() > 0


def test_a_board_with_little_free_memory_is_told_what_to_stop() -> None:
    said = warning(GIB, "torch_tensorrt", integrated=True)
    assert said is not None
    assert said.startswith("1.0 GiB are free")
    assert "systemctl stop edge-ad" in said


def test_nobody_is_warned_who_has_enough_or_a_memory_apart() -> None:
    assert warning(6 * GIB, "torch_tensorrt", integrated=True) is None
    assert warning(GIB, "torch_tensorrt", integrated=False) is None
    assert warning(2 * GIB, "tensorrt", integrated=True) is None
