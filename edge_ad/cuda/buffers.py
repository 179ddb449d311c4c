"""An image's way to the GPU: page-locked memory that preprocessing writes into, a stream, and the GPU's view of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_ad.cuda.device import PrimaryContext

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h, for which pycuda has no name


class FrameBuffer:
    """One uint8 image in page-locked host memory, and where the GPU finds it.

    On a board whose GPU shares the CPU's memory the pages are mapped and nothing is copied; elsewhere `upload` queues
    an asynchronous copy on the buffer's own stream. Write into `host` only when the work that reads the last image
    is done: `wait`, or whatever else waits for that stream.

    Attributes:
        host: the page-locked array, of the shape asked for.
        mapped: whether the GPU reads `host` in place.
        stream_handle: the CUstream, for `torch.cuda.ExternalStream`; it does not wait for the default stream.
    """

    def __init__(self, context: PrimaryContext, shape: tuple[int, ...]) -> None:
        """Allocate for images of `shape` in the shared context."""
        driver = context.driver
        self.mapped = context.facts.zero_copy
        self._context = context
        with context.current():
            flags = driver.host_alloc_flags.DEVICEMAP if self.mapped else 0
            self.host: Any = driver.pagelocked_empty(shape, np.uint8, mem_flags=flags)
            self._stream = driver.Stream(NON_BLOCKING)
            # Any: pycuda has no types
            self._device: Any = None if self.mapped else driver.mem_alloc(self.host.nbytes)
            source: Any = self.host.base.get_device_pointer() if self.mapped else self._device
            self._pointer = int(source)
        self.stream_handle = int(self._stream.handle)

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """The GPU's view: `torch.as_tensor(buffer, device="cuda")` shares the memory."""
        return {"shape": self.host.shape, "typestr": "|u1", "data": (self._pointer, False), "version": 3}

    def upload(self) -> None:
        """Queue the copy of `host` to the GPU on the buffer's stream; nothing to do where it is mapped."""
        if self._device is not None:
            with self._context.current():
                self._context.driver.memcpy_htod_async(self._device, self.host, self._stream)

    def wait(self) -> None:
        """Wait until everything queued on the stream is done."""
        with self._context.current():
            self._stream.synchronize()

    def close(self) -> None:
        """Free the GPU's memory; the page-locked memory goes with the last reference to `host`."""
        self.wait()
        if self._device is not None:
            with self._context.current():
                self._device.free()
