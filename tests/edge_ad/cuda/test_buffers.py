"""Rules of the frame buffer: what is written on the host is what the GPU reads, copied or in place.

Needs pycuda and a GPU or a fake driver; is skipped with the reason elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.cuda.buffers import FrameBuffer
from edge_ad.cuda.device import PrimaryContext
from edge_ad.errors import BackendError

SHAPE = (1, 6, 5, 3)


@pytest.fixture(params=[True, False], ids=["mapped", "copied"])
def buffer(request: pytest.FixtureRequest) -> Iterator[FrameBuffer]:
    try:
        context = PrimaryContext()
    except BackendError as error:
        pytest.skip(str(error))
    if request.param and not context.facts.can_map_host_memory:
        pytest.skip(f"{context.facts.name} cannot map host memory")
    context.facts = replace(context.facts, integrated=request.param)
    made = FrameBuffer(context, SHAPE)
    assert made.mapped == request.param
    yield made
    made.close()
    context.close()


def read_gpu(buffer: FrameBuffer) -> NDArray[np.uint8]:
    """What a kernel would see."""
    view = buffer.__cuda_array_interface__
    found = np.empty(view["shape"], np.uint8)  # type: ignore[call-overload]
    with buffer._context.current():
        buffer._context.driver.memcpy_dtoh(found, view["data"][0])  # type: ignore[index]
    return found


def test_the_gpu_reads_what_the_host_wrote(buffer: FrameBuffer) -> None:
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)
        np.copyto(buffer.host, image)
        buffer.upload()
        buffer.wait()
        np.testing.assert_array_equal(read_gpu(buffer), image)


def test_a_buffer_made_in_one_thread_works_in_another(buffer: FrameBuffer) -> None:
    """The daemon loads its engine in one thread and runs it in another."""
    found: list[NDArray[np.uint8]] = []

    def work() -> None:
        buffer.host[...] = 9
        buffer.upload()
        buffer.wait()
        found.append(read_gpu(buffer))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (found[0] == 9).all()


def test_the_stream_is_its_own(buffer: FrameBuffer) -> None:
    assert buffer.stream_handle not in (0, 1, 2)  # the default streams
