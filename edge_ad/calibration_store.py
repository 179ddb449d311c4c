"""Writing the calibration store; `edge_ad/thresholds.py` reads it.

    <store>/records/000001.json   a calibration record, never overwritten
            records/000001.png    the histogram of its good scores, where it was fitted on some
            in_force.json         the number in force and every change of it: what, when, by whom
            .lock                 held while writing

A record and its picture are on the disk before `in_force.json` names them, and that file changes by an atomic rename:
a reader and a power cut see the old state or the new one, never a mixture. What root writes belongs to the owner of the
folder that it lies in, or the daemon could not read it.

`edge-ad-calibrate` writes it on behalf of a person, and the daemon on behalf of the command `threshold`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from edge_ad.thresholds import (
    POINTER,
    CalibrationRecord,
    damaged,
    of_other_camera,
    read_record,
    record_path,
    refused,
)

LOCK = ".lock"
MAX_ADJUSTMENTS = 100  # of one fit: then somebody should look why


class DamagedError(CalibrationError):
    """The content of the pointer is none; that it cannot be read is another matter, for then it may be intact."""


class Change(Strict):
    """One change of the record in force; `correlation_id` names the command that asked for it, if one did."""

    action: Literal["fit", "rollback", "threshold"]
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
        at: now, ISO 8601, UTC.
        by: who asks.
        correlation_id: names the command.
    """

    threshold: float
    down: float
    up: float
    at: str
    by: str
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A record whose image threshold was set by hand, and the fitted one that it rests on."""

    record: CalibrationRecord
    fitted: CalibrationRecord


@contextmanager
def prepared(store: Path, camera: str | None) -> Iterator[None]:
    """Around the long work that leads to `add`: what would keep it from storing is found before.

    The directory is made where missing, and taken back if the work ends in an error. Others may write meanwhile.

    Args:
        store: the directory.
        camera: whose calibration it is to be; None: of any.

    Raises:
        CalibrationError: the store cannot be written, or is another camera's.
    """
    with _locked(store) as made:
        _refuse_other_camera(store, camera)
        for folder in (store, store / "records"):
            with TemporaryFile(dir=folder):
                pass
    try:
        yield
    except BaseException:  # Ctrl-C too
        _take_back(store, made)
        raise


def add(store: Path, draft: CalibrationRecord, picture: NDArray[np.uint8]) -> CalibrationRecord:
    """Store a record under the next free number and put it in force.

    Args:
        store: the directory, made where missing.
        draft: the record; its `number` is replaced by the one that the store gives.
        picture: (H, W, 3) uint8 BGR, kept beside the record as PNG.

    Returns:
        The record as stored.

    Raises:
        CalibrationError: the store cannot be written, or is another camera's.
    """
    with _locked(store):
        _refuse_other_camera(store, draft.camera)
        pointer = _pointer_or_set_aside(store)
        record = _write_record(store, draft, picture)
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
        number: the record to choose; None for the one that was in force before, the last that applies.
        why_not: why a record does not apply, or None if it does.
        at: now, ISO 8601, UTC.
        by: who asked.

    Raises:
        CalibrationError: there is no such record, it does not apply, or the store cannot be written.
    """
    if not _numbers(store):
        raise CalibrationError(f"there is no calibration store {store}: run `edge-ad-calibrate fit`")
    with _locked(store):
        record = _previous(store, why_not) if number is None else _chosen(store, number, why_not)
        pointer = _pointer_or_set_aside(store)
        _put_in_force(store, pointer, Change(action="rollback", number=record.number, at=at, by=by))
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


def _in_use(store: Path) -> Pointer:
    pointer = read_pointer(store)
    if pointer is None:
        raise CalibrationError("uncalibrated: run `edge-ad-calibrate fit`")
    return pointer


def _refuse_other_camera(store: Path, camera: str | None) -> None:
    """What is in force for one camera is not replaced by what is for another: two stations share a store by mistake."""
    with suppress(DamagedError):  # of nobody; the next change mends it
        record = current(store)
        if record is not None and (reason := of_other_camera(record, camera)) is not None:
            raise CalibrationError(f"record {record.number}, in force in {store}, is not to be replaced: {reason}")


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
    _refuse_adjustment(current, pointer, wish, why_not(current.record))
    fitted = current.fitted
    draft = fitted.model_copy(
        update={
            "image_threshold": wish.threshold,
            "pixel_threshold": min(fitted.pixel_threshold, wish.threshold),  # a defect has a marked region
            "images_sha256": (),
            "adjusts": fitted.number,
            "created_at": wish.at,
            "created_by": wish.by,
        }
    )
    record = _write_record(store, draft, None)
    change = Change(
        action="threshold", number=record.number, at=wish.at, by=wish.by, correlation_id=wish.correlation_id
    )
    _put_in_force(store, pointer, change)
    return Adjusted(record, fitted)


def _refuse_adjustment(current: Adjusted, pointer: Pointer, wish: ThresholdWish, why_not: str | None) -> None:
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
    if _adjustments(pointer) >= MAX_ADJUSTMENTS:
        raise CalibrationError(f"the threshold was set by hand {MAX_ADJUSTMENTS} times: run `edge-ad-calibrate fit`")


def _adjustments(pointer: Pointer) -> int:
    """How often the threshold was set by hand since the last fit."""
    actions = [change.action for change in pointer.changes]
    last_fit = max((index for index, action in enumerate(actions) if action == "fit"), default=0)
    return actions[last_fit:].count("threshold")


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
        f"no record before {pointer.number} in {store} applies: `edge-ad-calibrate history` lists them"
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


def _write_record(store: Path, draft: CalibrationRecord, picture: NDArray[np.uint8] | None) -> CalibrationRecord:
    """Store a draft under the next free number."""
    record = draft.model_copy(update={"number": max(_numbers(store), default=0) + 1})
    path = record_path(store, record.number)
    if picture is not None:
        _create(path.with_suffix(".png"), cv2.imencode(".png", picture)[1].tobytes())
    _create(path, record.model_dump_json(by_alias=True, indent=1).encode())
    sync_folder(path.parent)
    return record


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
    try:
        with path.open("xb") as file:
            match_folder(file.fileno(), path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise
    except OSError:
        path.unlink(missing_ok=True)  # a full disk must not leave half a record
        raise
