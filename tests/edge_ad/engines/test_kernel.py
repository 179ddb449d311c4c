"""Rules of the kernel that prepares frames: proved in all that cameras ask of it, whole on the disk, or not used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loguru import logger

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import MAX_HALVINGS, halvings, preprocess
from edge_ad.cuda.resize import axis, cubin_path, source_code
from edge_ad.engines import kernel
from edge_ad.engines.kernel import proof_frames, provide_kernel, read_kernel, write_kernel
from edge_ad.errors import BackendError
from tests.edge_ad.cuda.host_kernel import Shrink, on_host
from tests.edge_ad.cuda.test_device import ORIN

LAYOUT = Layout(256, 256)

# Faults in the kernel's arithmetic: what is replaced, by what.
FAULTS = {
    "rounding of a halving": ("(a + b + c + d + 2) >> 2", "(a + b + c + d + 1) >> 2"),
    "one halving": ("area_half(p[0], p[3], p[pitch], p[pitch + 3])", "area_half(p[0], p[3], p[0], p[pitch + 3])"),
    "two halvings": (
        "area_half1(p + 6, pitch), area_half1(below, pitch)",
        "area_half1(p, pitch), area_half1(p, pitch)",
    ),
    "three halvings": ("area_half2(p + 12, pitch), area_half2(below", "area_half2(p, pitch), area_half2(below"),
    "a box": ("for (int i = 0; i < box_x; ++i) sum +=", "for (int i = 0; i < 1; ++i) sum +="),
    "ties of a box": ("rintf(value)", "floorf(value + 0.5f)"),
    "ties of 2 x 2": ("(Byte)((sum + 2) >> 2)", "(Byte)(sum >> 2)"),
    "2 x 2 as any box": ("box_y == 2 && box_x == 2 ?", "0 ?"),
    "weights of the last": ("k == span.count - 1 ? span.tail : span.body", "span.body"),
    "weights of the first": ("k == 0 ? span.head :", "k == 0 ? span.body :"),
    "a corner after halvings": ("3 * column.first) << halvings)", "3 * column.first))"),
    "colours": ("2 - channel", "channel"),
}


def differing(shrink: Shrink) -> list[int]:
    """In how many values a kernel is wrong, for each frame of the proof."""
    return [
        int(np.count_nonzero(shrink(frame, *to.canvas) != preprocess(frame, None, Layout(*to.canvas))))
        for frame, to in proof_frames(LAYOUT)
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_proof_notices_a_kernel_that_is_wrong_in(tmp_path: Path, fault: str) -> None:
    right, wrong = FAULTS[fault]
    assert right in source_code()
    assert any(differing(on_host(tmp_path, source_code().replace(right, wrong))))


def test_the_kernel_as_it_is_passes_the_proof(tmp_path: Path) -> None:
    assert not any(differing(on_host(tmp_path)))


def test_the_proof_has_each_number_of_halvings_with_each_of_what_can_follow() -> None:
    """A frame of 1920 x 1080 on 256 takes two halvings, one of 3840 x 2160 three."""
    seen = set()
    for frame, layout in proof_frames(LAYOUT):
        times = halvings((frame.shape[0], frame.shape[1]), layout.canvas)
        axes = [axis(size >> times, wanted) for size, wanted in zip(frame.shape, layout.canvas, strict=False)]
        seen.add((times, tuple(each.box for each in axes) if all(each.box for each in axes) else "weights"))
    for times in range(MAX_HALVINGS + 1):
        assert {(times, (1, 1)), (times, (3, 3)), (times, "weights")} <= seen
    assert (MAX_HALVINGS, (2, 2)) in seen


def test_the_proof_is_cheap_enough_for_a_start_and_has_tiles() -> None:
    frames = list(proof_frames(Layout(256, 256, rows=4, columns=4, overlap=64)))
    assert sum(frame.size for frame, _ in frames) < 20e6
    assert all(layout.tiles == 4 for _, layout in frames)


def test_a_grid_that_turns_is_proved_lying_and_standing() -> None:
    *_, (_, lying), (standing_frame, standing) = proof_frames(Layout(64, 64, "stretch", 1, 3, 8, turns=True))
    assert (lying.rows, lying.columns, standing.rows, standing.columns) == (1, 2, 2, 1)
    assert standing_frame.shape[0] > standing.canvas[0]
    assert standing_frame.shape[1] > standing.canvas[1]


# --- on the disk ----------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_kernel(tmp_path / "kernel", b"\x7fELF")
    assert read_kernel(tmp_path / "kernel") == b"\x7fELF"
    assert [path.name for path in tmp_path.iterdir()] == ["kernel"]


@pytest.mark.parametrize("damage", [lambda kept: b"", lambda kept: kept[:-1], lambda kept: b"\x7fELG" + kept[4:]])
def test_a_damaged_file_is_no_kernel(tmp_path: Path, damage: Any) -> None:
    write_kernel(tmp_path / "kernel", b"\x7fELF and more")
    (tmp_path / "kernel").write_bytes(damage((tmp_path / "kernel").read_bytes()))
    with pytest.raises(BackendError, match="kernel was damaged"):
        read_kernel(tmp_path / "kernel")


class Device:
    """A GPU whose compiler gives b"new", counted; what it proves is right unless `right` is taken away."""

    def __init__(self) -> None:
        self.compiled = self.proved = 0
        self.nvcc = self.right = True

    def compile(self, sm: str) -> bytes:
        if not self.nvcc:
            raise BackendError("there is no nvcc")
        self.compiled += 1
        return b"new"

    def prove(self, context: object, cubin: bytes, layout: Layout) -> None:
        self.proved += 1
        if not self.right:
            raise BackendError("the kernel differs")


class Context:
    facts = ORIN

    class driver:  # noqa: N801 - a module's name
        class Error(Exception): ...

    def close(self) -> None: ...


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(kernel, "PrimaryContext", Context)
    monkeypatch.setattr(kernel, "compile_kernel", found.compile)
    monkeypatch.setattr(kernel, "prove_kernel", found.prove)
    return found


@contextmanager
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    yield lines
    logger.remove(handler)


def provide(folder: Path, *, again: bool = False) -> tuple[bytes | None, str]:
    """The kernel, and who prepares frames."""
    said: list[str] = []
    cubin = provide_kernel(folder, ORIN, LAYOUT, said.append, again=again)
    (line,) = said
    return cubin, line


def test_a_kernel_is_compiled_and_proved_once(tmp_path: Path, device: Device) -> None:
    for _ in range(2):
        assert provide(tmp_path) == (b"new", f"frames are prepared on the GPU: {cubin_path(tmp_path, 'sm_87')}")
    assert (device.compiled, device.proved) == (1, 1)


@pytest.mark.parametrize("left", [b"", b"\x7fELF"])
def test_a_damaged_one_is_said_and_compiled_anew(tmp_path: Path, device: Device, left: bytes) -> None:
    cubin_path(tmp_path, "sm_87").write_bytes(left)
    with warnings() as lines:
        assert provide(tmp_path)[0] == b"new"
    assert lines == [f"{cubin_path(tmp_path, 'sm_87')} was damaged: compiling it anew"]
    assert read_kernel(cubin_path(tmp_path, "sm_87")) == b"new"


def test_where_it_cannot_be_compiled_anew_the_cpu_prepares_frames(tmp_path: Path, device: Device) -> None:
    device.nvcc = False
    cubin_path(tmp_path, "sm_87").write_bytes(b"")
    with warnings():
        assert provide(tmp_path) == (None, "frames are prepared on the CPU: there is no nvcc")


def test_again_makes_it_anew(tmp_path: Path, device: Device) -> None:
    write_kernel(cubin_path(tmp_path, "sm_87"), b"old")
    assert provide(tmp_path)[0] == b"old"
    assert provide(tmp_path, again=True)[0] == b"new"
    assert provide(tmp_path)[0] == b"new"


def test_again_without_a_compiler_proves_the_one_that_is_there(tmp_path: Path, device: Device) -> None:
    write_kernel(cubin_path(tmp_path, "sm_87"), b"old")
    device.nvcc = False
    with warnings() as lines:
        assert provide(tmp_path, again=True)[0] == b"old"
    assert device.proved == 1
    assert lines == ["the kernel for frames is not compiled again, only proved again: there is no nvcc"]


def test_a_kernel_that_fails_its_proof_is_not_there_at_the_next_start(tmp_path: Path, device: Device) -> None:
    write_kernel(cubin_path(tmp_path, "sm_87"), b"old")
    device.right = False
    assert provide(tmp_path, again=True) == (None, "frames are prepared on the CPU: the kernel differs")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_only_the_next_start_some_time(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, *, as_its_folder: bool) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(kernel, "write_whole", full)
    with warnings() as lines:
        assert provide(tmp_path)[0] == b"new"
    assert lines == [f"{cubin_path(tmp_path, 'sm_87')} cannot be written: No space left on device"]


def test_no_room_for_the_compiler_means_the_cpu_prepares_frames(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(sm: str) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel, "compile_kernel", full)
    assert provide(tmp_path) == (None, "frames are prepared on the CPU: [Errno 28] No space left on device")


def test_a_letterbox_is_the_cpus(tmp_path: Path, device: Device) -> None:
    said: list[str] = []
    assert provide_kernel(tmp_path, ORIN, Layout(64, 64, "letterbox"), said.append) is None
    assert said == ["frames are prepared on the CPU: the kernel does no letterbox"]
