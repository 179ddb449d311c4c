"""Rules of the recording: lossless, bounded, and never in the way of inspection."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_ad.config import RecordingConfig
from edge_ad.images import list_images, read_image
from edge_ad.recorder import Recorder
from edge_ad.records import Frame
from edge_ad.snapshots import FREE_BYTES
from tests.station import part


def record(folder: Path, ids: range, max_frames: int = 3) -> None:
    recorder = Recorder(RecordingConfig(dir=folder, max_frames=max_frames))
    for frame_id in ids:
        recorder.record(Frame("top", frame_id, part(frame_id, defect=False), 0, 0))


def ids_in(folder: Path) -> list[int]:
    return [int(path.stem) for path in list_images(folder)]


def test_a_recorded_frame_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    record(tmp_path / "frames", range(7, 8))
    assert np.array_equal(read_image(tmp_path / "frames" / "0000000007.png"), part(7, defect=False))


def test_the_oldest_goes_also_over_a_restart(tmp_path: Path) -> None:
    record(tmp_path, range(8, 12))
    assert ids_in(tmp_path) == [9, 10, 11]
    record(tmp_path, range(12, 14))
    assert ids_in(tmp_path) == [11, 12, 13]


def test_where_numbers_begin_again_the_oldest_goes_all_the_same(tmp_path: Path) -> None:
    record(tmp_path, range(100, 103))
    for number in range(1, 4):  # a restart after each
        for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, ns=(age, age))
        record(tmp_path, range(number, number + 1))
    assert ids_in(tmp_path) == [1, 2, 3]


def test_what_is_left_of_a_disk_that_is_nearly_full_is_for_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, range(1, 2))
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=FREE_BYTES))
        record(tmp_path, range(2, 4))
    assert [path.name for path in tmp_path.iterdir()] == ["0000000001.png"]
    record(tmp_path, range(4, 5))
    assert ids_in(tmp_path) == [1, 4]


def test_half_a_frame_holds_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    record(tmp_path, range(1, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_frame_recorded_again_counts_once(tmp_path: Path) -> None:
    record(tmp_path, range(1, 4))
    record(tmp_path, range(3, 5))
    assert ids_in(tmp_path) == [2, 3, 4]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "reference.png").write_bytes(b"mine")
    record(tmp_path, range(1, 9), max_frames=1)
    assert (tmp_path / "reference.png").read_bytes() == b"mine"


def test_a_recording_that_fails_does_not_stop_the_inspection_and_goes_on_later(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.write_text("a file where the folder should be")
    recorder = Recorder(RecordingConfig(dir=folder, max_frames=3))
    recorder.record(Frame("top", 1, part(1, defect=False), 0, 0))
    folder.unlink()
    recorder.record(Frame("top", 2, part(2, defect=False), 0, 0))
    assert ids_in(folder) == [2]


def test_a_recording_that_is_a_link_to_nothing_does_not_end_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "0000000001.png").symlink_to(tmp_path / "gone.png")
    record(tmp_path, range(2, 5))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number:010d}.png" for number in (2, 3, 4)]


def test_a_folder_that_cannot_be_read_stops_the_recording_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as forbidden:
        forbidden.setattr(
            Path, "iterdir", lambda _path: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
        )
        recorder = Recorder(RecordingConfig(dir=tmp_path, max_frames=3))
        recorder.record(Frame("top", 1, part(1, defect=False), 0, 0))
    assert list(tmp_path.iterdir()) == []
    recorder.record(Frame("top", 2, part(2, defect=False), 0, 0))
    assert ids_in(tmp_path) == [2]
