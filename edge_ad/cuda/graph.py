"""CUDA graphs: work that is queued once and launched many times, for the price of one launch.

pycuda has no names for them, so the driver is called by ctypes: five functions of cuda.h, the same since CUDA 11.4.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from loguru import logger

from edge_ad.cuda.device import load_driver
from edge_ad.errors import BackendError

DRIVER = "libcuda.so.1"
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do with the GPU is their own business


class Work:
    """What is queued on a stream for each frame: as a CUDA graph where it can be recorded, else step by step."""

    def __init__(self, stream: Any, queue: Callable[[], None]) -> None:
        """Run `queue` once, for what sets itself up on its first run cannot be recorded before; then record it."""
        self._queue = queue
        self._graph: CudaGraph | None = None
        queue()
        stream.synchronize()
        try:
            self._graph = CudaGraph(int(stream.handle), queue)
        except (BackendError, load_driver().Error) as error:  # the same work, at some hundredths of a millisecond more
            logger.warning("no CUDA graph, every step is queued by itself: {}", error)

    def launch(self) -> None:
        """Queue it.

        Raises:
            BackendError: the driver or a step refused.
        """
        if self._graph is None:
            self._queue()
        else:
            self._graph.launch()

    def close(self) -> None:
        """Free the recording; nothing of it may be running."""
        if self._graph is not None:
            self._graph.close()


class CudaGraph:
    """A recording of what was queued on a stream; all methods want the context to be current."""

    def __init__(self, stream: int, queue: Callable[[], None]) -> None:
        """Record what `queue` queues on `stream` (a CUstream); nothing of it runs yet.

        Raises:
            BackendError: something of it cannot be recorded.
            pycuda.driver.Error: the same, found by a step of `queue` itself.
        """
        self._driver = ctypes.CDLL(DRIVER)
        self._stream = ctypes.c_void_p(stream)
        self._graph = ctypes.c_void_p()
        self._executable = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, THREAD_LOCAL)
        try:
            queue()
        finally:  # also after an error the stream must leave the recording, or it is of no use any more
            ended = self._driver.cuStreamEndCapture(self._stream, ctypes.byref(self._graph))
        _refuse("cuStreamEndCapture", ended)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), self._graph, ctypes.c_ulonglong(0))

    def launch(self) -> None:
        """Queue the recorded work on the stream that it was recorded on.

        Raises:
            BackendError: the driver refused.
        """
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the recording; none of it may be running."""
        self._call("cuGraphExecDestroy", self._executable)
        self._call("cuGraphDestroy", self._graph)

    def _call(self, name: str, *arguments: object) -> None:
        _refuse(name, self._driver[name](*arguments))


def _refuse(name: str, result: int) -> None:
    if result != 0:
        raise BackendError(f"the CUDA driver refused {name}: error {result}")
