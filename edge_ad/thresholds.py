"""The calibration record as the device reads it; `calibration_store.py` writes it.

A store is a directory: `records/000001.json` and up, never overwritten, and `in_force.json`, which names one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from edge_ad.config import RoiConfig, Strict
from edge_ad.errors import CalibrationError
from edge_ad.records import Roi, Thresholds

SCHEMA: Literal["edge-ad/calibration"] = "edge-ad/calibration"
SCHEMA_VERSION: Literal[1] = 1


class CalibrationRecord(Strict):
    """One calibration: the thresholds, the wish behind them, and what they are valid for."""

    schema_: Literal["edge-ad/calibration"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = SCHEMA_VERSION
    number: int = Field(ge=1)
    adjusts: int | None = Field(
        None, ge=1, description="the fitted record that this is but for a threshold set by hand; None: fitted itself"
    )
    image_threshold: float = Field(description="alarm on score > image_threshold, raw units")
    pixel_threshold: float = Field(description="mark pixels where the map > pixel_threshold, 0..1")
    false_alarm_rate: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    rank: int = Field(ge=1, description="the fitted threshold is the rank-th smallest of the good scores")
    n_images: int = Field(ge=1, description="independent images: distinct contents")
    images_sha256: tuple[str, ...] = Field(description="of a record that was fitted itself")
    bundle: str = Field(description="the bundle's digest")
    backend: str
    precision: str
    camera: str | None
    roi: RoiConfig | None
    created_at: str = Field(description="ISO 8601, UTC")
    created_by: str

    def thresholds(self) -> Thresholds:
        """The part that the frame path needs."""
        return Thresholds(self.image_threshold, self.pixel_threshold, self.number)


def record_path(store: Path, number: int) -> Path:
    """Where a record lies."""
    return store / "records" / f"{number:06d}.json"


def read_record(path: Path) -> CalibrationRecord:
    """Read one record.

    Raises:
        CalibrationError: missing, not JSON, or of an unknown schema.
    """
    try:
        return CalibrationRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CalibrationError(
            f"calibration record {path} cannot be read ({reason}): roll back or fit again"
        ) from error


def in_force(store: Path) -> CalibrationRecord | None:
    """The record in force; None where the store is empty or does not exist.

    Raises:
        CalibrationError: the store points to a record that cannot be read.
    """
    pointer = store / "in_force.json"
    if not pointer.exists():
        return None
    try:
        number = int(json.loads(pointer.read_text(encoding="utf-8"))["number"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(
            f"{pointer} cannot be read: choose a record with `edge-ad-calibrate rollback --to N`"
        ) from error
    return read_record(record_path(store, number))


def why_not(record: CalibrationRecord, bundle: str, precision: str, roi: Roi | None) -> str | None:
    """Why a record does not apply to this bundle digest, precision and ROI; None if it does."""
    recorded = record.roi.record() if record.roi is not None else None
    if record.bundle != bundle:
        return f"it is of bundle {record.bundle[:12]}, in service is {bundle[:12]}"
    if record.precision != precision:
        return f"it is of precision {record.precision}, in service is {precision}"
    if recorded != roi:
        return f"it is of ROI {recorded}, in service is {roi}"
    return None
