"""Where commands wait for the publish thread, are executed once, and get their replies."""

from __future__ import annotations

import queue
import time
from collections import deque
from dataclasses import replace

from loguru import logger

from edge_ad.config import StationConfig
from edge_ad.core import messages
from edge_ad.core.commands import Refusal, parse
from edge_ad.core.messages import CommandFigures, Message
from edge_ad.core.orders import Order, SetMode
from edge_ad.outbox import Outbox
from edge_ad.records import Trigger
from edge_ad.trigger_desk import TriggerDesk

WAITING = 256  # more at a time are ignored and counted
A_TURN = 32  # executed in a row; then parts have their turn


class CommandDesk:
    """Takes commands on one thread and answers them on another."""

    def __init__(self, config: StationConfig, orders: queue.SimpleQueue[Order], triggers: TriggerDesk) -> None:
        """Nothing waits; what commands ask of the frame path goes to `triggers` and `orders`."""
        self._config = config
        self._orders = orders
        self._triggers = triggers
        self._waiting: deque[Message] = deque()
        self._excess = 0  # that found no room to wait; only the thread of `take` counts them
        self._figures = CommandFigures()

    def take(self, message: Message) -> None:
        """A command has come."""
        if len(self._waiting) < WAITING:
            self._waiting.append(message)
        else:
            self._excess += 1

    def waits(self) -> bool:
        """Whether there is something to answer."""
        return bool(self._waiting)

    def answer(self, outbox: Outbox) -> list[Message]:
        """Execute some of the commands that wait; the replies.

        Raises:
            OutboxError: as `Outbox.command`.
        """
        commands = [self._waiting.popleft() for _ in range(min(len(self._waiting), A_TURN))]
        answers = [self._answer(command, outbox) for command in commands]
        replies = [answer for answer in answers if answer is not None]
        answered, ignored = len(replies), len(commands) - len(replies)
        self._figures = CommandFigures(self._figures.answered + answered, self._figures.ignored + ignored)
        return replies

    def figures(self) -> CommandFigures:
        """The commands in figures."""
        return replace(self._figures, ignored=self._figures.ignored + self._excess)

    def _answer(self, command: Message, outbox: Outbox) -> Message | None:
        """The reply; None where nobody can be told. What is retained is no news, and somebody's mistake."""
        name = command.topic.rsplit("/", 1)[-1]
        if command.retain:
            logger.warning("command {:.40} ignored: it is retained", ascii(name))
            return None
        parsed = parse(name, command.payload)
        if isinstance(parsed, Refusal):
            logger.warning("command {:.40} refused: {}", ascii(name), parsed.reason)
            return self._refusal(name, parsed)
        if parsed.trigger is not None and self._config.trigger.kind != "command":
            why = f"triggers of this station come otherwise: trigger.kind is {self._config.trigger.kind}"
            return self._refusal(name, Refusal(parsed.correlation_id, why))
        answer = outbox.command(self._config.camera.name, parsed, time.time_ns(), self._config.commands.max_shelve_s)
        logger.info("command {}: {}", parsed.name, parsed)
        if answer.order is not None:
            self._hand_over(answer.order)
        return messages.reply(self._config.station, name, answer.reply)

    def _hand_over(self, order: Order) -> None:
        """Triggers do not wait for a turn of the loop; and a mode concerns those that come after it."""
        match order:
            case Trigger():
                self._triggers.ask(order)
            case SetMode(mode):
                self._triggers.set_mode(mode)
                self._orders.put(order)

    def _refusal(self, name: str, refusal: Refusal) -> Message | None:
        if refusal.correlation_id is None:
            return None
        body = messages.refusal_body(self._config.station, name, refusal.correlation_id, refusal.reason)
        return messages.reply(self._config.station, name, messages.to_json(body))
