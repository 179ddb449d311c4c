"""Arrays that the CPU and the GPU both see: page-locked host memory, mapped or with a copy on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edge_ad.cuda.device import PrimaryContext


class Buffer:
    """One array in page-locked host memory, and where the GPU finds it.

    On a board whose GPU shares the CPU's memory the pages are mapped and nothing is ever copied; elsewhere `upload`
    and `download` queue asynchronous copies on a stream. All methods want the context to be current. Touch `host` only
    while no queued work uses it.

    Attributes:
        host: the page-locked array, of the shape and type asked for.
        mapped: whether the GPU works on `host` in place.
        pointer: the array's address on the GPU.
    """

    def __init__(self, context: PrimaryContext, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> None:
        """Allocate in the shared context."""
        driver = self._driver = context.driver
        self.mapped = context.facts.zero_copy
        flags = driver.host_alloc_flags.DEVICEMAP if self.mapped else 0
        self.host: Any = driver.pagelocked_empty(shape, dtype, mem_flags=flags)  # Any: pycuda has no types
        self._device: Any = None if self.mapped else driver.mem_alloc(self.host.nbytes)
        address: Any = self.host.base.get_device_pointer() if self.mapped else self._device
        self.pointer = int(address)

    def upload(self, stream: Any) -> None:
        """Queue the copy of `host` to the GPU; nothing to do where it is mapped."""
        if self._device is not None:
            self._driver.memcpy_htod_async(self._device, self.host, stream)

    def download(self, stream: Any) -> None:
        """Queue the copy from the GPU to `host`; nothing to do where it is mapped."""
        if self._device is not None:
            self._driver.memcpy_dtoh_async(self.host, self._device, stream)

    def close(self) -> None:
        """Free both sides; nobody may hold `host` any longer."""
        if self._device is not None:
            self._device.free()
        allocation, self.host = self.host.base, None
        allocation.free()
