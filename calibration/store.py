"""Writing the calibration store; `edge_ad/thresholds.py` reads it.

    <store>/records/000001.json   a calibration record, never overwritten
            records/000001.png    the histogram of its good scores
            in_force.json         the number in force and every change of it: what, when, by whom
            .lock                 held while writing

A record and its picture are on the disk before `in_force.json` names them, and that file changes by an atomic rename:
a reader and a power cut see the old state or the new one, never a mixture.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_ad.config import Strict
from edge_ad.errors import CalibrationError
from edge_ad.thresholds import CalibrationRecord, read_record, record_path

POINTER = "in_force.json"


class Change(Strict):
    """One change of the record in force."""

    action: Literal["fit", "rollback"]
    number: int
    at: str
    by: str


class Pointer(Strict):
    """`in_force.json`; the last change put `number` in force."""

    number: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One record file of the store; `record` is None where it cannot be read and `problem` says why."""

    number: int
    record: CalibrationRecord | None
    problem: str | None = None


def add(store: Path, draft: CalibrationRecord, picture: NDArray[np.uint8]) -> CalibrationRecord:
    """Store a record under the next free number and put it in force.

    Args:
        store: the directory, made where missing.
        draft: the record; its `number` is replaced by the one that the store gives.
        picture: (H, W, 3) uint8 BGR, kept beside the record as PNG.

    Returns:
        The record as stored.

    Raises:
        CalibrationError: the store cannot be written.
    """
    with _locked(store):
        pointer = _pointer_or_set_aside(store)
        record = draft.model_copy(update={"number": max(_numbers(store), default=0) + 1})
        path = record_path(store, record.number)
        _create(path.with_suffix(".png"), cv2.imencode(".png", picture)[1].tobytes())
        _create(path, record.model_dump_json(by_alias=True, indent=1).encode())
        _sync_directory(path.parent)
        _put_in_force(
            store, pointer, Change(action="fit", number=record.number, at=record.created_at, by=draft.created_by)
        )
    return record


def rollback(
    store: Path, number: int | None, why_not: Callable[[CalibrationRecord], str | None], at: str, by: str
) -> CalibrationRecord:
    """Put an older record in force; the records themselves stay as they are.

    Args:
        store: the directory.
        number: the record to choose; None for the newest one before the record in force that applies.
        why_not: why a record does not apply, or None if it does.
        at: now, ISO 8601, UTC.
        by: who asked.

    Raises:
        CalibrationError: there is no such record, it does not apply, or the store cannot be written.
    """
    if not (store / "records").is_dir():
        raise CalibrationError(f"there is no calibration store {store}: run `edge-ad-calibrate fit`")
    with _locked(store):
        record = _previous(store, why_not) if number is None else _chosen(store, number, why_not)
        pointer = _pointer_or_set_aside(store)
        _put_in_force(store, pointer, Change(action="rollback", number=record.number, at=at, by=by))
    return record


def entries(store: Path) -> list[Entry]:
    """All records of a store, oldest first, the unreadable ones too."""
    return [_entry(store, number) for number in sorted(_numbers(store))]


def current(store: Path) -> CalibrationRecord | None:
    """The record in force; None where there is none, or it cannot be read.

    Raises:
        CalibrationError: the pointer cannot be read.
    """
    pointer = read_pointer(store)
    return _entry(store, pointer.number).record if pointer is not None else None


def read_pointer(store: Path) -> Pointer | None:
    """The number in force and its history; None where nothing ever was.

    Raises:
        CalibrationError: the file cannot be read.
    """
    path = store / POINTER
    try:
        return Pointer.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError) as error:
        raise CalibrationError(
            f"{path} cannot be read: choose a record with `edge-ad-calibrate rollback --to N`"
        ) from error


def _previous(store: Path, why_not: Callable[[CalibrationRecord], str | None]) -> CalibrationRecord:
    pointer = read_pointer(store)
    if pointer is None:
        raise CalibrationError(f"no calibration is in force in {store}: run `edge-ad-calibrate fit`")
    for entry in reversed(entries(store)):
        if entry.number < pointer.number and entry.record is not None and why_not(entry.record) is None:
            return entry.record
    raise CalibrationError(
        f"no record before {pointer.number} in {store} applies: `edge-ad-calibrate history` lists them"
    )


def _chosen(store: Path, number: int, why_not: Callable[[CalibrationRecord], str | None]) -> CalibrationRecord:
    if number not in _numbers(store):
        raise CalibrationError(f"there is no record {number} in {store}: `edge-ad-calibrate history` lists them")
    record = read_record(record_path(store, number))
    reason = why_not(record)
    if reason is not None:
        raise CalibrationError(f"record {number} does not apply: {reason}")
    return record


def _entry(store: Path, number: int) -> Entry:
    try:
        return Entry(number, read_record(record_path(store, number)))
    except CalibrationError as error:
        return Entry(number, None, str(error))


def _numbers(store: Path) -> set[int]:
    """Every number that a file of the store has taken, whatever the file holds: none is given twice."""
    return {int(path.stem) for path in (store / "records").glob("*.*") if path.stem.isdecimal()}


def _pointer_or_set_aside(store: Path) -> Pointer | None:
    """The pointer; a damaged one is kept under another name, so that the next change mends the store."""
    try:
        return read_pointer(store)
    except CalibrationError:
        (store / POINTER).replace(store / f"{POINTER}.damaged")
        return None


def _put_in_force(store: Path, before: Pointer | None, change: Change) -> None:
    changes = (*(before.changes if before is not None else ()), change)
    pointer = Pointer(number=change.number, changes=changes)
    temporary = store / f".{POINTER}.tmp"
    temporary.unlink(missing_ok=True)  # left by a writer that was killed; the lock says there is no other
    _create(temporary, pointer.model_dump_json(indent=1).encode())
    temporary.replace(store / POINTER)
    _sync_directory(store)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Hold the store against other writers; it is made where missing.

    Raises:
        CalibrationError: for every OSError inside.
    """
    try:
        if not (store / "records").is_dir():
            (store / "records").mkdir(parents=True, exist_ok=True)
            _sync_directory(store.parent)
        with (store / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # freed when the file closes, also by a crash
            yield
    except OSError as error:
        raise CalibrationError(f"cannot write the calibration store {store}: {error.strerror}") from error


def _create(path: Path, data: bytes) -> None:
    """Write a new file through to the disk; an existing one is never touched."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise
    except OSError:
        path.unlink(missing_ok=True)  # a full disk must not leave half a record
        raise


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
