"""Facts of the CUDA device, and the one context that everybody in the process shares.

pycuda is imported on use: without it, without a driver or without a GPU the station runs on the CPU, and `doctor` says
why. `pycuda.autoinit` is never used: it makes a second context, in which torch's and TensorRT's memory is invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edge_ad.errors import BackendError, first_line

MEMORY_STEP = 4 << 30  # bytes
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h, for which pycuda has no name


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a CUDA device is.

    Attributes:
        name: as the driver calls it.
        compute_capability: (major, minor); (8, 7) on Orin.
        memory_bytes: total; shared with the CPU where `integrated`.
        driver_version: the newest CUDA version that the driver supports, "12.6".
        integrated: GPU and CPU share their memory (Jetson).
        can_map_host_memory: page-locked host memory can be read by the GPU in place.
        multiprocessors: how many; they tell modules apart that share name and architecture, as all of Orin do.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    driver_version: str
    integrated: bool
    can_map_host_memory: bool
    multiprocessors: int

    @property
    def sm(self) -> str:
        """The architecture as the compilers write it, "sm_87"."""
        return "sm_{}{}".format(*self.compute_capability)

    @property
    def memory_gib(self) -> int:
        """The memory that the device is sold with, to the next 4 GiB: firmware and system keep parts of it."""
        return -(-self.memory_bytes // MEMORY_STEP) * (MEMORY_STEP >> 30)

    @property
    def zero_copy(self) -> bool:
        """Whether the GPU should read host memory in place: where both are one memory a copy only costs time."""
        return self.integrated and self.can_map_host_memory

    def __str__(self) -> str:
        kind = "integrated" if self.integrated else "discrete"
        gib = self.memory_bytes / 2**30
        parts = f"{self.multiprocessors} multiprocessors, {gib:.1f} GiB"
        return f"{self.name}, {self.sm}, {parts}, {kind}, driver for CUDA {self.driver_version}"


class PrimaryContext:
    """The device's primary context: torch's runtime, TensorRT and pycuda all work in this one.

    Attributes:
        driver: pycuda's driver module.
        facts: of the device.
    """

    def __init__(self, ordinal: int = 0) -> None:
        """Retain the context of device `ordinal`.

        Raises:
            BackendError: there is no such device, as `load_driver`; or it has no room for a context.
        """
        self.driver = load_driver()
        self.facts = device_facts(ordinal)
        try:
            self._context = self.driver.Device(ordinal).retain_primary_context()
        except self.driver.Error as error:
            raise BackendError(f"no context on {self.facts.name}: {first_line(error)}") from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in the calling thread for the block; contexts belong to threads."""
        self._context.push()
        try:
            yield
        finally:
            self.driver.Context.pop()

    def stream(self) -> Any:
        """A new stream that does not wait for the default one; the context must be current."""
        return self.driver.Stream(NON_BLOCKING)

    def close(self) -> None:
        """Give the context back; it lives on while torch uses it."""
        self._context.detach()


def load_driver() -> ModuleType:
    """Import and initialise pycuda's driver module.

    Raises:
        BackendError: "no CUDA: <reason>": pycuda or the driver is not installed, or there is no device.
    """
    try:
        import pycuda.driver as driver

        driver.init()
        count = driver.Device.count()
    except ModuleNotFoundError as error:
        raise BackendError(f"no CUDA: {first_line(error)}: pip install pycuda (docs/jetson.md)") from error
    except Exception as error:  # ImportError without libcuda.so.1; pycuda's own errors without a device
        raise BackendError(f"no CUDA: {first_line(error)}") from error
    if count == 0:
        raise BackendError("no CUDA: the driver sees no device")
    return driver  # type: ignore[no-any-return]  # pycuda has no types


def device_facts(ordinal: int = 0) -> DeviceFacts:
    """The facts of a device; needs no context.

    Raises:
        BackendError: there is no such device, as `load_driver`.
    """
    driver = load_driver()
    try:
        device = driver.Device(ordinal)
        flags = driver.device_attribute
        return DeviceFacts(
            name=device.name(),
            compute_capability=device.compute_capability(),
            memory_bytes=device.total_memory(),
            driver_version=cuda_version(driver.get_driver_version()),
            integrated=bool(device.get_attribute(flags.INTEGRATED)),
            can_map_host_memory=bool(device.get_attribute(flags.CAN_MAP_HOST_MEMORY)),
            multiprocessors=device.get_attribute(flags.MULTIPROCESSOR_COUNT),
        )
    except driver.Error as error:
        raise BackendError(f"no CUDA: device {ordinal}: {first_line(error)}") from error


def describe(ordinal: int = 0) -> str:
    """One line for `doctor`: the device, or "no CUDA: <reason>"."""
    try:
        return str(device_facts(ordinal))
    except BackendError as error:
        return str(error)


def cuda_version(number: int) -> str:
    """The driver's number as people write it: 12060 is "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"
