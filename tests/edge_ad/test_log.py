"""Rules of the log: a priority on every line for journald, readable without it, and no secrets in a traceback."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from loguru import logger

from edge_ad import log


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    logger.remove()


def fail(password: str) -> None:
    raise RuntimeError("no good " + password[:0])


@pytest.mark.parametrize("variable", ["JOURNAL_STREAM", "INVOCATION_ID"])
def test_under_systemd_every_line_has_its_syslog_priority(variable: str) -> None:
    stream = io.StringIO()
    log.set_up(environment={variable: "x"}, stream=stream)
    logger.info("up")
    logger.warning("two\nlines")
    logger.debug("not shown")
    assert stream.getvalue() == "<6>up\n<4>two\n<4>lines\n"


def test_a_traceback_is_logged_whole_and_without_the_values_of_variables() -> None:
    stream = io.StringIO()
    log.set_up(environment={"INVOCATION_ID": "x"}, stream=stream)
    try:
        fail("-".join(["hunter", "2"]))
    except RuntimeError as error:
        logger.opt(exception=error).critical("it ends")
    lines = stream.getvalue().splitlines()
    assert all(line.startswith("<2>") for line in lines)
    assert lines[0] == "<2>it ends"
    assert lines[-1] == "<2>RuntimeError: no good "
    assert "hunter-2" not in stream.getvalue()


def test_on_a_terminal_a_line_has_its_time_and_level() -> None:
    stream = io.StringIO()
    log.set_up(environment={}, stream=stream)
    logger.info("up {}", 3)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO    up 3\n", stream.getvalue())


def test_less_can_be_asked_for() -> None:
    stream = io.StringIO()
    log.set_up("WARNING", environment={}, stream=stream)
    logger.info("up")
    assert stream.getvalue() == ""
