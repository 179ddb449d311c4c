"""Calibration results as lines for a person and as JSON for a machine. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calibration import histogram
from calibration.fit import Outcome
from calibration.threshold import expected_rate, percent, reached_confidence
from edge_ad.calibration_store import Change, Entry, Pointer
from edge_ad.names import printable
from edge_ad.thresholds import CalibrationRecord, record_path

Json = dict[str, object]


def outcome_lines(outcome: Outcome, store: Path) -> list[str]:
    """What `fit` says: the histogram, the images to look at, copies if there were any, and the record."""
    copies = [f"{outcome.copies} files are copies of others: counted once"] if outcome.copies else []
    bars = histogram.text(outcome.scores.scores, outcome.fit.image_threshold)
    look = [f"  {score:>10.6g}  {printable(path)}" for path, score in outcome.highest]
    return [
        *bars,
        "highest scores, of images to look at:",
        *look,
        *copies,
        *_meanwhile(outcome.meanwhile),
        *record_lines(outcome.record, store),
    ]


def outcome_json(outcome: Outcome, store: Path) -> Json:
    """The same for a machine."""
    return {
        "store": str(store),
        "record": record_json(outcome.record),
        "reached_confidence": outcome.fit.guarantee.reached_confidence,
        "expected_false_alarm_rate": outcome.fit.guarantee.expected_rate,
        "highest": [{"file": printable(path), "score": score} for path, score in outcome.highest],
        "copies": outcome.copies,
        "replaced_meanwhile": outcome.meanwhile.model_dump() if outcome.meanwhile is not None else None,
        "picture": str(record_path(store, outcome.record.number).with_suffix(".png")),
    }


def record_lines(record: CalibrationRecord, store: Path) -> list[str]:
    """The record in force, its promise and what it is valid for."""
    return [
        f"record {record.number} in {store}, in force",
        f"image threshold  {record.image_threshold:.6g} ({_origin(record)})",
        f"pixel threshold  {record.pixel_threshold:.6g}",
        f"false alarms     {_promise(record)}",
        f"valid for        bundle {record.bundle[:12]}, precision {record.precision}, ROI {_roi(record)}",
        f"made             {record.created_at} by {record.created_by} on {record.backend}"
        + (f" for camera {record.camera}" if record.camera else ""),
        f"picture          {record_path(store, record.adjusts or record.number).with_suffix('.png')}",
    ]


def _meanwhile(change: Change | None) -> list[str]:
    """What somebody else has put in force while the images were scored is not in force any more."""
    return [f"replaced         what came while the images were scored: {_told(change)}"] if change is not None else []


def _told(change: Change) -> str:
    return f"{change.at}  {change.action} -> {change.number} by {change.by}"


def _origin(record: CalibrationRecord) -> str:
    if record.adjusts is not None:
        return f"set by hand; fitted is record {record.adjusts}"
    return f"rank {record.rank:,} of {record.n_images:,} good scores"


def _promise(record: CalibrationRecord) -> str:
    """What the fit promises; a threshold that was set by hand promises nothing."""
    if record.adjusts is not None:
        return f"no promise: that of record {record.adjusts} is for its own threshold"
    n, rank = record.n_images, record.rank
    reached = reached_confidence(n, rank, record.false_alarm_rate)
    return (
        f"at most {percent(record.false_alarm_rate)} with {percent(reached)} confidence "
        f"(wanted {percent(record.confidence)}); expected {percent(expected_rate(n, rank))}"
    )


def record_json(record: CalibrationRecord | None) -> Json | None:
    """A record as it lies in the store; None stays None."""
    return record.model_dump(mode="json", by_alias=True) if record is not None else None


def history_lines(entries: Sequence[Entry], pointer: Pointer | None) -> list[str]:
    """One line a record, the one in force marked, then one line a change."""
    number = pointer.number if pointer is not None else None
    changes = pointer.changes if pointer is not None else ()
    return [
        "   record  images  at most  confidence    threshold  made",
        *(f" {'*' if entry.number == number else ' '} {entry.number:>6}  {_columns(entry)}" for entry in entries),
        "changes of the record in force (*)",
        *(f"   {_told(change)}" for change in changes),
    ]


def history_json(entries: Sequence[Entry], pointer: Pointer | None) -> Json:
    """The same for a machine."""
    return {
        "in_force": pointer.number if pointer is not None else None,
        "records": [{"number": e.number, "record": record_json(e.record), "problem": e.problem} for e in entries],
        "changes": [change.model_dump() for change in pointer.changes] if pointer is not None else [],
    }


def _columns(entry: Entry) -> str:
    record = entry.record
    if record is None:
        return f"unreadable: {entry.problem}"
    rate, confidence, by_hand = percent(record.false_alarm_rate), percent(record.confidence), ""
    if record.adjusts is not None:
        rate, confidence, by_hand = "-", "-", f", threshold of record {record.adjusts} set by hand"
    return (
        f"{record.n_images:>6,}  {rate:>7}  {confidence:>10}  "
        f"{record.image_threshold:>11.6g}  {record.created_at} by {record.created_by}: "
        f"bundle {record.bundle[:12]}, {record.precision}, ROI {_roi(record)}{by_hand}"
    )


def _roi(record: CalibrationRecord) -> str:
    roi = record.roi
    return f"{roi.w}x{roi.h}+{roi.x}+{roi.y}" if roi is not None else "none"
