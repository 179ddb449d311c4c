"""Rules of the calibration store: numbered, never overwritten, one in force, changed atomically, by one at a time."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from subprocess import PIPE

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_ad import calibration_store as stores
from edge_ad.config import RoiConfig
from edge_ad.errors import CalibrationError
from edge_ad.thresholds import CalibrationRecord, in_force, record_path, refused

PICTURE = np.full((4, 6, 3), 200, np.uint8)
AT = "2026-11-22T05:00:00Z"


def draft(threshold: float = 0.5, bundle: str = "b" * 64, camera: str | None = None) -> CalibrationRecord:
    return CalibrationRecord(
        schema="edge-ad/calibration",
        number=1,
        image_threshold=threshold,
        pixel_threshold=threshold / 2,
        false_alarm_rate=0.05,
        confidence=0.95,
        rank=59,
        n_images=59,
        images_sha256=("a" * 64,),
        bundle=bundle,
        backend="onnxruntime",
        precision="fp32",
        camera=camera,
        roi=None,
        created_at=AT,
        created_by="anna",
    )


def applies(record: CalibrationRecord) -> str | None:
    return None if record.bundle == "b" * 64 else "another bundle"


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "records").iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


def test_what_is_stored_is_what_the_device_reads(store: Path) -> None:
    stored = stores.add(store, draft(0.125), PICTURE)
    assert stored.number == 1
    assert in_force(store) == stored == stores.current(store)
    decoded = cv2.imread(str(record_path(store, 1).with_suffix(".png")))
    np.testing.assert_array_equal(decoded, PICTURE)


@pytest.mark.parametrize("threshold", [0.1, 1 / 3, float(np.float32(0.7)), 5e-324, 1e300])
def test_a_threshold_is_read_back_to_the_last_bit(store: Path, threshold: float) -> None:
    stores.add(store, draft(threshold), PICTURE)
    found = in_force(store)
    assert found is not None
    assert found.image_threshold == threshold


def test_each_record_gets_the_next_number_and_older_files_stay_as_they_were(store: Path) -> None:
    stores.add(store, draft(0.1), PICTURE)
    before = contents(store)
    assert stores.add(store, draft(0.2), PICTURE).number == 2
    after = contents(store)
    assert sorted(after) == ["000001.json", "000001.png", "000002.json", "000002.png"]
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("leftover", ["000007.json", "000007.png"])
def test_a_number_that_any_file_has_taken_is_never_given_again(store: Path, leftover: str) -> None:
    """Also that of a record which a power cut left half written."""
    stores.add(store, draft(), PICTURE)
    (store / "records" / leftover).write_bytes(b"{")
    assert stores.add(store, draft(), PICTURE).number == 8
    assert (store / "records" / leftover).read_bytes() == b"{"


def test_rollback_chooses_the_previous_record_that_applies_and_is_an_entry_of_the_history(store: Path) -> None:
    for threshold, bundle in ((0.1, "b"), (0.2, "c"), (0.3, "b")):
        stores.add(store, draft(threshold, bundle * 64), PICTURE)
    before = contents(store)
    assert stores.rollback(store, None, applies, "otto").number == 1
    assert contents(store) == before
    pointer = stores.read_pointer(store)
    assert pointer is not None
    assert pointer.number == 1
    assert [(c.action, c.number, c.by) for c in pointer.changes] == [
        ("fit", 1, "anna"),
        ("fit", 2, "anna"),
        ("fit", 3, "anna"),
        ("rollback", 1, "otto"),
    ]
    with pytest.raises(CalibrationError, match=r"no record before 1 .* --config"):
        stores.rollback(store, None, applies, "otto")


def roll_back(store: Path, number: int | None = None) -> int:
    return stores.rollback(store, number, applies, "otto").number


def test_a_rollback_takes_back_the_last_change_and_not_what_was_taken_back_before(store: Path) -> None:
    stores.add(store, draft(0.1), PICTURE)
    stores.add(store, draft(0.2), PICTURE)
    assert roll_back(store) == 1
    stores.add(store, draft(0.3), PICTURE)
    assert roll_back(store) == 1


def test_one_rollback_after_another_goes_further_back_and_a_chosen_record_can_be_taken_back_as_well(
    store: Path,
) -> None:
    for threshold in (0.1, 0.2, 0.3):
        stores.add(store, draft(threshold), PICTURE)
    assert [roll_back(store), roll_back(store)] == [2, 1]
    assert [roll_back(store, 3), roll_back(store)] == [3, 1]


def test_a_record_that_never_was_in_force_is_not_rolled_back_to(store: Path) -> None:
    """A power cut came between the record and the pointer."""
    stores.add(store, draft(0.1), PICTURE)
    orphan = draft(0.2).model_copy(update={"number": 2})
    record_path(store, 2).write_text(orphan.model_dump_json(by_alias=True))
    stores.add(store, draft(0.3), PICTURE)
    assert roll_back(store) == 1


def test_rollback_to_a_number_goes_forward_as_well(store: Path) -> None:
    for threshold in (0.1, 0.2, 0.3):
        stores.add(store, draft(threshold), PICTURE)
    stores.rollback(store, 1, applies, "otto")
    assert stores.rollback(store, 3, applies, "otto").image_threshold == 0.3
    assert stores.add(store, draft(), PICTURE).number == 4


def wish(threshold: float, correlation_id: str = "a-1", down: float = 0.2, up: float = 0.1) -> stores.ThresholdWish:
    return stores.ThresholdWish(threshold, down, up, "otto", correlation_id)


def test_a_threshold_set_by_hand_is_a_record_of_its_own_that_names_the_fit_and_who_asked(store: Path) -> None:
    fitted = stores.add(store, draft(0.5), PICTURE)
    adjusted = stores.adjust(store, wish(0.45), applies)
    assert in_force(store) == adjusted.record
    assert adjusted.fitted == fitted
    assert (adjusted.record.number, adjusted.record.adjusts, adjusted.record.created_by) == (2, 1, "otto")
    assert adjusted.record.image_threshold == 0.45
    pointer = stores.read_pointer(store)
    assert pointer is not None
    assert [(each.action, each.number, each.by) for each in pointer.changes][1:] == [("threshold", 2, "otto")]


def test_a_rollback_puts_the_fitted_threshold_back_in_force(store: Path) -> None:
    stores.add(store, draft(0.5), PICTURE)
    stores.adjust(store, wish(0.45), applies)
    assert stores.rollback(store, None, applies, "anna").image_threshold == 0.5


def test_a_defect_keeps_a_marked_region_however_low_the_threshold(store: Path) -> None:
    stores.add(store, draft(0.5), PICTURE)  # its pixel threshold is 0.25
    low = stores.adjust(store, wish(0.1, down=1.0), applies).record
    assert (low.image_threshold, low.pixel_threshold) == (0.1, 0.1)
    assert stores.adjust(store, wish(0.4, "a-2"), applies).record.pixel_threshold == 0.25


@given(st.lists(st.floats(0.3, 0.7), max_size=8))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_it_is_set_the_threshold_stays_within_the_bounds_around_the_fitted_one(
    tmp_path: Path, wanted: list[float]
) -> None:
    store = tmp_path / f"{time.monotonic_ns()}"
    stores.add(store, draft(0.5), PICTURE)
    low, high = stores.bounds(0.5, 0.2, 0.1)
    for number, threshold in enumerate(wanted):
        before = in_force(store)
        assert before is not None
        if low <= threshold <= high and threshold != before.image_threshold:
            assert stores.adjust(store, wish(threshold, f"a-{number}"), applies).record == in_force(store)
        else:
            with pytest.raises(CalibrationError, match="threshold"):
                stores.adjust(store, wish(threshold, f"a-{number}"), applies)
            assert in_force(store) == before


def test_the_bounds_lie_around_the_fitted_threshold_whatever_its_sign() -> None:
    assert stores.bounds(0.5, 0.5, 0.25) == (0.25, 0.625)
    assert stores.bounds(-0.5, 0.5, 0.25) == (-0.75, -0.375)


def test_a_wish_that_was_fulfilled_is_not_fulfilled_again_even_after_another_change(store: Path) -> None:
    """Its answer may have been lost with the process; another wish under its id is no repetition."""
    stores.add(store, draft(0.5), PICTURE)
    first = stores.adjust(store, wish(0.45), applies)
    stores.add(store, draft(0.6), PICTURE)
    assert stores.adjust(store, wish(0.45), applies) == first
    assert in_force(store).image_threshold == 0.6  # type: ignore[union-attr]
    with pytest.raises(CalibrationError, match="another command had this correlation_id"):
        stores.adjust(store, wish(0.46), applies)


@pytest.mark.parametrize(
    ("bundle", "message"), [(None, "uncalibrated"), ("c" * 64, "uncalibrated: record 1 is not applied: another bundle")]
)
def test_a_threshold_is_refused_while_nothing_that_applies_is_in_force(
    store: Path, bundle: str | None, message: str
) -> None:
    if bundle is not None:
        stores.add(store, draft(0.5, bundle), PICTURE)
    with pytest.raises(CalibrationError, match=message):
        stores.adjust(store, wish(0.5), applies)


def test_a_threshold_cannot_be_set_without_end(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_ADJUSTMENTS", 2)
    for fit in range(2):
        stores.add(store, draft(0.5), PICTURE)
        for number, threshold in enumerate((0.45, 0.5)):
            stores.adjust(store, wish(threshold, f"{fit}-{number}"), applies)
        with pytest.raises(CalibrationError, match=rf"threshold of record {3 * fit + 1} was set by hand 2 times"):
            stores.adjust(store, wish(0.48, f"{fit}-x"), applies)


def test_it_is_the_fitted_record_that_counts_how_often_its_threshold_was_set_by_hand(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the time since the last fit: a rollback puts another fit in force, with its own count."""
    monkeypatch.setattr(stores, "MAX_ADJUSTMENTS", 2)
    stores.add(store, draft(0.5), PICTURE)
    stores.adjust(store, wish(0.45, "a"), applies)
    fitted = stores.add(store, draft(0.5), PICTURE)
    for number, threshold in enumerate((0.45, 0.5)):
        stores.adjust(store, wish(threshold, f"b-{number}"), applies)
    roll_back(store, 1)
    stores.adjust(store, wish(0.46, "c"), applies)
    for number in (1, fitted.number):
        roll_back(store, number)
        with pytest.raises(CalibrationError, match=f"of record {number} was set by hand 2 times"):
            stores.adjust(store, wish(0.48, "d"), applies)


@pytest.mark.parametrize(
    ("number", "message"), [(9, "there is no record 9"), (2, "record 2 does not apply: another bundle")]
)
def test_a_rollback_that_is_refused_changes_nothing(store: Path, number: int, message: str) -> None:
    stores.add(store, draft(), PICTURE)
    stores.add(store, draft(bundle="c" * 64), PICTURE)
    before = (store / "in_force.json").read_bytes()
    with pytest.raises(CalibrationError, match=message):
        stores.rollback(store, number, applies, "otto")
    assert (store / "in_force.json").read_bytes() == before


def test_without_a_store_there_is_nothing_to_roll_back_and_none_is_made(store: Path) -> None:
    with pytest.raises(CalibrationError, match="there is no calibration store"):
        stores.rollback(store, None, applies, "otto")
    assert not store.exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"number": "x"}', b"\xff\xfe"])
@pytest.mark.parametrize("mend", ["rollback", "fit"])
def test_a_damaged_pointer_is_mended_by_a_choice_or_a_fit_and_kept_aside(store: Path, damage: bytes, mend: str) -> None:
    stores.add(store, draft(), PICTURE)
    (store / "in_force.json").write_bytes(damage)
    with pytest.raises(CalibrationError, match="is damaged"):
        stores.rollback(store, None, applies, "otto")
    mended = stores.add(store, draft(), PICTURE) if mend == "fit" else stores.rollback(store, 1, applies, "otto")
    assert in_force(store) == mended
    assert (store / "in_force.json.damaged").read_bytes() == damage


@pytest.mark.parametrize("change", ["rollback", "fit"])
def test_a_pointer_that_the_system_does_not_let_us_read_is_no_damaged_one(store: Path, change: str) -> None:
    """It may be intact, so its history stays where it is."""
    stores.add(store, draft(), PICTURE)
    intact = store / "intact"
    (store / "in_force.json").rename(intact)
    (store / "in_force.json").mkdir()  # the one that root cannot read either
    with pytest.raises(CalibrationError, match=r"in_force.json cannot be read: Is a directory; mend it"):
        stores.add(store, draft(), PICTURE) if change == "fit" else stores.rollback(store, 1, applies, "otto")
    (store / "in_force.json").rmdir()
    intact.rename(store / "in_force.json")
    assert in_force(store).number == 1  # type: ignore[union-attr]


def test_a_file_in_place_of_the_store_is_one_clear_line_whatever_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    for ask in (
        lambda store: stores.add(store, draft(), PICTURE),
        lambda store: stores.rollback(store, None, applies, "otto"),
        lambda store: stores.adjust(store, wish(0.5), applies),
        in_force,
        stores.current,
        stores.entries,
    ):
        with pytest.raises(CalibrationError, match=r"store.*: Not a directory; mend it, or name another store"):
            ask(tmp_path / "store")


def test_the_advice_for_a_lack_of_rights_is_to_give_them(tmp_path: Path) -> None:
    error = refused(f"{tmp_path} cannot be read", PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    assert "cannot be read: Permission denied; give the store to the user that runs this (chown -R)" in str(error)


def test_what_no_station_was_named_for_replaces_nothing_of_another_roi_or_precision(store: Path) -> None:
    """Whoever forgets --config would take the station out of service."""
    stores.add(store, draft(camera="top").model_copy(update={"roi": RoiConfig(x=1, y=2, w=3, h=4)}), PICTURE)
    for other in (draft(), draft().model_copy(update={"precision": "int8"})):
        with pytest.raises(CalibrationError, match=r"record 1, in force in .*: name the station with --config"):
            stores.add(store, other, PICTURE)
        with pytest.raises(CalibrationError, match="--config"), stores.prepared(store, other):
            pass
    assert in_force(store).number == 1  # type: ignore[union-attr]
    assert stores.add(store, draft(bundle="c" * 64), PICTURE).number == 2  # the station runs uncalibrated as it is
    assert stores.add(store, draft(camera="top"), PICTURE).number == 3  # the station's own wish


def test_what_is_in_force_for_one_camera_is_not_replaced_by_what_is_for_another(store: Path) -> None:
    stores.add(store, draft(0.1, camera="top"), PICTURE)
    with pytest.raises(CalibrationError, match=r"of camera top, this station's is side: .* `store:` in its YAML"):
        stores.add(store, draft(0.2, camera="side"), PICTURE)
    assert in_force(store).image_threshold == 0.1  # type: ignore[union-attr]
    assert stores.add(store, draft(0.3, camera="top"), PICTURE).number == 2
    assert stores.add(store, draft(0.4), PICTURE).number == 3  # of any camera
    assert stores.add(store, draft(0.5, camera="side"), PICTURE).number == 4


def test_a_store_that_was_made_for_nothing_is_taken_back_and_one_in_use_stays(store: Path) -> None:
    parent = store.parent.parent
    with pytest.raises(KeyboardInterrupt), stores.prepared(store, draft()):
        assert (store / "records").is_dir()
        raise KeyboardInterrupt
    assert list(parent.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), stores.prepared(store, draft()):
        stores.add(store, draft(), PICTURE)  # by somebody else meanwhile
        raise KeyboardInterrupt
    assert in_force(store) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_folder_whatever_the_umask(tmp_path: Path) -> None:
    """Else the daemon could not read what a person made with sudo."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65533)
    home.chmod(0o750)
    before = os.umask(0o077)
    try:
        stores.add(home / "store", draft(), PICTURE)
        stores.adjust(home / "store", wish(0.45), applies)
    finally:
        os.umask(before)
    made = sorted((home / "store").rglob("*"))
    assert {"in_force.json", "000001.json", "000001.png", "000002.json", ".lock"} < {path.name for path in made}
    for path in (home / "store", *made):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (65534, 65533), path
        assert stat.S_IMODE(status.st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_an_unreadable_record_is_listed_with_its_problem_and_skipped_by_a_rollback(store: Path) -> None:
    for threshold in (0.1, 0.2, 0.3):
        stores.add(store, draft(threshold), PICTURE)
    record_path(store, 2).write_bytes(b"{")
    assert [(entry.number, entry.record is None) for entry in stores.entries(store)] == [
        (1, False),
        (2, True),
        (3, False),
    ]
    assert stores.rollback(store, None, applies, "otto").number == 1


def test_a_store_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match=r"cannot write the calibration store .*file/store: Not a directory"):
        stores.add(tmp_path / "file" / "store", draft(), PICTURE)


def test_a_full_disk_leaves_no_half_record_and_the_old_one_in_force(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.add(store, draft(0.1), PICTURE)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CalibrationError, match="No space left on device"):
        stores.add(store, draft(0.2), PICTURE)
    assert sorted(contents(store)) == ["000001.json", "000001.png"]
    assert in_force(store).image_threshold == 0.1  # type: ignore[union-attr]


def test_wherever_the_disk_fills_up_no_file_of_the_record_is_left_and_no_number_is_lost(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the record on the disk there may still be no room for the pointer."""
    stores.add(store, draft(0.1), PICTURE)
    real: Callable[[int], None] = os.fsync
    for room in range(4):  # png, json, folder, pointer
        left = iter(range(room))

        def full(handle: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CalibrationError, match="No space left on device"):
            stores.add(store, draft(0.2), PICTURE)
        monkeypatch.setattr(os, "fsync", real)
        assert sorted(contents(store)) == ["000001.json", "000001.png"]
        assert in_force(store).image_threshold == 0.1  # type: ignore[union-attr]
    assert stores.add(store, draft(0.3), PICTURE).number == 2


def test_a_record_that_the_pointer_names_stays_whatever_fails_then(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename has happened; that its folder cannot be synced is said."""
    real: Callable[[int], None] = os.fsync

    def fails(handle: int) -> None:
        if (store / "in_force.json").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(handle)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(CalibrationError, match="Input/output error"):
        stores.add(store, draft(0.2), PICTURE)
    assert in_force(store).image_threshold == 0.2  # type: ignore[union-attr]


@pytest.mark.parametrize("step", range(5))
def test_a_ctrl_c_while_a_record_is_put_in_force_comes_too_late(
    store: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """It would end the command with "interrupted", and the thresholds were in force, or a record without a use."""
    stores.add(store, draft(0.1), PICTURE)
    real: Callable[[int], None] = os.fsync
    calls = iter(range(5))  # png, json, folder, pointer, its folder

    def interrupted(handle: int) -> None:
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        real(handle)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        monkeypatch.setattr(os, "fsync", interrupted)
        assert stores.add(store, draft(0.2), PICTURE) == in_force(store)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    except KeyboardInterrupt:  # which would end all tests
        pytest.fail("interrupted")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_change_has_the_time_at_which_it_came_into_force(store: Path) -> None:
    """Scoring takes minutes, and others may change what is in force meanwhile."""
    with stores.prepared(store, draft()) as seen:
        assert seen is None
        before = datetime.now(timezone.utc).replace(microsecond=0)
        stored = stores.add(store, draft(), PICTURE)  # which says AT
    assert before <= datetime.fromisoformat(stored.created_at.replace("Z", "+00:00")) <= datetime.now(timezone.utc)
    roll_back(store, 1)
    pointer = stores.read_pointer(store)
    assert pointer is not None
    assert pointer.changes[0].at == stored.created_at <= pointer.changes[1].at
    assert stores.change_before(store, 1) is None
    with stores.prepared(store, draft()) as seen:
        assert seen == pointer.changes[1] == stores.change_before(store, stores.add(store, draft(), PICTURE).number)


def test_a_temporary_file_of_a_killed_writer_is_no_obstacle(store: Path) -> None:
    stores.add(store, draft(), PICTURE)
    left = store / ".in_force.json.1f2e.new"
    left.write_text("{")
    assert stores.add(store, draft(), PICTURE).number == 2
    assert not left.exists()


def test_nothing_is_named_before_it_is_on_the_disk(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step a power cut hits, what the pointer names is complete."""
    seen: list[CalibrationRecord | None] = []
    real: Callable[[int], None] = os.fsync
    stores.add(store, draft(0.1), PICTURE)
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(in_force(store)), real(handle))[1])
    stores.add(store, draft(0.2), PICTURE)
    assert [record.image_threshold for record in seen if record] == [0.1] * 4 + [0.2]  # png, json, folder, pointer


WRITER = """
import sys
from pathlib import Path
import numpy as np
from edge_ad import calibration_store as stores
from edge_ad.thresholds import CalibrationRecord
draft = CalibrationRecord.model_validate_json(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    stores.add(Path(sys.argv[1]), draft, np.zeros((4, 6, 3), np.uint8))
"""


def test_writers_at_the_same_time_each_get_their_own_number(store: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(store), draft().model_dump_json(by_alias=True)]
    writers = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(3)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert [entry.number for entry in stores.entries(store)] == list(range(1, 31))
    pointer = stores.read_pointer(store)
    assert pointer is not None
    assert [change.number for change in pointer.changes] == list(range(1, 31))
