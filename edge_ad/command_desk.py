"""Where commands wait for the publish thread, are executed once, and get their replies.

What a command led to is stored with its reply before it is answered. A snapshot is taken by other threads; its command
is stored and answered when it is there.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from dataclasses import dataclass, replace

from loguru import logger

from edge_ad.core import messages
from edge_ad.core.commands import (
    ERRANDS,
    MAX_REQUEST_BYTES,
    OTHER_COMMAND,
    Outcome,
    Refusal,
    Request,
    parse,
    wrong_camera,
)
from edge_ad.core.health import CommandFigures
from edge_ad.core.messages import Message
from edge_ad.core.orders import Done, LoopOrder, Order, SetMode, TakeSnapshot
from edge_ad.errands import Site, send_again, set_threshold
from edge_ad.outbox import Outbox
from edge_ad.records import Trigger
from edge_ad.trigger_desk import TriggerDesk

WAITING = 256  # more at a time are ignored and counted
A_TURN = 32  # executed in a row; then parts have their turn


@dataclass(slots=True)
class _Ordered:
    """A command that others carry out, and how often it has come meanwhile."""

    request: Request
    times: int = 1


class CommandDesk:
    """Takes commands on one thread and answers them on another."""

    def __init__(self, site: Site, orders: queue.SimpleQueue[LoopOrder], triggers: TriggerDesk) -> None:
        """Nothing waits; what commands ask of the frame path goes to `triggers` and `orders`."""
        self._site = site
        self._station = site.config.station
        self._camera = site.config.camera.name
        self._orders = orders
        self._triggers = triggers
        self._waiting: deque[Message] = deque()
        self._ordered: dict[str, _Ordered] = {}
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._excess = 0  # that found no room to wait; only the thread of `take` counts them
        self._figures = CommandFigures()

    def take(self, message: Message) -> None:
        """A command has come."""
        if len(self._waiting) < WAITING:  # of one that is too long, only as much as shows that
            self._waiting.append(replace(message, payload=message.payload[: MAX_REQUEST_BYTES + 1]))
        else:
            self._excess += 1

    def take_done(self, done: Done) -> None:
        """What a command has ordered is done, or not to be had; may be called from any thread."""
        self._done.put(done)

    def waits(self) -> bool:
        """Whether there is something to answer."""
        return bool(self._waiting) or not self._done.empty()

    def answer(self, outbox: Outbox) -> list[Message]:
        """Execute some of the commands that wait; the replies.

        Raises:
            OutboxError: as `Outbox.command`.
        """
        replies: list[Message | None] = [self._finish(self._done.get(), outbox) for _ in range(self._done.qsize())]
        left = A_TURN
        while self._waiting and left > 0:
            command = self._waiting.popleft()
            left -= A_TURN if _name(command) in ERRANDS else 1  # errands use the disk at length
            replies.append(self._answer(command, outbox))
        return [reply for reply in replies if reply is not None]

    def figures(self) -> CommandFigures:
        """The commands in figures."""
        return replace(self._figures, ignored=self._figures.ignored + self._excess)

    def _answer(self, command: Message, outbox: Outbox) -> Message | None:
        """The reply; None where nobody can be told, or not yet. What is retained is no news, and somebody's mistake."""
        name = _name(command)
        if command.retain:
            logger.warning("command {:.40} ignored: it is retained", ascii(name))
            self._figures = replace(self._figures, ignored=self._figures.ignored + 1)
            return None
        parsed = parse(name, command.payload)
        if isinstance(parsed, Refusal):
            logger.warning("command {:.40} refused: {}", ascii(name), parsed.reason)
            return self._refuse(name, parsed)
        why = self._why_not(parsed)
        if why:
            return self._refuse(name, Refusal(parsed.correlation_id, why))
        logger.info("command {}: {}", parsed.name, parsed)
        ordered = self._ordered.get(parsed.correlation_id)
        if ordered is None:
            return self._execute(parsed, outbox)
        if ordered.request != parsed:
            return self._refuse(name, Refusal(parsed.correlation_id, OTHER_COMMAND))
        ordered.times += 1
        return None

    def _execute(self, request: Request, outbox: Outbox) -> Message | None:
        """The reply to a command, which is executed if it is new; None if others have to carry it out."""
        if request.name not in ERRANDS:
            max_shelve_s = self._site.config.commands.max_shelve_s
            answer = outbox.command(self._camera, request, time.time_ns(), max_shelve_s)
            if answer.order is not None:
                self._hand_over(answer.order)
            return self._reply(request, answer.reply)
        settled = outbox.settled(request)
        if settled is not None:
            return self._reply(request, settled.reply)
        done = self._run_errand(request, outbox)
        return self._conclude(request, done, outbox) if done is not None else None

    def _why_not(self, request: Request) -> str:
        """Why this station does not even try a request; empty if it does."""
        config = self._site.config
        if request.trigger is not None and config.trigger.kind != "command":
            return f"triggers of this station come otherwise: trigger.kind is {config.trigger.kind}"
        if request.mode == "simulate" and config.simulate is None:
            return "this station has nothing to play: its configuration has no section simulate"
        return ""

    def _hand_over(self, order: Order) -> None:
        """Triggers do not wait for a turn of the loop; and a mode concerns those that come after it."""
        match order:
            case Trigger():
                self._triggers.ask(order)
            case SetMode(mode):
                self._triggers.set_mode(mode)
                self._orders.put(order)

    def _run_errand(self, request: Request, outbox: Outbox) -> Done | None:
        """What came of it; None if others have to carry it out."""
        refusal = wrong_camera(request, self._camera)
        if refusal:
            return Done(request.correlation_id, refusal)
        if request.name == "threshold":
            return set_threshold(request, self._site)
        if request.name == "replay":
            return send_again(request, self._site, outbox)
        self._ordered[request.correlation_id] = _Ordered(request)
        self._orders.put(TakeSnapshot(request.correlation_id, request.by))
        return None

    def _finish(self, done: Done, outbox: Outbox) -> Message:
        """The reply to a command that others have carried out."""
        ordered = self._ordered.pop(done.correlation_id)
        settled = outbox.settled(ordered.request)  # there may be no room any more
        if settled is not None:
            return self._reply(ordered.request, settled.reply, ordered.times)
        return self._conclude(ordered.request, done, outbox, ordered.times)

    def _conclude(self, request: Request, done: Done, outbox: Outbox, times: int = 1) -> Message:
        outcome = Outcome(outbox.alarms(self._camera), refusal=done.refusal, details=done.details)
        answer = outbox.conclude(self._camera, request, outcome, time.time_ns())
        return self._reply(request, answer.reply, times)

    def _reply(self, request: Request, payload: bytes, times: int = 1) -> Message:
        self._figures = replace(self._figures, answered=self._figures.answered + times)
        return messages.reply(self._station, request.name, payload)

    def _refuse(self, name: str, refusal: Refusal) -> Message | None:
        """Answer a command that is not tried, if anybody can be told."""
        if refusal.correlation_id is None:
            self._figures = replace(self._figures, ignored=self._figures.ignored + 1)
            return None
        self._figures = replace(self._figures, answered=self._figures.answered + 1)
        body = messages.refusal_body(self._station, name, refusal.correlation_id, refusal.reason)
        return messages.reply(self._station, name, messages.to_json(body))


def _name(command: Message) -> str:
    return command.topic.rsplit("/", 1)[-1]
