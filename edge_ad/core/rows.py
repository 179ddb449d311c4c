"""A row of the outbox, and the messages that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_ad.core.messages import AlarmEventBody, GapBody, ResultBody


@dataclass(frozen=True, slots=True)
class Row:
    """One part in the outbox, or a gap record, or alarm events that no part caused.

    Attributes:
        id: names the row and gives its place; not the part's number, which is in `body`. Below 0 where not `stored`.
        body: the stored result or gap record; None where no part caused the events.
        events: alarm events: those that the part caused.
        stored: False for a part that only a gap record speaks of.
    """

    id: int
    body: ResultBody | GapBody | None
    events: tuple[AlarmEventBody, ...] = ()
    stored: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """Names one message of a row; `index` counts alarm events."""

    kind: Literal["result", "event", "plc"]
    index: int = 0


RESULT = Piece("result")
PLC = Piece("plc")


@dataclass(frozen=True, slots=True)
class Parcel:
    """One message of a row on its way; rendered when it leaves, for it tells the time."""

    row: Row
    piece: Piece


def pieces(row: Row) -> list[Piece]:
    """The messages of a row, in the order in which they are sent."""
    events = [Piece("event", index) for index in range(len(row.events))]
    if row.body is None:
        return events
    return [RESULT] if "seq_from" in row.body else [RESULT, *events, PLC]
