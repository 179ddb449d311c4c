"""How it stands with the broker, and what a refusal means in words that tell whoever is on site what to do."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from typing import Literal

from edge_ad.config import MqttConfig

BrokerPhase = Literal[
    "connecting",  # not tried yet
    "online",
    "publish_refused",  # online, but the broker does not take a message
    "login_refused",  # it does not accept user name, password or right to connect
    "refused",  # it does not accept the connection for another reason
    "taken_over",  # another client came with our client id
    "tls_failed",
    "unreachable",
    "lost",
    "stopped",
]

# Reason codes of MQTT 5; paho gives the return codes of 3.1.1 as these.
UNSUPPORTED_VERSION = 0x84
CLIENT_ID_INVALID = 0x85
BAD_LOGIN = 0x86
NOT_AUTHORISED = 0x87
BANNED = 0x8A
KEEP_ALIVE_TIMEOUT = 0x8D
TAKEN_OVER = 0x8E

# X509_verify_cert's codes (openssl-verification-options(1)) that have a remedy of their own.
_CERTIFICATE_REMEDY = {
    9: "it is not valid yet: is this machine's clock right?",
    10: "have it renewed, or set this machine's clock",
    18: "set mqtt.tls.ca_file to it, if it is the broker's",
    19: "set mqtt.tls.ca_file to the authority that signed it",
    20: "set mqtt.tls.ca_file to the authority that signed it",
    21: "set mqtt.tls.ca_file to the authority that signed it",
    62: "set mqtt.host to a name that the certificate is for",
    64: "set mqtt.host to a name that the certificate is for",
}


@dataclass(frozen=True, slots=True)
class BrokerState:
    """How it stands with the broker; `detail` is one line for a person, empty where the name says all."""

    name: BrokerPhase
    detail: str = ""


def explain_exposure(config: MqttConfig, section: str = "mqtt") -> str:
    """What anybody on the network can read or change for want of TLS; empty where nobody can.

    `section`: of the station's configuration, where the broker is.
    """
    if config.tls is not None or _is_this_machine(config.host):
        return ""
    secrets = "the password and all messages cross" if config.password_file is not None else "all messages cross"
    return f"without TLS, {secrets} the network in the clear, and anybody may pose as the broker: set {section}.tls"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def explain_dial_error(error: OSError | ValueError, config: MqttConfig) -> BrokerState:
    """Why no connection came about at all."""
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = _CERTIFICATE_REMEDY.get(error.verify_code, "see mqtt.tls")
        return BrokerState("tls_failed", f"certificate verify failed: {error.verify_message}; {remedy}")
    if isinstance(error, ssl.SSLError):
        return BrokerState("tls_failed", f"no TLS ({error.reason or error}): is {config.port} the broker's TLS port?")
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return BrokerState("unreachable", f"name not resolved: {config.host}")
    if isinstance(error, TimeoutError):
        return BrokerState("unreachable", "time-out: no answer")
    if isinstance(error, ConnectionRefusedError):
        return BrokerState("unreachable", f"connection refused: does the broker run, on port {config.port}?")
    if config.tls is not None and isinstance(error, ConnectionError):
        return BrokerState("tls_failed", f"the TLS handshake was cut off: is {config.port} the broker's TLS port?")
    return BrokerState("unreachable", str(getattr(error, "strerror", None) or error))


def explain_refusal(code: int, said: str, config: MqttConfig) -> BrokerState:
    """Why the broker did not accept the connection: `code` and text of its CONNACK."""
    if code in (BAD_LOGIN, NOT_AUTHORISED):
        return BrokerState("login_refused", f"{_login_fault(code, config)} (the broker says: {said})")
    if code == UNSUPPORTED_VERSION:
        other = "3.1.1" if config.protocol == "5" else "5"
        return BrokerState(
            "refused", f"the broker does not speak MQTT {config.protocol}: set mqtt.protocol to '{other}'"
        )
    if code == CLIENT_ID_INVALID:
        return BrokerState("refused", "the broker does not accept the station's name as client id")
    if code == BANNED:
        return BrokerState("refused", "the broker has banned this client")
    return BrokerState("refused", f"the broker does not accept the connection: {said}")


def explain_eviction(code: int, said: str) -> BrokerState:
    """Why the broker ended the connection: `code` and text of its DISCONNECT, which only MQTT 5 has."""
    if code == TAKEN_OVER:
        detail = "another client took over the client id (DISCONNECT, session taken over): two stations of one name?"
        return BrokerState("taken_over", detail)
    return BrokerState("lost", f"the broker ended the connection: {said}")


def explain_loss(code: int, error: str, config: MqttConfig, *, accepted: bool) -> BrokerState:
    """What a connection without a word of farewell means; `error` is the operating system's or TLS's text."""
    because = f" ({error})" if error else ""
    silent = code == KEEP_ALIVE_TIMEOUT
    if accepted and silent:
        return BrokerState("lost", f"time-out: no sign of life from the broker for {config.keepalive_s} s")
    if accepted:
        return BrokerState("lost", f"the connection broke{because}")
    what = "time-out: no answer to our CONNECT" if silent else f"the connection was closed at once{because}"
    tls = "with" if config.tls is not None else "without"
    asked = f"is it a broker {tls} TLS that speaks MQTT {config.protocol}?"
    if config.tls is not None and not silent:
        # In TLS 1.3 our handshake is over before the broker has looked at our certificate, and its alert may be lost
        # with the connection: a certificate that is missing or refused then looks like any other end.
        judges = "want a" if config.tls.client_cert_file is None else "accept the"
        asked = f"{asked} Does it {judges} client certificate (mqtt.tls.client_cert_file)?"
    return BrokerState("refused", f"{what}: {asked}")


def suspect_a_namesake(state: BrokerState, client_id: str) -> BrokerState:
    """What it means when one connection after the other breaks soon: few brokers say that they evict a client."""
    why = f"another client seems to have taken over the client id {client_id}: two stations of one name?"
    return BrokerState(state.name, f"{state.detail}, again and again: {why}")


def _login_fault(code: int, config: MqttConfig) -> str:
    user = config.username or config.username_file
    if user is None and config.tls is not None and config.tls.client_cert_file is not None:
        return "not authorised: the broker does not let this client certificate in"
    if user is None:
        return "not authorised: the broker wants a user name and a password; see mqtt.username and mqtt.password_file"
    if code == BAD_LOGIN:
        return f"wrong user name or password for {user}"
    return f"wrong user name or password for {user}, or it may not connect"
