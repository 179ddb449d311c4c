"""Rules of TensorRT's file of timings: it saves time, and costs no engine."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from edge_ad.engines import tensorrt
from edge_ad.engines.tensorrt import _keep_timings, _known_timings


class Config:
    """A builder's, with timings."""

    def get_timing_cache(self) -> Config:
        return self

    def serialize(self) -> bytes:
        return b"timings"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    yield lines
    logger.remove(handler)


def test_timings_are_kept_for_the_next_build(tmp_path: Path, warnings: list[str]) -> None:
    path = tmp_path / "timing-sm_87-10.3.0.bin"
    assert _known_timings(path) == b""
    _keep_timings(Config(), path)
    assert _known_timings(path) == b"timings"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert warnings == []


def test_a_full_disk_is_one_warning_and_the_engine_is_not_lost(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorrt, "write_whole", full)
    _keep_timings(Config(), tmp_path / "timing.bin")
    assert warnings == [
        f"{tmp_path / 'timing.bin'} cannot be written (No space left on device): the next build measures anew"
    ]


def test_a_folder_that_is_gone_is_one_warning(tmp_path: Path, warnings: list[str]) -> None:
    _keep_timings(Config(), tmp_path / "gone" / "timing.bin")
    assert len(warnings) == 1


def test_a_file_that_cannot_be_read_is_one_warning(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "timing.bin").mkdir()
    assert _known_timings(tmp_path / "timing.bin") == b""
    assert warnings == [f"{tmp_path / 'timing.bin'} cannot be read (Is a directory): all kernels are measured anew"]
