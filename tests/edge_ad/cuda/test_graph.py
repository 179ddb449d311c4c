"""Rules of recorded work: it runs when launched, as often as launched; what cannot be recorded runs step by step."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from edge_ad.cuda import graph as module
from edge_ad.cuda.buffers import Buffer
from edge_ad.cuda.device import PrimaryContext
from edge_ad.cuda.graph import CudaGraph, Work
from edge_ad.errors import BackendError
from tests.fake_gpu import FakeGpu


@pytest.fixture
def context(any_gpu: None) -> Iterator[PrimaryContext]:
    made = PrimaryContext()
    made.facts = replace(made.facts, integrated=False)  # so that there is a copy to record
    with made.current():
        yield made
    made.close()


def test_what_is_recorded_runs_at_each_launch_and_not_before(context: PrimaryContext) -> None:
    stream, buffer = context.stream(), Buffer(context, (4,))
    buffer.host[...] = 1
    buffer.upload(stream)
    stream.synchronize()
    buffer.host[...] = 0
    graph = CudaGraph(int(stream.handle), lambda: buffer.download(stream))
    assert buffer.host.tolist() == [0, 0, 0, 0]
    for _ in range(2):
        buffer.host[...] = 0
        graph.launch()
        stream.synchronize()
        assert buffer.host.tolist() == [1, 1, 1, 1]
    graph.close()
    buffer.close()


def test_an_error_while_recording_leaves_the_stream_usable(context: PrimaryContext) -> None:
    stream, buffer = context.stream(), Buffer(context, (4,))

    def fails() -> None:
        raise BackendError("the engine refused")

    with pytest.raises(BackendError, match="the engine refused"):
        CudaGraph(int(stream.handle), fails)
    buffer.host[...] = 3
    buffer.upload(stream)
    stream.synchronize()
    buffer.close()


def test_what_cannot_be_recorded_runs_step_by_step(context: PrimaryContext, fake_gpu: FakeGpu) -> None:
    stream, calls = context.stream(), []
    fake_gpu.driver.fake_refuse_capture(1)
    try:
        work = Work(stream, lambda: calls.append(1))
        work.launch()
    finally:
        fake_gpu.driver.fake_refuse_capture(0)
    assert calls == [1, 1]  # the first run, and the launch
    work.close()


class PycudaError(Exception):
    pass


@pytest.mark.parametrize("error", [BackendError, PycudaError])
def test_a_step_that_refuses_to_be_recorded_runs_step_by_step(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A copy that is queued after the recording has become invalid is refused by pycuda itself."""
    calls: list[str] = []
    recording = False

    def queue() -> None:
        if recording:
            raise error("cuMemcpyDtoHAsync failed: operation failed due to a previous error during capture")
        calls.append("queued")

    def call(result: bool) -> Any:
        def of_driver(*_: object) -> int:
            nonlocal recording
            recording = result
            return 0

        return of_driver

    driver = {"cuStreamBeginCapture_v2": call(True), "cuStreamEndCapture": call(False)}
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Functions(driver))
    monkeypatch.setattr(module, "load_driver", lambda: SimpleNamespace(Error=PycudaError))
    work = Work(SimpleNamespace(handle=1, synchronize=lambda: None), queue)
    work.launch()
    assert calls == ["queued", "queued"]  # the first run, and the launch
    assert not recording


class Functions(dict[str, Any]):
    """A library's functions, by name and as attributes, as ctypes gives them."""

    __getattr__ = dict.__getitem__
