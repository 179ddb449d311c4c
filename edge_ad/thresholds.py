"""The calibration record as the device reads it; `calibration_store.py` writes it.

A store is a directory: `records/000001.json` and up, never overwritten, and `in_force.json`, which names one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from edge_ad.config import RoiConfig, StationConfig, Strict
from edge_ad.errors import CalibrationError
from edge_ad.records import Roi, Thresholds

SCHEMA: Literal["edge-ad/calibration"] = "edge-ad/calibration"
SCHEMA_VERSION: Literal[1] = 1
POINTER = "in_force.json"


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

    def roi_record(self) -> Roi | None:
        """The ROI as the frame path's record."""
        return self.roi.record() if self.roi is not None else None


@dataclass(frozen=True, slots=True)
class Service:
    """What is in service, as far as a calibration depends on it.

    Attributes:
        bundle: its digest.
        precision: of the engine.
        roi: None for the whole frame.
        camera: its name; None for any.
    """

    bundle: str
    precision: str
    roi: Roi | None
    camera: str | None


def service_of(station: StationConfig, bundle: str) -> Service:
    """A station's; `bundle` is the digest of the bundle that it names."""
    return Service(bundle, station.backend.precision, station.roi_record(), station.camera.name)


def record_path(store: Path, number: int) -> Path:
    """Where a record lies."""
    return store / "records" / f"{number:06d}.json"


def read_record(path: Path) -> CalibrationRecord:
    """Read one record.

    Raises:
        CalibrationError: missing, not to be read, not JSON, or of an unknown schema.
    """
    try:
        return CalibrationRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CalibrationError(f"calibration record {path} is missing: roll back or fit again") from error
    except OSError as error:
        raise refused(f"calibration record {path} cannot be read", error) from error
    except ValueError as error:  # ValidationError is one
        reason = " ".join(str(error).split())[:200]
        raise CalibrationError(
            f"calibration record {path} cannot be read ({reason}): roll back or fit again"
        ) from error


def refused(what: str, error: OSError) -> CalibrationError:
    """What the file system refuses, with the advice that fits; `what` could not be done, and where."""
    todo = "mend it, or name another store"
    if isinstance(error, PermissionError):
        todo = "give the store to the user that runs this (chown -R), or run this as the store's owner"
    return CalibrationError(f"{what}: {error.strerror}; {todo}")


def in_force(store: Path) -> CalibrationRecord | None:
    """The record in force; None where the store is empty or does not exist.

    Raises:
        CalibrationError: the store, or the record that it points to, cannot be read.
    """
    pointer = store / POINTER
    try:
        number = int(json.loads(pointer.read_text(encoding="utf-8"))["number"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refused(f"{pointer} cannot be read", error) from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise CalibrationError(damaged(pointer)) from error
    return read_record(record_path(store, number))


def damaged(pointer: Path) -> str:
    """What to say of a pointer whose content is none."""
    return f"{pointer} is damaged: choose a record with `edge-ad-calibrate rollback --to N`"


def why_not(record: CalibrationRecord, service: Service) -> str | None:
    """Why a record does not apply to what is in service; None if it does.

    A record that was made without a station is of any camera.
    """
    recorded = record.roi_record()
    if record.bundle != service.bundle:
        return f"it is of bundle {record.bundle[:12]}, in service is {service.bundle[:12]}"
    if record.precision != service.precision:
        return f"it is of precision {record.precision}, in service is {service.precision}"
    if recorded != service.roi:
        return f"it is of ROI {recorded}, in service is {service.roi}"
    return of_other_camera(record, service.camera)


def of_other_camera(record: CalibrationRecord, camera: str | None) -> str | None:
    """Why a record is not for this camera; None if it is, or if either of the two is of any camera."""
    if record.camera is None or camera in (None, record.camera):
        return None
    return (
        f"it is of camera {record.camera}, this station's is {camera}: "
        "give the station a store of its own with `store:` in its YAML"
    )
