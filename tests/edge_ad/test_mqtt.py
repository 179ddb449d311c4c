"""Every way in which a broker can say no is named; against real brokers, and sockets that misbehave."""

from __future__ import annotations

import itertools
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import MQTTMessage
from pydantic import ValidationError

from edge_ad.broker_state import BrokerState
from edge_ad.config import MqttConfig, TlsConfig
from edge_ad.core import messages
from edge_ad.core.messages import Message
from edge_ad.errors import ConfigError, PublishError
from edge_ad.mqtt import Listener, MqttLink, Subscription, tls_context
from tests.broker import Broker, Subscriber, free_port, make_tls, mqtt_config, needs
from tests.daemons import wait_until

MakeLink = Callable[..., MqttLink]


@pytest.fixture
def make_link() -> Iterator[MakeLink]:
    links: list[MqttLink] = []

    def make(config: dict[str, Any], client_id: str = "press-3") -> MqttLink:
        will = messages.status("press-3", "offline")
        links.append(MqttLink(MqttConfig.model_validate(config), client_id, lambda: will, lambda: None))
        links[-1].start()
        return links[-1]

    yield make
    for link in links:
        link.stop(farewell=True)
        assert link.failure() is None


def ends_up(link: MqttLink, name: str) -> BrokerState:
    wait_until(lambda: link.state().name == name)
    return link.state()


def secret(folder: Path, password: str) -> str:
    path = folder / "mqtt-password"
    path.write_text(f"{password}\n")
    return str(path)


def test_a_broker_that_is_not_there_is_unreachable_and_tried_again(tmp_path: Path, make_link: MakeLink) -> None:
    broker = Broker(tmp_path / "broker")
    link = make_link(mqtt_config(broker))
    assert "connection refused" in ends_up(link, "unreachable").detail
    broker.start()
    ends_up(link, "online")
    broker.kill()
    ends_up(link, "unreachable")


def test_a_message_leaves_at_once_and_does_not_wait_for_what_was_sent_before_it(
    broker: Broker, make_link: MakeLink
) -> None:
    link = make_link(mqtt_config(broker))
    ends_up(link, "online")
    assert link._live is not None
    sock = link._live[1].socket()
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_name_that_does_not_exist_is_named(make_link: MakeLink) -> None:
    link = make_link({"host": "no-such-host.invalid"})
    assert ends_up(link, "unreachable").detail == "name not resolved: no-such-host.invalid"


def test_a_wrong_password_is_called_that(
    tmp_path: Path, make_broker: Callable[..., Broker], make_link: MakeLink
) -> None:
    broker = make_broker(users={"press-3": "right"})
    for protocol in ("5", "3.1.1"):
        wrong = secret(tmp_path, "wrong-secret")
        link = make_link(mqtt_config(broker, username="press-3", password_file=wrong, protocol=protocol))
        state = ends_up(link, "login_refused")
        assert "wrong user name or password for press-3" in state.detail
        assert "wrong-secret" not in f"{state} {link!r} {vars(link)['_config']!r}"


def test_a_missing_login_is_called_that(make_broker: Callable[..., Broker], make_link: MakeLink) -> None:
    broker = make_broker(users={"press-3": "right"})
    assert "mqtt.username" in ends_up(make_link(mqtt_config(broker)), "login_refused").detail


def test_the_right_password_comes_from_a_file_or_from_systemds_credentials(
    tmp_path: Path, make_broker: Callable[..., Broker], make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make_broker(users={"press-3": "right"})
    link = make_link(mqtt_config(broker, username="press-3", password_file=secret(tmp_path, "right")))
    ends_up(link, "online")
    (tmp_path / "credentials").mkdir()
    secret(tmp_path / "credentials", "right")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    link = make_link(
        mqtt_config(broker, username="press-3", password_file=secret(tmp_path, "wrong")), client_id="other"
    )
    ends_up(link, "online")


def test_a_missing_password_file_is_the_users_mistake(broker: Broker) -> None:
    config = MqttConfig.model_validate(mqtt_config(broker, username="press-3", password_file="/no/such/file"))
    with pytest.raises(ConfigError, match="/no/such/file"):
        MqttLink(config, "press-3", None, lambda: None)


def test_two_stations_of_one_name_are_found_out(broker: Broker, make_link: MakeLink) -> None:
    """They evict each other for ever; mosquitto does not tell them why."""
    first, second = make_link(mqtt_config(broker)), make_link(mqtt_config(broker))
    wait_until(
        lambda: (
            "another client seems to have taken over the client id press-3"
            in first.state().detail + second.state().detail
        )
    )


def test_tls_with_the_right_authority_connects(
    tmp_path: Path, make_broker: Callable[..., Broker], make_link: MakeLink
) -> None:
    tls = make_tls(tmp_path / "tls")
    broker = make_broker(tls=tls)
    ends_up(make_link(mqtt_config(broker, tls={"ca_file": str(tls.ca)})), "online")


def test_a_certificate_of_another_authority_is_refused(
    tmp_path: Path, make_broker: Callable[..., Broker], make_link: MakeLink
) -> None:
    broker = make_broker(tls=make_tls(tmp_path / "tls"))
    other = make_tls(tmp_path / "other")
    state = ends_up(make_link(mqtt_config(broker, tls={"ca_file": str(other.ca)})), "tls_failed")
    assert "certificate verify failed" in state.detail
    assert "mqtt.tls.ca_file" in state.detail


def test_a_certificate_for_another_name_is_refused(
    tmp_path: Path, make_broker: Callable[..., Broker], make_link: MakeLink
) -> None:
    tls = make_tls(tmp_path / "tls", name="broker.example")
    broker = make_broker(tls=tls)
    state = ends_up(make_link(mqtt_config(broker, tls={"ca_file": str(tls.ca)})), "tls_failed")
    assert "Hostname mismatch" in state.detail
    assert "mqtt.host" in state.detail


def test_tls_to_a_plain_port_is_named(tmp_path: Path, broker: Broker, make_link: MakeLink) -> None:
    tls = make_tls(tmp_path / "tls")
    state = ends_up(make_link(mqtt_config(broker, tls={"ca_file": str(tls.ca)})), "tls_failed")
    assert "TLS port" in state.detail


def test_plain_to_a_tls_port_is_named(tmp_path: Path, make_broker: Callable[..., Broker], make_link: MakeLink) -> None:
    broker = make_broker(tls=make_tls(tmp_path / "tls"))
    assert "without TLS" in ends_up(make_link(mqtt_config(broker)), "refused").detail


def test_a_client_certificate_that_is_wanted_and_missing_is_named(
    tmp_path: Path, make_broker: Callable[..., Broker], make_link: MakeLink
) -> None:
    tls = make_tls(tmp_path / "tls")
    broker = make_broker(tls=tls, options="require_certificate true")
    state = ends_up(make_link(mqtt_config(broker, tls={"ca_file": str(tls.ca)})), "refused")
    # The broker's alert, "certificate required", may be lost with the connection, so it is not what is looked for.
    assert "Does it want a client certificate (mqtt.tls.client_cert_file)?" in state.detail
    with_certificate = {"ca_file": str(tls.ca), "client_cert_file": str(tls.cert), "client_key_file": str(tls.key)}
    ends_up(make_link(mqtt_config(broker, tls=with_certificate)), "online")


def test_the_certificate_and_its_name_are_verified_whatever_the_configuration_says(tmp_path: Path) -> None:
    tls = make_tls(tmp_path / "tls")
    every = {"ca_file": str(tls.ca), "client_cert_file": str(tls.cert), "client_key_file": str(tls.key)}
    assert set(TlsConfig.model_fields) == set(every)  # there is no other key to write
    for fields in ({}, {"ca_file": str(tls.ca)}, every):
        context = tls_context(TlsConfig.model_validate(fields))
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    for key in ("insecure", "verify", "check_hostname", "tls_insecure"):
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            TlsConfig.model_validate({key: True})


def test_user_name_and_client_key_may_be_credentials_too(
    tmp_path: Path, make_broker: Callable[..., Broker], make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = make_tls(tmp_path / "tls")
    broker = make_broker(tls=tls, users={"press-3": "right"}, options="require_certificate true")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name, content in {"user": b"press-3\n", "word": b"right\n", "key.pem": tls.key.read_bytes()}.items():
        (credentials / name).write_bytes(content)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    files = {"ca_file": str(tls.ca), "client_cert_file": str(tls.cert), "client_key_file": "/nowhere/key.pem"}
    login = {"username_file": "/nowhere/user", "password_file": "/nowhere/word"}
    ends_up(make_link(mqtt_config(broker, tls=files, **login)), "online")


def test_a_user_has_one_name() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        MqttConfig.model_validate({"username": "press-3", "username_file": "user"})


@pytest.mark.parametrize("files", [{"ca_file": "/no/such/ca"}, {"client_cert_file": "/x", "client_key_file": "/y"}])
def test_a_certificate_file_that_cannot_be_used_is_the_users_mistake(files: dict[str, str]) -> None:
    config = MqttConfig.model_validate({"tls": files})
    assert config.tls is not None
    with pytest.raises(ConfigError, match=r"/no/such/ca|/x"):
        tls_context(config.tls)


def test_a_client_key_with_a_passphrase_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    needs("openssl")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-passout", "pass:abc", "-subj", "/CN=x"]
    subprocess.run([*command, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)
    config = TlsConfig.model_validate({"client_cert_file": tmp_path / "cert", "client_key_file": tmp_path / "key"})
    with pytest.raises(ConfigError, match="without a passphrase"):
        tls_context(config)


def test_a_broker_without_mqtt_5_is_named_with_the_remedy() -> None:
    pytest.importorskip("amqtt")
    from edge_ad.demo.broker import embedded_broker

    with embedded_broker() as port, pytest.raises(PublishError, match=r"set mqtt.protocol to '3\.1\.1'"):
        connect_once(MqttConfig(port=port))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x00",  # a CONNACK that is too short
        b"\x20\x03\x00\x00\xff\xff",  # and one whose properties are cut off
        b"\xff" * 64,
    ],
)
def test_whatever_answers_the_link_lives_on(answer: bytes, make_link: MakeLink) -> None:
    with talker(answer) as port:
        link = make_link({"port": port, "backoff_min_s": 0.05, "backoff_max_s": 0.1})
        assert "is it a broker" in ends_up(link, "refused").detail


CONNACK = b"\x20\x03\x00\x00\x00"
NOT_SUPPORTED = b"\xe0\x02\x9a\x00"  # DISCONNECT: Retain not supported


def test_a_broker_that_says_why_it_ends_the_connection_leaves_no_namesake_to_suspect(make_link: MakeLink) -> None:
    with talker(CONNACK + NOT_SUPPORTED) as port:
        link = make_link({"port": port, "backoff_min_s": 0.01, "backoff_max_s": 5.0})
        said, until_s = set[str](), time.monotonic() + 2.0  # some seven connections
        while time.monotonic() < until_s:
            said.add(ends_up(link, "lost").detail)
            time.sleep(0.01)
    assert len(said) == 1
    assert "Retain not supported" in said.pop()


def test_a_topic_that_is_no_utf_8_is_passed_over() -> None:
    """Not every broker refuses it; retained, it would come again on each connection."""
    heard: list[str] = []
    subscription = Subscription((("edge-ad/p/cmd/+", 1),), lambda message: heard.append(message.topic))
    link = MqttLink(MqttConfig(), "press-3", None, lambda: None, subscription)
    for topic in (b"edge-ad/p/cmd/\xff", b"edge-ad/p/cmd/status"):
        link._on_message(link._new_client(), None, MQTTMessage(topic=topic))
    assert heard == ["edge-ad/p/cmd/status"]


def test_a_broker_that_says_nothing_is_a_time_out(make_link: MakeLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = make_link({"port": silent.getsockname()[1], "keepalive_s": 5})
        assert "time-out" in ends_up(link, "refused").detail


class talker:  # noqa: N801 - used as a context manager
    """A server that answers every connection with the same bytes and hangs up."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._server.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            with peer:
                peer.recv(4096)
                peer.sendall(self._answer)


def test_a_publish_is_answered_under_its_ticket(broker: Broker, subscriber: Subscriber, make_link: MakeLink) -> None:
    link = make_link(mqtt_config(broker))
    ends_up(link, "online")
    ticket = link.publish(messages.Message("edge-ad/press-3/x", b"1", 1, retain=False))
    answers: list[Any] = []
    wait_until(lambda: answers.extend(link.acks()) or bool(answers))
    assert [(ack.ticket, ack.refusal) for ack in answers] == [(ticket, "")]
    subscriber.wait_for(lambda received: len(received) == 1, "/x")


def test_without_a_connection_a_publish_is_not_taken(make_link: MakeLink) -> None:
    link = make_link({"port": free_port()})
    assert link.publish(messages.Message("edge-ad/press-3/x", b"1", 1, retain=False)) is None


def test_the_brokers_limits_are_known(make_broker: Callable[..., Broker], make_link: MakeLink) -> None:
    broker = make_broker(options="max_inflight_messages 7\nmax_packet_size 5000")
    link = make_link(mqtt_config(broker))
    ends_up(link, "online")
    connection = link.connection()
    assert connection is not None
    assert (connection.receive_maximum, connection.max_packet) == (7, 5000)


@pytest.mark.parametrize(("farewell", "will"), [(True, []), (False, ["offline"])])
def test_the_last_will_speaks_only_without_a_farewell(
    broker: Broker, subscriber: Subscriber, make_link: MakeLink, farewell: bool, will: list[str]
) -> None:
    link = make_link(mqtt_config(broker))
    ends_up(link, "online")
    link.stop(farewell=farewell)
    wait_until(lambda: "press-3 disconnected" in broker.logged() or "press-3 closed" in broker.logged())
    subscriber.wait_for(lambda received: [message.payload for message in received] == will, "/status")


def test_each_connection_has_a_will_of_its_own_and_a_redial_lets_it_speak(
    make_broker: Callable[..., Broker], make_subscriber: Callable[..., Subscriber]
) -> None:
    """A will that no broker was told of serves the next try."""
    broker = make_broker()
    broker.stop()
    numbers = itertools.count()
    wills: list[Message] = []

    def will() -> Message:
        wills.append(Message("edge-ad/press-3/will", b"%d" % next(numbers), 1, retain=False))
        return wills[-1]

    link = MqttLink(MqttConfig.model_validate(mqtt_config(broker)), "press-3", will, lambda: None)
    link.start()
    ends_up(link, "unreachable")
    broker.start()
    subscriber = make_subscriber(broker)
    for number in range(3):
        wait_until(lambda number=number: (now := link.connection()) is not None and now.will is wills[number])
        link.redial()
        subscriber.wait_for(lambda said, number=number: [m.payload for m in said] == [*"012"][: number + 1], "/will")
    link.stop(farewell=True)
    assert link.failure() is None


def test_a_connection_is_there_once_its_subscription_is_accepted(broker: Broker) -> None:
    seen: list[bool] = []
    link: MqttLink

    def on_change() -> None:
        seen.append(link.connection() is not None)

    link = MqttLink(MqttConfig.model_validate(mqtt_config(broker)), "ear", None, on_change, hearing([]))
    link.start()
    ends_up(link, "online")
    assert seen == [True]
    link.stop(farewell=True)


def connect_once(config: MqttConfig) -> None:
    with Listener(config, "press-3-check", None):
        pass


def test_a_single_try_says_yes_or_why_not(broker: Broker) -> None:
    connect_once(MqttConfig.model_validate(mqtt_config(broker)))
    with pytest.raises(PublishError, match="connection refused"):
        connect_once(MqttConfig(port=free_port()))


def hearing(heard: list[Message], topic: str = "edge-ad/#", expiry_s: int = 0) -> Subscription:
    return Subscription(((topic, 1),), heard.append, expiry_s)


def said(*words: bytes) -> list[Message]:
    return [Message("edge-ad/press-3/x", word, 1, retain=False) for word in words]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_listener_hears_everything_from_its_start_on(broker: Broker, make_link: MakeLink, protocol: str) -> None:
    heard: list[Message] = []
    config = mqtt_config(broker, protocol=protocol)
    with Listener(MqttConfig.model_validate(config), "ear", hearing(heard)) as listener:
        link = make_link(config)
        ends_up(link, "online")
        link.publish(*said(b"1"))
        wait_until(lambda: heard == said(b"1"))
        assert listener.state().name == "online"


@pytest.mark.parametrize(("protocol", "expiry_s", "owed"), [("5", 60, [b"2"]), ("3.1.1", 60, [b"2"]), ("5", 0, [])])
def test_what_comes_while_a_listener_is_away_waits_for_it_if_it_wants(
    broker: Broker, make_link: MakeLink, protocol: str, expiry_s: int, owed: list[bytes]
) -> None:
    heard: list[Message] = []
    config = MqttConfig.model_validate(mqtt_config(broker, protocol=protocol))
    link = make_link(mqtt_config(broker))
    ends_up(link, "online")
    with Listener(config, "ear", hearing(heard, expiry_s=expiry_s)):
        link.publish(*said(b"1"))
        wait_until(lambda: heard == said(b"1"))
    link.publish(*said(b"2"))
    wait_until(lambda: bool(link.acks()))
    with Listener(config, "ear", hearing(heard, expiry_s=expiry_s)):
        link.publish(*said(b"3"))
        wait_until(lambda: heard == said(b"1", *owed, b"3"))


def test_a_listener_subscribes_again_at_a_broker_that_has_forgotten_it(broker: Broker, make_link: MakeLink) -> None:
    heard: list[Message] = []
    with Listener(MqttConfig.model_validate(mqtt_config(broker)), "ear", hearing(heard)) as listener:
        broker.kill()
        wait_until(lambda: listener.state().name != "online")
        broker.start()
        wait_until(lambda: listener.state().name == "online")
        link = make_link(mqtt_config(broker))
        ends_up(link, "online")
        link.publish(*said(b"1"))
        wait_until(lambda: heard == said(b"1"))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_subscription_that_the_broker_denies_is_called_that(
    tmp_path: Path, make_broker: Callable[..., Broker], protocol: str
) -> None:
    plugins = sorted(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    if not plugins:
        pytest.skip("mosquitto's dynamic security plugin is not installed")
    (tmp_path / "security.json").write_text('{"defaultACLAccess": {"subscribe": false}}')
    broker = make_broker(options=f"plugin {plugins[0]}\nplugin_opt_config_file {tmp_path / 'security.json'}")
    denied = Listener(MqttConfig.model_validate(mqtt_config(broker, protocol=protocol)), "ear", hearing([]))
    with pytest.raises(PublishError, match="does not let us subscribe"), denied:
        pass


def test_a_listener_without_a_broker_says_so() -> None:
    listener = Listener(MqttConfig(port=free_port()), "ear", hearing([]))
    with pytest.raises(PublishError, match="connection refused"), listener:
        pass


def test_what_a_listener_is_told_to_do_and_cannot_ends_it(broker: Broker, make_link: MakeLink) -> None:
    def fail(message: Message) -> None:
        raise RuntimeError(message.topic)

    link = make_link(mqtt_config(broker))
    ends_up(link, "online")
    config = MqttConfig.model_validate(mqtt_config(broker))
    with Listener(config, "ear", Subscription((("edge-ad/#", 1),), fail)) as listener:
        link.publish(*said(b"1"))
        wait_until(lambda: listener._link.failure() is not None)
        with pytest.raises(RuntimeError, match="edge-ad/press-3/x"):
            listener.state()
