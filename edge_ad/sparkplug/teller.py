"""What an edge node says: births with the values of now, the rows of the outbox, and states when they change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_ad.core.alarm_board import Rules
from edge_ad.core.health import Health
from edge_ad.core.messages import GapBody, ResultBody, StationContext
from edge_ad.outbox import Outbox
from edge_ad.records import CameraState
from edge_ad.sparkplug import metrics, payload
from edge_ad.sparkplug.feed import Feed, Told
from edge_ad.sparkplug.metrics import Reading, Readings
from edge_ad.sparkplug.payload import Sample
from edge_ad.sparkplug.session import Send, Session, Verb

BATCH_ROWS = 64  # of the outbox, told in a turn


@dataclass(frozen=True, slots=True)
class Present:
    """What is true now, as far as is known.

    Attributes:
        part: the newest part of this run.
        camera, health: the last that was told.
    """

    part: ResultBody | GapBody | None = None
    camera: CameraState | None = None
    health: Health | None = None


class Teller:
    """Says it in the session's numbers; `publish` takes verb and payload.

    Attributes:
        present: what is true now; to be kept up to date.
    """

    def __init__(
        self,
        context: StationContext,
        camera: str,
        rules: Rules,
        outbox: Outbox,
        feed: Feed,
        session: Session,
        publish: Callable[[Verb, bytes], None],
    ) -> None:
        """Nothing is told yet."""
        self.present = Present()
        self._context = context
        self._camera = camera
        self._rules = rules
        self._outbox = outbox
        self._feed = feed
        self._session = session
        self._publish = publish
        self._shown_seq = 0  # the part whose values hosts take for the present ones
        self._told: dict[str, payload.Value | None] = {}  # of the edge node's metrics, in this session

    def node_birth(self, send: Send, bdseq: int) -> None:
        """NBIRTH."""
        at_ms = wall_ms()
        readings = self._readings(at_ms)
        found = metrics.samples(metrics.NODE, readings)
        own = [Sample(metrics.BDSEQ, bdseq, at_ms), Sample(metrics.REBIRTH, False, at_ms)]
        self._publish(send.verb, payload.birth(found + own, at_ms, send.seq))
        self._told = {name: reading.value for name, reading in readings.items()}

    def device_birth(self, send: Send) -> None:
        """DBIRTH."""
        at_ms, part = wall_ms(), self.present.part
        samples = metrics.part_samples(part) if part is not None else metrics.no_part_samples(at_ms)
        self._publish(send.verb, payload.birth(samples, at_ms, send.seq))
        self._note_shown()

    def device_death(self, send: Send) -> None:
        """DDEATH."""
        self._publish(send.verb, payload.data([], wall_ms(), send.seq))

    def tell_rows(self, room: int) -> bool:
        """The next rows, `room` messages at most, and the newest part, if they do not come to it; True if more wait."""
        limit = min(BATCH_ROWS, room)
        if limit <= 0 or not self._session.device_born:
            return False
        rows = self._outbox.kept(self._feed.sent_id, limit + 1)
        more_wait = len(rows) > limit
        for told in self._feed.take(rows[:limit], more_wait=more_wait):
            self._tell_row(told)
            self._feed.sent(told.row.id)
        if self._show_newest() or more_wait:
            self._note_shown()
        return more_wait

    def tell_states(self) -> None:
        """Report by exception: only what has changed [tck-id-operational-behavior-data-publish-nbirth-change]."""
        self._tell_changes(self._readings(wall_ms()))

    def _show_newest(self) -> bool:
        """Tell the newest part as the present one, unless it was; whether it had to be told."""
        part = self.present.part
        if part is None or metrics.last_seq(part) <= self._shown_seq:
            return False
        self._send_device(metrics.part_samples(part))
        return True

    def _note_shown(self) -> None:
        """The newest part's values were told as the present ones, and the states are told with this turn."""
        part = self.present.part
        self._shown_seq = metrics.last_seq(part) if part is not None else 0
        self._feed.shown(self._outbox.last_id())

    def _tell_row(self, told: Told) -> None:
        body = told.row.body
        if body is not None:
            self._send_device(metrics.part_samples(body, historical=told.historical))
            if not told.historical:
                self._shown_seq = metrics.last_seq(body)
        events = metrics.event_readings(told.row.events)
        if told.historical and events:
            self._send_node(metrics.samples(metrics.NODE, events, historical=True))
        elif events:
            self._tell_changes(events)

    def _tell_changes(self, readings: Readings) -> None:
        news = metrics.changed(readings, self._told)
        if news:
            self._send_node(metrics.samples(metrics.NODE, news))
            self._told |= {name: reading.value for name, reading in news.items()}

    def _readings(self, at_ms: int) -> dict[str, Reading]:
        """All metrics of the edge node; what has no time of its own is as it is `at_ms`."""
        alarms = self._outbox.alarms(self._camera)
        return {
            **metrics.station_readings(self._context, self.present.health, at_ms),
            **metrics.camera_readings(self.present.camera, at_ms),
            **metrics.alarm_readings(alarms, self._rules, at_ms),
        }

    def _send_node(self, samples: Sequence[Sample]) -> None:
        send = self._session.node_data()
        self._publish(send.verb, payload.data(samples, wall_ms(), send.seq))

    def _send_device(self, samples: Sequence[Sample]) -> None:
        send = self._session.device_data()
        self._publish(send.verb, payload.data(samples, wall_ms(), send.seq))


def wall_ms() -> int:
    """The time, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
