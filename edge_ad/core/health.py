"""How a station is: the retained message `health`, with its figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from edge_ad.core.messages import Message, StationContext, iso8601, plain_text, to_json, topic
from edge_ad.core.triggers import TriggerFigures
from edge_ad.records import Mode

HEALTH_SCHEMA = "edge-ad/health/1"


@dataclass(frozen=True, slots=True)
class Health:
    """How the station is, for `health`.

    Attributes:
        version: of the edge-ad package.
        backend, precision: the engine in service.
        calibration: number of the calibration record in force; None while uncalibrated.
        detail: one line that says what is not right; empty if nothing is.
        started_ns: wall clock when the process started, nanoseconds since the epoch, UTC.
        mode: what the station does with frames.
        trigger: what makes a frame a part ("free": it is one).
        ready: a part that comes now would be captured, as far as is known.
        clock_synchronised: whether the wall clock follows a time server; None where the system does not tell.
    """

    version: str
    backend: str
    precision: str
    calibration: int | None
    detail: str
    started_ns: int
    mode: Mode = "run"
    trigger: str = "free"
    ready: bool = False
    clock_synchronised: bool | None = None


@dataclass(frozen=True, slots=True)
class ConnectionFault:
    """Why there was no connection to the broker.

    Attributes:
        state: its name, as in docs/mqtt.md.
        detail: one line for a person.
        at_ns: wall clock when it was found out, nanoseconds since the epoch, UTC.
    """

    state: str
    detail: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """The outbox in figures.

    Attributes:
        unsent: rows that the broker has not acknowledged.
        full_parts: parts since the start that became `not_inspected`, reason `outbox_full`, for want of room.
        gap_parts: of those, parts that only a gap record speaks of.
        dropped_parts: unsent results since the start that gave way to a gap record.
        last_seq, last_event: numbers of the last part and of the last alarm event; 0 before the first.
    """

    unsent: int
    full_parts: int
    gap_parts: int
    dropped_parts: int
    last_seq: int
    last_event: int


@dataclass(frozen=True, slots=True)
class CommandFigures:
    """The commands since the start, in figures.

    Attributes:
        answered: commands that got a reply, a refusal or a reply that was given before included.
        ignored: commands that nobody can be told about: retained, too long, without an id, too many at a time.
    """

    answered: int = 0
    ignored: int = 0


def health_message(
    context: StationContext,
    state: Health,
    outbox: OutboxFigures,
    commands: CommandFigures,
    triggers: TriggerFigures,
    refusal: str = "",
    sparkplug: str = "",
    fault: ConnectionFault | None = None,
) -> Message:
    """The retained health of the station.

    Args:
        context, state, outbox, commands, triggers: what is told.
        refusal: what publish the broker refuses, and why; empty if none.
        sparkplug: how it stands with Sparkplug; empty if it is not configured.
        fault: why there was no connection the last time that there was none.
    """
    body = {
        "schema": HEALTH_SCHEMA,
        "station": context.station,
        "boot_id": context.boot_id,
        "mode": state.mode,
        "version": state.version,
        "bundle": context.bundle,
        "backend": state.backend,
        "precision": state.precision,
        "calibration": state.calibration,
        "detail": plain_text(state.detail),
        "publish_refused": plain_text(refusal),
        "last_fault": _fault(fault),
        "sparkplug": plain_text(sparkplug),
        "outbox": asdict(outbox),
        "commands": asdict(commands),
        "trigger": {"kind": state.trigger, "ready": state.ready, **asdict(triggers)},
        "clock_synchronised": state.clock_synchronised,
        "started_at": iso8601(state.started_ns),
        "started_ms": state.started_ns // 1_000_000,
        "simulated": context.simulated,
    }
    return Message(topic(context.station, "health"), to_json(body), 1, retain=True)


def _fault(fault: ConnectionFault | None) -> dict[str, object] | None:
    if fault is None:
        return None
    at = {"at": iso8601(fault.at_ns), "at_ms": fault.at_ns // 1_000_000}
    return {"state": fault.state, "detail": plain_text(fault.detail), **at}
