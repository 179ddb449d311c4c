"""Where log lines go: journald with syslog priorities under systemd, readable lines elsewhere. Always stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from loguru import logger

from edge_ad.console import under_journal

if TYPE_CHECKING:
    from loguru import Message

HUMAN = "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level: <7}</level> {message}"
PRIORITIES = {  # loguru's level -> syslog(3) priority, which sd-daemon(3) takes as a prefix <N>
    "TRACE": 7,
    "DEBUG": 7,
    "INFO": 6,
    "SUCCESS": 5,
    "WARNING": 4,
    "ERROR": 3,
    "CRITICAL": 2,
}


def set_up(level: str = "INFO", environment: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> None:
    """Send the program's log from `level` up to stderr, in the form that its reader wants."""
    stream = sys.stderr if stream is None else stream
    logger.remove()
    if under_journal(environment, stream):
        logger.add(_to_journal(stream), level=level, format="{message}", backtrace=False, diagnose=False)
    else:  # diagnose would print the values of variables: passwords among them
        logger.add(stream, level=level, format=HUMAN, backtrace=False, diagnose=False)


def _to_journal(stream: TextIO) -> Callable[[Message], None]:
    """A sink that puts the priority before every line, since journald stores each line as an entry of its own."""

    def write(message: Message) -> None:
        prefix = f"<{PRIORITIES.get(message.record['level'].name, 6)}>"
        stream.write("".join(f"{prefix}{line}\n" for line in message.splitlines()))
        stream.flush()

    return write
