"""Where frames meet what asked for them: which frame of the camera is a part, and of which trigger.

The publish thread, or the thread of a sensor, brings triggers; the capture thread asks for each frame; the inference
loop answers the triggers that were lost. Free-running, every frame is a part as long as the station is not paused.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from edge_ad.config import TriggerConfig, TriggerKind
from edge_ad.core.triggers import Lost, LostReason, TriggerFigures, TriggerLine
from edge_ad.records import Mode, Trigger


@dataclass(frozen=True, slots=True)
class Admission:
    """A frame is a part, and this asked for it, if something did."""

    trigger: Trigger | None


class TriggerDesk:
    """The methods may be called from any thread.

    Attributes:
        kind, max_waiting: as configured.
        note: told of each trigger that a frame brings, before that frame is a part.
    """

    def __init__(self, config: TriggerConfig) -> None:
        """Run, with no trigger waiting."""
        self.kind: TriggerKind = config.kind
        self.max_waiting = config.max_waiting
        self._line = TriggerLine(round(1e9 * config.timeout_s), config.max_waiting)
        self._run_id = uuid.uuid4().hex[:8]
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._simulates: bool | None = None  # no mode was told yet
        self.note: Callable[[Trigger], None] = lambda _trigger: None

    @property
    def drops(self) -> bool:
        """Whether a frame may give way to a newer one without a word: no part was announced."""
        return self.kind == "free"

    @property
    def is_ready(self) -> bool:
        """Whether a part that comes now would be taken, as far as this depends on triggers and mode."""
        with self._changed:
            return not self._line.paused and self._line.has_room

    def set_mode(self, mode: Mode) -> None:
        """Take parts, or take none; then those that wait for their frame wait no longer.

        The first mode says what the frames are of, for as long as this desk is: those of another source are not ours.
        """
        with self._changed:
            simulates = mode == "simulate"
            self._simulates = simulates if self._simulates is None else self._simulates
            self._line.paused = mode == "pause" or simulates != self._simulates
            if self._line.paused:
                self._line.lose_all("paused")
            self._changed.notify_all()

    def name(self) -> str:
        """A trigger id for a trigger that came without one."""
        return f"{self.kind}-{self._run_id}-{next(self._numbers)}"

    def ask(self, trigger: Trigger, since_ns: int | None = None) -> None:
        """A trigger has come.

        Args:
            trigger: it.
            since_ns: when, by `time.monotonic_ns`; default: now.
        """
        lives_ns = None if trigger.expires_ns is None else trigger.expires_ns - time.time_ns()
        with self._changed:
            self._line.ask(trigger, time.monotonic_ns() if since_ns is None else since_ns, lives_ns)
            self._changed.notify_all()

    def wants(self, timeout_s: float) -> bool:
        """Whether a frame that is read now would be a part; waits up to `timeout_s` until it would be."""
        with self._changed:
            return self._changed.wait_for(self._would_admit, timeout_s)

    def admit(self, began_ns: int) -> Admission | None:
        """What a frame is whose reading began then, by `time.monotonic_ns`; None: no part."""
        with self._changed:
            if self.kind == "free":
                return None if self._line.paused else Admission(None)
            if self.kind == "camera":
                return self._admit_announced()
            trigger = self._line.claim(began_ns)
            return Admission(trigger) if trigger is not None else None

    def lose(self, trigger: Trigger, reason: LostReason) -> None:
        """A trigger that waits no longer gets no inspected frame."""
        with self._changed:
            self._line.lose(trigger, reason)

    def end(self) -> None:
        """The station ends: nobody waits any longer."""
        with self._changed:
            self._line.lose_all("missed")

    def take_lost(self) -> list[Lost]:
        """The triggers that were lost since the last call; each of them gets a result."""
        with self._changed:
            self._line.pass_time(time.monotonic_ns())
            return self._line.take_lost()

    def figures(self) -> TriggerFigures:
        """The triggers in figures."""
        with self._changed:
            return self._line.figures()

    def _would_admit(self) -> bool:
        if self.kind in ("free", "camera"):
            return not self._line.paused
        return self._line.wants(time.monotonic_ns())

    def _admit_announced(self) -> Admission | None:
        """The camera's own trigger has fired: its frame is a part even where nobody inspects it."""
        now_ns = time.monotonic_ns()
        trigger = Trigger(self.name(), at_ns=time.time_ns())
        self.note(trigger)
        self._line.ask(trigger, now_ns, None)
        claimed = self._line.claim(now_ns)
        return Admission(claimed) if claimed is not None else None
