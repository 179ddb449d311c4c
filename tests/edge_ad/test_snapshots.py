"""Snapshots: the next frame to the last bit, or a reason; and never more than the folder may hold."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad import snapshots
from edge_ad.core.messages import StationContext
from edge_ad.core.orders import Done, TakeSnapshot
from edge_ad.records import Decision, Event, Frame, Missed
from edge_ad.snapshots import FRAME_WITHIN_S, WAITING, Snapshots

CONTEXT = StationContext("press-3", "boot", "digest", simulated=False)
IMAGE = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
MAP = np.random.default_rng(2).random((32, 32), np.float32)
CAPTURED_NS = 1_763_787_600_123_000_000


class Taker:
    """Snapshots into a folder of at most 1 MB, with a clock that only the test moves, and what they reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 0.0
        self.done: list[Done] = []
        self.snapshots = Snapshots(folder, 1, CONTEXT, self.done.append, lambda: self.now_s)

    def take(self, number: int, image: Any = IMAGE, anomaly_map: Any = MAP) -> Done:
        """Order a snapshot, and show it its frame; what came of it."""
        self.snapshots.order(TakeSnapshot(f"a-{number}", "anna"))
        self.offer(number, image, anomaly_map)
        assert self.snapshots.stop(20.0)
        return self.done[-1]

    def offer(self, number: int, image: Any = IMAGE, anomaly_map: Any = MAP) -> None:
        captured_ns = CAPTURED_NS + number * 1_000_000
        event = Event("top", number, None, None, captured_ns, Decision("ok", None, 0.25, 0.5, calibration=3))
        self.snapshots.offer(Frame("top", number, image, captured_ns, 0), anomaly_map, event)


@pytest.fixture
def taker(tmp_path: Path) -> Taker:
    return Taker(tmp_path / "state" / "snapshots")


def test_a_snapshot_has_the_frame_and_the_map_to_the_last_bit_and_says_what_it_wrote(taker: Taker) -> None:
    done = taker.take(7)
    assert done.details is not None
    folder = Path(str(done.details["folder"]))
    assert folder == taker.folder / "20251122T050000.130Z-7"
    assert done.details["files"] == {path.name: path.stat().st_size for path in folder.iterdir()}
    assert (done.refusal, done.details["width"], done.details["height"]) == ("", 64, 48)
    np.testing.assert_array_equal(cv2.imread(str(folder / "frame.png")), IMAGE)
    np.testing.assert_array_equal(cv2.imread(str(folder / "map.tiff"), cv2.IMREAD_UNCHANGED), MAP)
    facts = json.loads((folder / "snapshot.json").read_text())
    assert (facts["station"], facts["asked_by"], facts["frame_id"]) == ("press-3", "anna", 7)
    assert (facts["decision"]["score"], facts["decision"]["calibration"]) == (0.25, 3)


def test_the_frame_is_kept_as_it_was_although_its_memory_is_used_again(taker: Taker) -> None:
    image, anomaly_map = IMAGE.copy(), MAP.copy()
    taker.snapshots.order(TakeSnapshot("a-1", None))
    taker.offer(1, image, anomaly_map)
    image[:], anomaly_map[:] = 0, 0
    assert taker.snapshots.stop(20.0)
    (folder,) = taker.folder.iterdir()
    np.testing.assert_array_equal(cv2.imread(str(folder / "frame.png")), IMAGE)
    np.testing.assert_array_equal(cv2.imread(str(folder / "map.tiff"), cv2.IMREAD_UNCHANGED), MAP)


def test_where_the_model_did_not_run_there_is_no_map(taker: Taker) -> None:
    done = taker.take(1, anomaly_map=None)
    assert done.details is not None
    assert set(done.details["files"]) == {"frame.png", "snapshot.json"}  # type: ignore[call-overload]


def test_nobody_asked_nothing_is_kept(taker: Taker) -> None:
    taker.offer(1)
    assert not taker.folder.exists()


def test_a_part_without_a_frame_is_passed_over(taker: Taker) -> None:
    taker.snapshots.order(TakeSnapshot("a-1", None))
    event = Event("top", 1, None, None, 0, Decision("not_inspected", "unreadable", None, None))
    taker.snapshots.offer(Missed("top", 1, 0, 0, "unreadable"), None, event)
    taker.offer(2)
    assert taker.snapshots.stop(20.0)
    assert [path.name[-2:] for path in taker.folder.iterdir()] == ["-2"]


def test_without_a_frame_in_time_there_is_none(taker: Taker) -> None:
    taker.snapshots.order(TakeSnapshot("a-1", None))
    taker.snapshots.turn()
    assert taker.done == []
    taker.now_s = FRAME_WITHIN_S + 1
    taker.snapshots.turn()
    taker.offer(1)
    assert taker.done == [Done("a-1", "no frame within 10 s")]
    assert not taker.folder.exists()


def test_orders_wait_up_to_a_number_and_get_a_frame_each(taker: Taker) -> None:
    for number in range(WAITING + 1):
        taker.snapshots.order(TakeSnapshot(f"a-{number}", None))
    assert taker.done == [Done(f"a-{WAITING}", f"{WAITING} snapshots wait already")]
    for number in range(WAITING):
        taker.offer(number)
        assert taker.snapshots.stop(20.0)
    assert len(list(taker.folder.iterdir())) == WAITING


def test_the_folder_stays_in_its_bounds_and_the_oldest_go_first(taker: Taker) -> None:
    large = np.random.default_rng(3).integers(0, 256, (300, 300, 3), dtype=np.uint8)  # 270 kB as PNG
    for number in range(1, 11):
        assert taker.take(number, large).refusal == ""
        assert sum(path.stat().st_size for path in taker.folder.rglob("*.*")) <= 1 << 20
    assert sorted(path.name.rpartition("-")[2] for path in taker.folder.iterdir()) == ["10", "8", "9"]


def test_a_clock_that_falls_back_makes_no_new_snapshot_the_oldest(
    taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.random.default_rng(3).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    for number in range(1, 4):
        assert taker.take(number, large).refusal == ""
    monkeypatch.setattr(f"{__name__}.CAPTURED_NS", CAPTURED_NS - 10**18)  # some thirty years
    for number in range(4, 7):
        assert taker.take(number, large).refusal == ""
    assert sorted(path.name.rpartition("-")[2] for path in taker.folder.iterdir()) == ["4", "5", "6"]


def test_where_numbers_begin_again_the_oldest_goes_all_the_same(taker: Taker) -> None:
    large = np.random.default_rng(3).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    for number in (1001, 1002, 1003, 1, 2):
        assert taker.take(number, large).refusal == ""
    assert sorted(path.name.rpartition("-")[2] for path in taker.folder.iterdir()) == ["1", "1003", "2"]


def test_what_somebody_else_has_put_there_stays(taker: Taker) -> None:
    (taker.folder / "notes").mkdir(parents=True)
    large = np.random.default_rng(3).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    for number in range(1, 6):
        taker.take(number, large)
    assert (taker.folder / "notes").is_dir()


def test_a_snapshot_larger_than_the_folder_may_hold_is_refused_and_the_others_stay(taker: Taker) -> None:
    taker.take(1)
    huge = np.random.default_rng(3).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    assert "raise commands.snapshots_mb" in taker.take(2, huge).refusal
    assert [path.name[-2:] for path in taker.folder.iterdir()] == ["-1"]


def test_on_a_disk_that_is_nearly_full_the_outbox_comes_first(taker: Taker, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(snapshots.shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 50 << 20))
    assert taker.take(1).refusal == "the disk has 50 MB left: free some"
    assert list(taker.folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(taker: Taker) -> None:
    taker.folder.parent.mkdir(parents=True)
    taker.folder.touch()
    assert taker.take(1).refusal.startswith(f"cannot write to {taker.folder}: ")


def test_what_a_killed_process_left_unfinished_is_removed(taker: Taker) -> None:
    (taker.folder / "unfinished").mkdir(parents=True)
    (taker.folder / "unfinished" / "frame.png").write_bytes(b"half")
    assert taker.take(1).refusal == ""
    assert [path.name[-2:] for path in taker.folder.iterdir()] == ["-1"]
