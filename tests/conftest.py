"""Fixtures that several packages' tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from edge_ad.cuda.device import load_driver
from edge_ad.errors import BackendError
from tests.broker import Broker, Subscriber
from tests.fake_gpu import FakeGpu, pretend

# No deadline for an example: a test says what holds, never how fast this machine happens to be.
hypothesis.settings.register_profile("edge-ad", deadline=None)
hypothesis.settings.load_profile("edge-ad")

# The device side is tested without torch too; then what needs it is left out, and the header says so.
NEED_TORCH = [
    "trainer",
    "edge_ad/engines/test_torch_tensorrt.py",
    "edge_ad/engines/test_refused_programs.py",
    "edge_ad/engines/test_quantised_program.py",
]
collect_ignore = NEED_TORCH if importlib.util.find_spec("torch") is None else []


def pytest_report_header() -> list[str]:
    return [f"torch is not installed, left out: {', '.join(NEED_TORCH)}"] if collect_ignore else []


@pytest.fixture(scope="session", autouse=True)
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What engines keep for the next start does not come from, or go to, whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("xdg_state")))
        yield


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts brokers (arguments as `Broker`, less the folder); all are gone at the end of the test."""
    brokers: list[Broker] = []

    def make(**arguments: object) -> Broker:
        brokers.append(Broker(tmp_path / f"broker{len(brokers)}", **arguments))  # type: ignore[arg-type]
        brokers[-1].start()
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.kill()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    """A broker that lets everybody in."""
    return make_broker()


@pytest.fixture
def make_subscriber(tmp_path: Path) -> Iterator[Callable[..., Subscriber]]:
    """Starts subscribers to `edge-ad/#` (broker, then as `Subscriber`); all are gone at the end of the test."""
    subscribers: list[Subscriber] = []

    def make(broker: Broker, user: tuple[str, str] | None = None) -> Subscriber:
        subscribers.append(Subscriber(broker, tmp_path / f"subscriber{len(subscribers)}", user))
        return subscribers[-1]

    yield make
    for subscriber in subscribers:
        subscriber.close()


@pytest.fixture
def subscriber(broker: Broker, make_subscriber: Callable[..., Subscriber]) -> Subscriber:
    """Hears all that is published at `broker`."""
    return make_subscriber(broker)


@pytest.fixture(scope="session")
def fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGpu]:
    """A pretended GPU, where one can be had (tests/fake_gpu); the test is skipped with the reason elsewhere."""
    yield from pretend(tmp_path_factory.mktemp("fake_gpu"))


@pytest.fixture(scope="session")
def any_gpu(request: pytest.FixtureRequest) -> None:
    """The real one, else the pretended one."""
    try:
        load_driver()
    except BackendError:
        request.getfixturevalue("fake_gpu")
