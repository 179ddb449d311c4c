"""Rules of the buffers: what is written on the host is what the GPU reads, copied or in place, and back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edge_ad.cuda.buffers import Buffer
from edge_ad.cuda.device import PrimaryContext

SHAPE = (1, 6, 5, 3)


@pytest.fixture
def context(any_gpu: None) -> Iterator[PrimaryContext]:
    made = PrimaryContext()
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["mapped", "copied"])
def buffer(context: PrimaryContext, request: pytest.FixtureRequest) -> Iterator[Buffer]:
    if request.param and not context.facts.can_map_host_memory:
        pytest.skip(f"{context.facts.name} cannot map host memory")
    context.facts = replace(context.facts, integrated=request.param)
    with context.current():
        made = Buffer(context, SHAPE)
        assert made.mapped == request.param
        yield made
        made.close()


def read_gpu(context: PrimaryContext, buffer: Buffer) -> np.ndarray:
    """What a kernel would see."""
    found = np.empty(SHAPE, np.uint8)
    context.driver.memcpy_dtoh(found, buffer.pointer)
    return found


def test_the_gpu_reads_what_the_host_wrote(context: PrimaryContext, buffer: Buffer) -> None:
    stream = context.stream()
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)
        np.copyto(buffer.host, image)
        buffer.upload(stream)
        stream.synchronize()
        np.testing.assert_array_equal(read_gpu(context, buffer), image)


def test_the_host_reads_what_the_gpu_wrote(context: PrimaryContext, buffer: Buffer) -> None:
    image = np.random.default_rng(4).integers(0, 256, SHAPE, dtype=np.uint8)
    context.driver.memcpy_htod(buffer.pointer, image)
    stream = context.stream()
    buffer.download(stream)
    stream.synchronize()
    np.testing.assert_array_equal(buffer.host, image)


def test_a_buffer_made_in_one_thread_works_in_another(context: PrimaryContext, buffer: Buffer) -> None:
    """The daemon may load its engine in one thread and run it in another."""
    found: list[np.ndarray] = []

    def work() -> None:
        with context.current():
            stream = context.stream()
            buffer.host[...] = 9
            buffer.upload(stream)
            stream.synchronize()
            found.append(read_gpu(context, buffer))
            del stream  # while its context is current

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (found[0] == 9).all()


def test_a_stream_is_none_of_the_default_ones(context: PrimaryContext) -> None:
    with context.current():
        assert int(context.stream().handle) not in (0, 1, 2)
