"""Commands that take more than the outbox: they set the threshold of the station, or send rows once more."""

from __future__ import annotations

from dataclasses import dataclass

from edge_ad.calibration_store import ThresholdWish, adjust, bounds
from edge_ad.config import StationConfig
from edge_ad.core.commands import Request
from edge_ad.core.orders import Done
from edge_ad.core.replay import MAX_REPLAYS, Replay, ReplayLane, count, gone, refusal
from edge_ad.core.spans import Span
from edge_ad.errors import CalibrationError
from edge_ad.outbox import Outbox
from edge_ad.thresholds import CalibrationRecord, service_of, why_not

TOLD_RUNS = 100  # of numbers that are gone, in a reply


@dataclass(frozen=True, slots=True)
class Site:
    """What an errand works on.

    Attributes:
        config: the station.
        bundle: digest of the bundle in service.
        replays: sends rows once more.
    """

    config: StationConfig
    bundle: str
    replays: ReplayLane

    def why_not(self, record: CalibrationRecord) -> str | None:
        """Why a calibration record does not apply here; None if it does."""
        return why_not(record, service_of(self.config, self.bundle))


def set_threshold(request: Request, site: Site) -> Done:
    """Put a record with another image threshold in force; the inference loop finds it within a second."""
    if request.threshold is None or request.by is None:
        raise ValueError("a threshold command without a threshold, or from nobody")
    limits = site.config.commands
    wish = ThresholdWish(
        request.threshold, limits.threshold_down, limits.threshold_up, request.by, request.correlation_id
    )
    try:
        adjusted = adjust(site.config.store_dir(), wish, site.why_not)
    except CalibrationError as error:
        return Done(request.correlation_id, str(error))
    fitted = adjusted.fitted.image_threshold
    lowest, highest = bounds(fitted, wish.down, wish.up)
    details = {
        "calibration": adjusted.record.number,
        "threshold": adjusted.record.image_threshold,
        "fitted": fitted,
        "lowest": lowest,
        "highest": highest,
    }
    return Done(request.correlation_id, details=details)


def send_again(request: Request, site: Site, outbox: Outbox) -> Done:
    """Ask for the rows of some parts or alarm events once more, and tell which have none."""
    if request.span is None:
        raise ValueError("a replay command without its span")
    wanted, of, last = request.span, request.of, outbox.last_number(request.of)
    refused = f"{MAX_REPLAYS} replays wait already" if site.replays.full else refusal(wanted, last, of)
    if refused:
        return Done(request.correlation_id, refused)
    wanted = Span(wanted.first, min(wanted.last, last))
    ids = outbox.ids_of(wanted, of)
    rows = outbox.kept_rows(ids, of)
    site.replays.ask(Replay(ids, of))
    missing = list(gone(wanted, rows))
    details = {
        "of": of,
        "from": wanted.first,
        "to": wanted.last,
        "sent_again": count(wanted, [row for row in rows if row.sent]),
        "unsent": count(wanted, [row for row in rows if not row.sent]),
        "gone": sum(map(len, missing)),
        "gone_runs": [{"from": run.first, "to": run.last} for run in missing[:TOLD_RUNS]],
    }
    return Done(request.correlation_id, details=details)
