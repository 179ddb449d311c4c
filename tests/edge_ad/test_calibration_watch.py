"""Rules of the calibration in force: applied while running, and never one that is of something else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.calibration_watch import CalibrationWatch
from edge_ad.config import RoiConfig, default_store
from edge_ad.records import Roi
from edge_ad.thresholds import Service, record_path
from tests.bundles import make_bundle
from tests.station import calibrate, write_config, write_parts


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def watch_of(bundle: Path, precision: str = "fp32", roi: Roi | None = None) -> CalibrationWatch:
    return CalibrationWatch(default_store(bundle), Service(open_bundle(bundle).digest, precision, roi, "top"))


def test_a_new_record_applies_without_a_restart(bundle: Path) -> None:
    watch = watch_of(bundle)
    assert watch.refresh()
    assert watch.thresholds is None
    assert "edge-ad-calibrate fit" in watch.problem
    calibrate(bundle, 0.5)
    assert watch.refresh()
    assert watch.thresholds is not None
    assert (watch.thresholds.image, watch.thresholds.record, watch.problem) == (0.5, 1, "")
    assert not watch.refresh()
    calibrate(bundle, 0.6)
    assert watch.refresh()
    assert watch.thresholds.record == 2


@pytest.mark.parametrize(
    ("precision", "roi", "reason"),
    [("int8", None, "precision fp32"), ("fp32", Roi(0, 0, 4, 4), "ROI None")],
)
def test_a_record_of_another_precision_or_roi_is_not_applied_and_the_reason_is_said(
    bundle: Path, precision: str, roi: Roi | None, reason: str
) -> None:
    calibrate(bundle)
    watch = watch_of(bundle, precision, roi)
    watch.refresh()
    assert watch.thresholds is None
    assert "record 1 is not applied" in watch.problem
    assert reason in watch.problem


@pytest.mark.parametrize("mine", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("recorded", ["fp32", "bf16", "int8"])
def test_a_record_applies_to_its_own_precision_and_to_no_other(bundle: Path, mine: str, recorded: str) -> None:
    """The same bundle, two graphs or two ways to compute: the scores differ, so the thresholds do."""
    calibrate(bundle, precision=recorded)
    watch = watch_of(bundle, mine)
    watch.refresh()
    assert (watch.thresholds is not None) == (mine == recorded)
    assert (f"it is of precision {recorded}, in service is {mine}" in watch.problem) == (mine != recorded)


def test_a_record_of_the_same_roi_applies(bundle: Path) -> None:
    calibrate(bundle, roi=RoiConfig(x=1, y=2, w=3, h=4))
    watch = watch_of(bundle, roi=Roi(1, 2, 3, 4))
    watch.refresh()
    assert watch.thresholds is not None


def test_a_record_of_another_bundle_is_not_applied(bundle: Path, tmp_path: Path) -> None:
    calibrate(bundle)
    watch = CalibrationWatch(default_store(bundle), Service("f" * 64, "fp32", None, "top"))
    watch.refresh()
    assert watch.thresholds is None


def test_a_damaged_store_means_uncalibrated_not_the_old_thresholds(bundle: Path) -> None:
    calibrate(bundle)
    watch = watch_of(bundle)
    watch.refresh()
    calibrate(bundle)
    record_path(default_store(bundle), 2).write_text("{")
    watch.refresh()
    assert watch.thresholds is None
    assert "cannot be read" in watch.problem


def test_a_record_of_another_camera_is_not_applied_and_the_reason_says_whose_it_is(bundle: Path) -> None:
    """Two stations that use one bundle directory share its default store."""
    calibrate(bundle, camera="side")
    watch = watch_of(bundle)  # of camera top
    watch.refresh()
    assert watch.thresholds is None
    assert "record 1 is not applied: it is of camera side, this station's is top: give the station a" in watch.problem
    assert "`store:`" in watch.problem
    assert "edge-ad-calibrate fit" in watch.problem


@pytest.mark.parametrize("camera", ["top", None])
def test_a_record_of_the_same_camera_applies_and_one_made_without_a_station_applies_to_any(
    bundle: Path, camera: str | None
) -> None:
    calibrate(bundle, camera=camera)
    watch = watch_of(bundle)
    watch.refresh()
    assert watch.thresholds is not None


def test_a_store_that_cannot_be_read_means_uncalibrated_and_is_no_crash(bundle: Path) -> None:
    store = default_store(bundle)
    watch = watch_of(bundle)
    store.write_text("")
    watch.refresh()
    assert "Not a directory" in watch.problem
    store.unlink()
    calibrate(bundle)
    (store / "in_force.json").unlink()
    (store / "in_force.json").symlink_to("in_force.json")  # round in circles: root cannot read it either
    assert watch.refresh()
    assert watch.thresholds is None
    assert "in_force.json cannot be read: Too many levels of symbolic links" in watch.problem


def test_a_problem_is_said_once_and_its_end_is_noticed_although_the_pointer_is_as_it_was(bundle: Path) -> None:
    """A `chmod` does not touch it either."""
    calibrate(bundle)
    record = record_path(default_store(bundle), 1)
    record.rename(record.with_suffix(".away"))
    watch = watch_of(bundle)
    assert watch.refresh()
    assert "is missing" in watch.problem
    assert not watch.refresh()
    record.with_suffix(".away").rename(record)
    assert watch.refresh()
    assert watch.thresholds is not None
    assert not watch.refresh()


def test_check_warns_of_a_record_of_another_camera(bundle: Path, tmp_path: Path) -> None:
    calibrate(bundle, camera="side")
    assert "it is of camera side, this station's is top" in checked(bundle, tmp_path)["calibration"]


def test_check_warns_of_a_store_that_it_may_not_read_and_says_all_else(bundle: Path, tmp_path: Path) -> None:
    calibrate(bundle)
    default_store(bundle).chmod(0)
    try:
        lines = checked(bundle, tmp_path)
    finally:
        default_store(bundle).chmod(0o755)
    assert lines["calibration"].startswith("warning ")
    assert "Permission denied; give the store to the user that runs this" in lines["calibration"]
    assert set(lines) == {"configuration", "cv2", "state_dir", "bundle", "calibration", "camera", "broker"}


def checked(bundle: Path, folder: Path) -> dict[str, str]:
    """What `edge-ad check` says of a station with camera top, by the name of the finding."""
    write_parts(folder / "parts", 1)
    config = write_config(folder / "station.yaml", bundle, {"kind": "folder", "path": str(folder / "parts")})
    command = [*without_roots_rights(), sys.executable, "-m", "edge_ad.cli", "check", config]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    return {line.split()[1].rstrip(":"): line for line in said.splitlines()}


def without_roots_rights() -> list[str]:
    """How a command begins that may read only what its user may: root reads everything."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
