"""What each refusal is called, and the remedy that its line names."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from edge_ad.broker_state import (
    BrokerState,
    explain_dial_error,
    explain_eviction,
    explain_exposure,
    explain_loss,
    explain_refusal,
    suspect_a_namesake,
)
from edge_ad.config import MqttConfig, TlsConfig

PLAIN = MqttConfig()
LOGIN = MqttConfig(username="press-3")
TLS = MqttConfig(tls=TlsConfig())


def ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


def verification_error(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "the reason"
    return error


@pytest.mark.parametrize(
    ("error", "config", "name", "said"),
    [
        (ConnectionRefusedError(111, "Connection refused"), PLAIN, "unreachable", "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), PLAIN, "unreachable", "name not resolved"),
        (UnicodeError("label too long"), PLAIN, "unreachable", "name not resolved"),
        (TimeoutError("timed out"), PLAIN, "unreachable", "time-out"),
        (OSError(113, "No route to host"), PLAIN, "unreachable", "No route to host"),
        (ConnectionResetError(104, "Connection reset by peer"), TLS, "tls_failed", "TLS port"),
        (ssl_error("WRONG_VERSION_NUMBER"), TLS, "tls_failed", "no TLS (WRONG_VERSION_NUMBER)"),
        (verification_error(20), TLS, "tls_failed", "mqtt.tls.ca_file"),
        (verification_error(62), TLS, "tls_failed", "mqtt.host"),
        (verification_error(10), TLS, "tls_failed", "renewed"),
        (verification_error(9), TLS, "tls_failed", "clock"),
        (verification_error(99), TLS, "tls_failed", "mqtt.tls"),
    ],
)
def test_why_no_connection_came_about(error: OSError, config: MqttConfig, name: str, said: str) -> None:
    state = explain_dial_error(error, config)
    assert state.name == name
    assert said in state.detail


@pytest.mark.parametrize(
    ("code", "config", "name", "said"),
    [
        (0x86, LOGIN, "login_refused", "wrong user name or password for press-3"),
        (0x87, LOGIN, "login_refused", "wrong user name or password for press-3"),
        (0x87, PLAIN, "login_refused", "mqtt.username"),
        (0x84, PLAIN, "refused", "'3.1.1'"),
        (0x84, MqttConfig(protocol="3.1.1"), "refused", "'5'"),
        (0x85, PLAIN, "refused", "client id"),
        (0x8A, PLAIN, "refused", "banned"),
        (0x89, PLAIN, "refused", "Server busy"),
    ],
)
def test_why_the_broker_did_not_accept(code: int, config: MqttConfig, name: str, said: str) -> None:
    state = explain_refusal(code, "Server busy", config)
    assert state.name == name
    assert said in state.detail


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_within_a_machine_nothing_is_exposed(host: str) -> None:
    assert explain_exposure(MqttConfig(host=host)) == ""


def test_what_crosses_the_network_in_the_clear_is_said() -> None:
    assert "all messages cross" in explain_exposure(MqttConfig(host="broker.plant"))
    assert explain_exposure(MqttConfig(host="scada.plant"), "sparkplug.mqtt").endswith("set sparkplug.mqtt.tls")
    assert "the password" in explain_exposure(MqttConfig.model_validate({"host": "10.0.0.1", "password_file": "p"}))
    assert explain_exposure(MqttConfig(host="broker.plant", tls=TlsConfig())) == ""


def test_a_user_whose_name_is_in_a_file_is_called_by_the_file() -> None:
    config = MqttConfig.model_validate({"username_file": "/etc/user"})
    assert "for /etc/user" in explain_refusal(0x86, "", config).detail


def test_a_client_certificate_that_is_not_accepted_is_named() -> None:
    config = MqttConfig(tls=TlsConfig.model_validate({"client_cert_file": "/a", "client_key_file": "/b"}))
    assert "client certificate" in explain_refusal(0x87, "Not authorized", config).detail


def test_an_eviction_is_told_from_other_farewells() -> None:
    assert explain_eviction(0x8E, "Session taken over").name == "taken_over"
    assert (
        explain_eviction(0x8B, "Server shutting down").detail == "the broker ended the connection: Server shutting down"
    )


def test_a_loss_tells_whether_the_connection_had_been_accepted() -> None:
    assert explain_loss(0x80, "", PLAIN, accepted=True).name == "lost"
    assert "without TLS" in explain_loss(0x80, "", PLAIN, accepted=False).detail
    assert "with TLS" in explain_loss(0x80, "", TLS, accepted=False).detail
    assert "time-out" in explain_loss(0x8D, "", PLAIN, accepted=True).detail
    assert "reset by peer" in explain_loss(0x80, "reset by peer", PLAIN, accepted=True).detail
    assert "time-out: no answer to our CONNECT" in explain_loss(0x8D, "", PLAIN, accepted=False).detail


def test_a_tls_broker_that_closes_at_once_may_want_a_client_certificate_or_refuse_ours() -> None:
    """TLS 1.3 tells either after the handshake, in an alert that may be lost with the connection."""
    question = "(mqtt.tls.client_cert_file)?"
    ours = MqttConfig(tls=TlsConfig(client_cert_file=Path("station.crt"), client_key_file=Path("station.key")))
    for error in ("EOF occurred in violation of protocol", "tlsv13 alert certificate required", "reset by peer"):
        assert f"want a client certificate {question}" in explain_loss(0x80, error, TLS, accepted=False).detail
        assert f"accept the client certificate {question}" in explain_loss(0x80, error, ours, accepted=False).detail
    assert question not in explain_loss(0x80, "EOF", PLAIN, accepted=False).detail
    assert question not in explain_loss(0x8D, "", TLS, accepted=False).detail  # it does not answer: another fault


def test_a_namesake_is_suspected_by_name() -> None:
    assert "client id press-3" in suspect_a_namesake(BrokerState("lost", "the connection broke"), "press-3").detail
