"""The broker's part of `edge-ad check`: what it allows, and what it keeps of a running station's own view.

Under a client id of our own: the station's would throw a running daemon off the broker. What is published is read by
nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from edge_ad.broker_state import explain_exposure
from edge_ad.config import StationConfig
from edge_ad.core import messages
from edge_ad.core.messages import Message
from edge_ad.core.payload import Body, MalformedError, parse
from edge_ad.errors import ConfigError, PublishError
from edge_ad.finding import Finding
from edge_ad.lock import in_use
from edge_ad.mqtt import Listener, Subscription

STATES_S = 1.0  # for the broker to tell what it has kept
HEARTBEAT_S = 3.0  # a station that lives has said so by then
RECENT_MS = 3_600_000
POLL_S = 0.02


def examine_broker(config: StationConfig) -> list[Finding]:
    """Connect, subscribe and publish as the daemon does."""
    mqtt, where = config.mqtt, f"{config.mqtt.host}:{config.mqtt.port}"
    commands = Subscription(((messages.command_filter(config.station), 1),), lambda _message: None)
    try:
        with Listener(mqtt, _client_id(config), commands if config.commands.enabled else None) as listener:
            refusal = listener.try_publish(messages.probe(config.station))
    except (PublishError, ConfigError) as error:
        return [Finding("broker", "failed", str(error))]
    if refusal:
        denied = f"{where} takes no messages of station {config.station} from us: {refusal}: see its access list"
        return [Finding("broker", "failed", denied)]
    return [_accepted(config, where), *_told(config)]


def _accepted(config: StationConfig, where: str) -> Finding:
    exposure = explain_exposure(config.mqtt)
    if exposure:
        return Finding("broker", "warning", f"{where}: {exposure}")
    return Finding("broker", "ok", f"{where} accepts us over MQTT {config.mqtt.protocol}")


def _client_id(config: StationConfig) -> str:
    return f"{config.station}-check"


def _told(config: StationConfig) -> Iterator[Finding]:
    """What a running station tells of itself, and whether it is another one of this name."""
    heard: dict[str, Message] = {}
    status, health, heartbeat = messages.self_topics(config.station)
    subscription = Subscription(
        ((status, 1), (health, 1), (heartbeat, 0)), lambda message: heard.update({message.topic: message})
    )
    try:
        with Listener(config.mqtt, _client_id(config), subscription):
            _wait(lambda: {status, health} <= heard.keys(), STATES_S)
            if in_use(config.state_dir):
                yield from _own_view(heard.get(health))
            elif (
                status in heard
                and heard[status].payload == b"online"
                and _wait(lambda: heartbeat in heard, HEARTBEAT_S)
            ):
                namesake = (
                    f"another client has taken over the client id: a station {config.station} is online elsewhere"
                )
                yield Finding("station", "failed", namesake)
    except (PublishError, MalformedError) as error:
        yield Finding("station", "warning", f"what the station tells of itself cannot be read: {error}")


def _own_view(health: Message | None) -> Iterator[Finding]:
    """The faults that the daemon on this state directory has met."""
    if health is None:
        return
    body = parse(health.payload)
    refused, fault = body.text("publish_refused"), body.fields.get("last_fault")
    if refused:
        yield Finding("station", "failed", f"publish_refused, says the running daemon: {refused}")
    if isinstance(fault, dict) and time.time() * 1000 - Body(fault).number("at_ms") < RECENT_MS:
        told = Body(fault)
        detail = f"the running daemon's last fault, {told.text('at')}: {told.text('state')}: {told.text('detail')}"
        yield Finding("station", "warning", detail)


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition; whether it came true."""
    until_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until_s:
        time.sleep(POLL_S)
    return condition()
