"""Rules of the calibration in force: applied while running, and never one that is of something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.calibration_watch import CalibrationWatch
from edge_ad.config import RoiConfig, default_store
from edge_ad.records import Roi
from edge_ad.thresholds import record_path
from tests.bundles import make_bundle
from tests.station import calibrate


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def watch_of(bundle: Path, precision: str = "fp32", roi: Roi | None = None) -> CalibrationWatch:
    return CalibrationWatch(default_store(bundle), open_bundle(bundle).digest, precision, roi)


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
    watch = CalibrationWatch(default_store(bundle), "f" * 64, "fp32", None)
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
