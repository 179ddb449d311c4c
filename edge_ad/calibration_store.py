"""Writing the calibration store; `edge_ad/thresholds.py` reads it.

    <store>/records/000001.json   a calibration record, never overwritten
            records/000001.png    the histogram of its good scores, where it was fitted on some
            in_force.json         the number in force and every change of it: what, when, by whom
            .lock                 held while writing

A record and its picture are on the disk before `in_force.json` names them, and that file changes by an atomic rename:
a reader and a power cut see the old state or the new one, never a mixture. What fails before leaves neither of its
files. Times are taken under the lock, so the history is in their order. What root writes belongs to the owner of the
folder that it lies in, or the daemon could not read it.

`edge-ad-calibrate` writes it on behalf of a person, and the daemon on behalf of the command `threshold`.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.config import Strict
from edge_ad.core.commands import OTHER_COMMAND
from edge_ad.durable import make_folders, match_folder, sync_folder, write_whole
from edge_ad.errors import CalibrationError
from edge_ad.signals import handled
from edge_ad.thresholds import (
    POINTER,
    CalibrationRecord,
    damaged,
    of_other_camera,
    read_record,
    record_path,
    refused,
)

Action = Literal["fit", "rollback", "threshold"]

LOCK = ".lock"
FIT_OR_NAME = "run `edge-ad-calibrate fit`, or name the station with --config"
MAX_ADJUSTMENTS = 100  # of one fit: then somebody should look why


class DamagedError(CalibrationError):
    """The content of the pointer is none; that it cannot be read is another matter, for then it may be intact."""


class Change(Strict):
    """One change of the record in force; `correlation_id` names the command that asked for it, if one did."""

    action: Action
    number: int
    at: str
    by: str
    correlation_id: str | None = None


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


@dataclass(frozen=True, slots=True)
class ThresholdWish:
    """An image threshold that an operator asks for.

    Attributes:
        threshold: raw units.
        down, up: how far below and above the fitted one it may be, as shares of that.
        by: who asks.
        correlation_id: names the command.
    """

    threshold: float
    down: float
    up: float
    by: str
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A record whose image threshold was set by hand, and the fitted one that it rests on."""

    record: CalibrationRecord
    fitted: CalibrationRecord


@contextmanager
def prepared(store: Path, draft: CalibrationRecord) -> Iterator[Change | None]:
    """Around the long work that leads to `add`: what would keep it from storing is found before.

    The directory is made where missing, and taken back if the work ends in an error. Others may write meanwhile.

    Args:
        store: the directory.
        draft: what is to be added, as far as it is known.

    Yields:
        The last change of the record in force; None where nothing is.

    Raises:
        CalibrationError: the store cannot be written, or what is in force is not to be replaced by this.
    """
    with _locked(store) as made:
        _refuse_replacing(store, draft)
        seen = _last_change(store)
        for folder in (store, store / "records"):
            with TemporaryFile(dir=folder):
                pass
    try:
        yield seen
    except BaseException:  # Ctrl-C too
        _take_back(store, made)
        raise


def add(store: Path, draft: CalibrationRecord, picture: NDArray[np.uint8]) -> CalibrationRecord:
    """Store a record under the next free number and put it in force.

    Args:
        store: the directory, made where missing.
        draft: the record; its `number` and `created_at` are replaced by what the store gives.
        picture: (H, W, 3) uint8 BGR, kept beside the record as PNG.

    Returns:
        The record as stored.

    Raises:
        CalibrationError: the store cannot be written, or what is in force is not to be replaced by this.
    """
    with _locked(store):
        _refuse_replacing(store, draft)
        return _add(store, _pointer_or_set_aside(store), draft, picture, "fit")


def change_before(store: Path, number: int) -> Change | None:
    """The change that came before the fit of record `number`; None if that was the first.

    Raises:
        CalibrationError: the pointer cannot be read.
    """
    pointer = read_pointer(store)
    changes = pointer.changes if pointer is not None else ()
    pairs = [*zip((None, *changes), changes, strict=False)]
    return next(
        (before for before, change in reversed(pairs) if (change.action, change.number) == ("fit", number)), None
    )


def rollback(
    store: Path, number: int | None, why_not: Callable[[CalibrationRecord], str | None], by: str
) -> CalibrationRecord:
    """Put an older record in force; the records themselves stay as they are.

    Args:
        store: the directory.
        number: the record to choose; None for the one that was in force before, the last that applies.
        why_not: why a record does not apply, or None if it does.
        by: who asked.

    Raises:
        CalibrationError: there is no such record, it does not apply, or the store cannot be written.
    """
    if not _numbers(store):
        raise missing(store)
    with _locked(store):
        record = _previous(store, why_not) if number is None else _chosen(store, number, why_not)
        pointer = _pointer_or_set_aside(store)
        _put_in_force(store, pointer, Change(action="rollback", number=record.number, at=_now(), by=by))
    return record


def adjust(store: Path, wish: ThresholdWish, why_not: Callable[[CalibrationRecord], str | None]) -> Adjusted:
    """Put a record in force that differs from the one in force by its image threshold, and says who asked for it.

    The bounds are those around the fitted threshold, however often it was set by hand since. A wish is fulfilled once:
    the same one again gets the same record.

    Args:
        store: the directory.
        wish: what is asked for.
        why_not: why a record does not apply, or None if it does.

    Raises:
        CalibrationError: nothing that applies is in force, the threshold is out of bounds, or the store cannot be
            written. Nothing was changed.
    """
    _in_use(store)  # no store is made for that
    with _locked(store):
        pointer = _in_use(store)
        done = _done_before(store, pointer, wish)
        return done if done is not None else _adjust(store, pointer, wish, why_not)


def bounds(fitted: float, down: float, up: float) -> tuple[float, float]:
    """The lowest and the highest image threshold that may be set by hand, around the fitted one."""
    return fitted - down * abs(fitted), fitted + up * abs(fitted)


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
    except OSError as error:
        raise refused(f"{path} cannot be read", error) from error
    except ValueError as error:  # pydantic's ValidationError is one
        raise DamagedError(damaged(path)) from error


def missing(store: Path) -> CalibrationError:
    """What to say where there is no store."""
    return CalibrationError(f"there is no calibration store {store}: {FIT_OR_NAME}")


def _in_use(store: Path) -> Pointer:
    pointer = read_pointer(store)
    if pointer is None:
        raise CalibrationError("uncalibrated: run `edge-ad-calibrate fit`")
    return pointer


def _last_change(store: Path) -> Change | None:
    with suppress(DamagedError):
        pointer = read_pointer(store)
        return pointer.changes[-1] if pointer is not None and pointer.changes else None
    return None


def _refuse_replacing(store: Path, draft: CalibrationRecord) -> None:
    """What a station goes by is not replaced by what it would not apply: that would take it out of service."""
    with suppress(DamagedError):  # of nobody; the next change mends it
        record = current(store)
        if record is not None and (reason := _of_others(record, draft)) is not None:
            raise CalibrationError(f"record {record.number}, in force in {store}, is not to be replaced: {reason}")


def _of_others(record: CalibrationRecord, draft: CalibrationRecord) -> str | None:
    """Why a record in force serves others than a draft: two stations share a store, or the station was not named."""
    is_of, would_be_of = ((each.bundle, each.precision, each.roi_record()) for each in (record, draft))
    if draft.camera is not None or is_of[0] != would_be_of[0] or is_of == would_be_of:
        return of_other_camera(record, draft.camera)
    return (
        f"it is of precision {is_of[1]} and ROI {is_of[2]}, this would be of {would_be_of[1]} and {would_be_of[2]}: "
        "name the station with --config, or another store with --store"
    )


def _done_before(store: Path, pointer: Pointer, wish: ThresholdWish) -> Adjusted | None:
    """What a wish led to, if it was fulfilled before; its answer may have been lost."""
    for change in pointer.changes:
        if change.correlation_id == wish.correlation_id:
            found = _with_its_fit(store, read_record(record_path(store, change.number)))
            if found.record.image_threshold != wish.threshold:
                raise CalibrationError(OTHER_COMMAND)
            return found
    return None


def _adjust(
    store: Path, pointer: Pointer, wish: ThresholdWish, why_not: Callable[[CalibrationRecord], str | None]
) -> Adjusted:
    current = _with_its_fit(store, read_record(record_path(store, pointer.number)))
    _refuse_adjustment(store, current, pointer, wish, why_not(current.record))
    fitted = current.fitted
    draft = fitted.model_copy(
        update={
            "image_threshold": wish.threshold,
            "pixel_threshold": min(fitted.pixel_threshold, wish.threshold),  # a defect has a marked region
            "images_sha256": (),
            "adjusts": fitted.number,
            "created_by": wish.by,
        }
    )
    return Adjusted(_add(store, pointer, draft, None, "threshold", wish.correlation_id), fitted)


def _refuse_adjustment(
    store: Path, current: Adjusted, pointer: Pointer, wish: ThresholdWish, why_not: str | None
) -> None:
    """Raise the reason why a wish is not fulfilled, if there is one."""
    if why_not is not None:
        raise CalibrationError(f"uncalibrated: record {current.record.number} is not applied: {why_not}")
    low, high = bounds(current.fitted.image_threshold, wish.down, wish.up)
    if not low <= wish.threshold <= high:
        raise CalibrationError(
            f"threshold must be from {low!r} to {high!r}: record {current.fitted.number} was fitted at "
            f"{current.fitted.image_threshold!r}; see commands.threshold_down and threshold_up"
        )
    if wish.threshold == current.record.image_threshold:
        raise CalibrationError(f"record {current.record.number}, in force, has this threshold")
    if _adjustments(store, pointer, current.fitted.number) >= MAX_ADJUSTMENTS:
        raise CalibrationError(
            f"the threshold of record {current.fitted.number} was set by hand {MAX_ADJUSTMENTS} times: "
            "run `edge-ad-calibrate fit`"
        )


def _adjustments(store: Path, pointer: Pointer, fitted: int) -> int:
    """How often the threshold of a fitted record was set by hand."""
    set_by_hand = (_entry(store, change.number).record for change in pointer.changes if change.action == "threshold")
    return sum(record is not None and record.adjusts == fitted for record in set_by_hand)


def _with_its_fit(store: Path, record: CalibrationRecord) -> Adjusted:
    fitted = record if record.adjusts is None else read_record(record_path(store, record.adjusts))
    return Adjusted(record, fitted)


def _previous(store: Path, why_not: Callable[[CalibrationRecord], str | None]) -> CalibrationRecord:
    """The last record that was in force before, was not taken back since, and applies."""
    pointer = read_pointer(store)
    if pointer is None:
        raise CalibrationError(f"no calibration is in force in {store}: run `edge-ad-calibrate fit`")
    for number in reversed(_not_taken_back(pointer.changes)[:-1]):
        record = _entry(store, number).record
        if record is not None and why_not(record) is None:
            return record
    raise CalibrationError(
        f"no record before {pointer.number} in {store} applies: `edge-ad-calibrate history` lists them; "
        "on a station give --config"
    )


def _not_taken_back(changes: Sequence[Change]) -> list[int]:
    """The records that were in force, the one in force last: a rollback takes back what came after its record."""
    numbers: list[int] = []
    for change in changes:
        if change.number in numbers:
            del numbers[numbers.index(change.number) :]
        numbers.append(change.number)
    return numbers


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
    folder = store / "records"
    try:
        return {int(path.stem) for path in folder.iterdir() if path.stem.isdecimal()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise refused(f"{folder} cannot be read", error) from error


def _pointer_or_set_aside(store: Path) -> Pointer | None:
    """The pointer; a damaged one is kept under another name, so that the next change mends the store."""
    try:
        return read_pointer(store)
    except DamagedError:
        (store / POINTER).replace(store / f"{POINTER}.damaged")
        return None


def _add(
    store: Path,
    before: Pointer | None,
    draft: CalibrationRecord,
    picture: NDArray[np.uint8] | None,
    action: Action,
    correlation_id: str | None = None,
) -> CalibrationRecord:
    """Store a draft under the next free number and put it in force."""
    number, at = max(_numbers(store), default=0) + 1, _now()
    record = draft.model_copy(update={"number": number, "created_at": at})
    change = Change(action=action, number=number, at=at, by=draft.created_by, correlation_id=correlation_id)
    try:
        _write_record(store, record, picture)
        _put_in_force(store, before, change)
    except BaseException:
        _take_back_record(store, number)
        raise
    return record


def _write_record(store: Path, record: CalibrationRecord, picture: NDArray[np.uint8] | None) -> None:
    path = record_path(store, record.number)
    if picture is not None:
        _create(path.with_suffix(".png"), cv2.imencode(".png", picture)[1].tobytes())
    _create(path, record.model_dump_json(by_alias=True, indent=1).encode())
    sync_folder(path.parent)


def _take_back_record(store: Path, number: int) -> None:
    """Remove the files of a record that could not be put in force, or it would hold room and a number for nothing."""
    with suppress(CalibrationError, OSError):  # a pointer that cannot be read may name it
        pointer = read_pointer(store)
        if pointer is None or pointer.number != number:
            for suffix in (".json", ".png"):
                record_path(store, number).with_suffix(suffix).unlink(missing_ok=True)


def _now() -> str:
    """Now, ISO 8601, UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _put_in_force(store: Path, before: Pointer | None, change: Change) -> None:
    changes = (*(before.changes if before is not None else ()), change)
    pointer = Pointer(number=change.number, changes=changes)
    for left in store.glob(f".{POINTER}.*"):  # by a writer that was killed; the lock says there is no other
        left.unlink()
    write_whole(store / POINTER, pointer.model_dump_json(indent=1).encode(), as_its_folder=True)


@contextmanager
def _locked(store: Path) -> Iterator[list[Path]]:
    """Hold the store against other writers; it is made where missing.

    Yields:
        The folders that were made, the innermost first.

    Raises:
        CalibrationError: for every OSError inside.
    """
    try:
        made = make_folders(store / "records")
        with suppress(FileExistsError):
            _create(store / LOCK, b"")
        with (store / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # freed when the file closes, also by a crash
            with handled(signal.SIGINT, signal.SIG_IGN):  # else a fit would say "interrupted" of what is in force
                yield made
    except OSError as error:
        raise refused(f"cannot write the calibration store {store}", error) from error


def _take_back(store: Path, made: Sequence[Path]) -> None:
    """Remove the folders that were made for nothing, up to one that is in use."""
    with suppress(OSError):
        for folder in made:
            if folder == store:
                (store / LOCK).unlink()
            folder.rmdir()


def _create(path: Path, data: bytes) -> None:
    """Write a new file through to the disk; an existing one is never touched."""
    with path.open("xb") as file:
        match_folder(file.fileno(), path.parent)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
