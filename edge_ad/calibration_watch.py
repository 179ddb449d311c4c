"""The calibration in force, followed while the daemon runs: a new record applies without a restart."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from loguru import logger

from edge_ad.config import StationConfig
from edge_ad.errors import CalibrationError
from edge_ad.lock import noted
from edge_ad.records import Thresholds
from edge_ad.thresholds import POINTER, Service, in_force, service_of, why_not

FIT = "run edge-ad-calibrate fit"
FIT_OR_RESTART = f"{FIT}, or restart edge-ad if its bundle or configuration was exchanged since it started"


def name_in_service(station: StationConfig, bundle: str) -> str:
    """Names all that decides which calibration applies, as 64 hex digits; `bundle` is the digest of the station's."""
    what = (service_of(station, bundle), os.path.realpath(station.store_dir()))
    return hashlib.sha256(repr(what).encode()).hexdigest()


def why_restart(station: StationConfig, bundle: str) -> str:
    """Why a calibration for what the files say now is not applied before a restart; empty where it is.

    A daemon holds bundle and configuration as they were when it started, and has noted what that was.
    """
    if noted(station.state_dir) in ("", name_in_service(station, bundle)):
        return ""
    return "the running daemon was started with another bundle or configuration: restart edge-ad"


def applicable(store: Path, service: Service, todo: str = FIT) -> tuple[Thresholds | None, str]:
    """The thresholds in force if they are for what is in service; else None, and why and what to do."""
    try:
        record = in_force(store)
    except CalibrationError as error:
        return None, str(error)
    if record is None:
        return None, f"no calibration in {store}: {todo}"
    reason = why_not(record, service)
    if reason is not None:
        return None, f"calibration record {record.number} is not applied: {reason}; {todo}"
    return record.thresholds(), ""


class CalibrationWatch:
    """Reads the store when its pointer changes; a record that is of something else in service is never applied.

    Attributes:
        thresholds: what applies; None while uncalibrated.
        problem: why nothing applies, one line; empty if something does.
    """

    def __init__(self, store: Path, service: Service) -> None:
        """Watch `store` on behalf of what is in service; `refresh` reads it."""
        self.thresholds: Thresholds | None = None
        self.problem = ""
        self._store = store
        self._service = service
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)  # no file looks like this: not read yet

    def refresh(self) -> bool:
        """Read the store if its pointer changed or there is a problem; True if something else came of it than before.

        What ends a problem need not touch the pointer: a `chmod`, or a record that is put back.
        """
        stamp = self._stamp()
        if stamp == self._seen and not self.problem:
            return False
        self._seen = stamp
        found = applicable(self._store, self._service, FIT_OR_RESTART)
        if found == (self.thresholds, self.problem):
            return False
        self.thresholds, self.problem = found
        if self.thresholds is None:
            logger.warning("uncalibrated, every part is not_inspected: {}", self.problem)
        else:
            logger.info("calibration {} in force: score > {:g}", self.thresholds.record, self.thresholds.image)
        return True

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = (self._store / POINTER).stat()
        except OSError:  # missing, or not to be read: `applicable` says which
            return None
        return (status.st_mtime_ns, status.st_ino, status.st_size)
