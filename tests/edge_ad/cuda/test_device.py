"""Rules of the CUDA facts: nothing is imported before it is used, and what is missing is one line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_ad.cuda import device
from edge_ad.cuda.device import DeviceFacts, PrimaryContext, cuda_version, describe, device_facts
from edge_ad.errors import BackendError

PACKAGE = Path(__file__).parents[3] / "edge_ad"
ORIN = DeviceFacts("Orin", (8, 7), 8 << 30, "12.6", integrated=True, can_map_host_memory=True, multiprocessors=8)


@pytest.fixture
def context(any_gpu: None) -> Iterator[PrimaryContext]:
    made = PrimaryContext()
    yield made
    made.close()


def test_importing_the_package_imports_no_pycuda() -> None:
    code = "import sys, edge_ad.cuda.buffers; sys.exit('pycuda' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_pycuda_the_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendError, match=r"^no CUDA: .*pycuda.*pip install pycuda"):
        device_facts()
    assert describe().startswith("no CUDA: ")
    assert "\n" not in describe()


def test_no_second_context_is_ever_made() -> None:
    """pycuda.autoinit and make_context would: torch's and TensorRT's memory is invalid in another context."""
    for path in PACKAGE.rglob("*.py"):
        names = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not any("autoinit" in ast.dump(node) for node in names), path
        assert "make_context" not in path.read_text(), path


@pytest.mark.parametrize(("number", "text"), [(12060, "12.6"), (13000, "13.0"), (11040, "11.4"), (13021, "13.2")])
def test_the_drivers_number_is_written_as_people_do(number: int, text: str) -> None:
    assert cuda_version(number) == text


def test_memory_is_shared_only_where_gpu_and_cpu_have_one_memory() -> None:
    discrete = DeviceFacts(
        "H200", (9, 0), 1 << 37, "13.0", integrated=False, can_map_host_memory=True, multiprocessors=132
    )
    unmapped = replace(ORIN, can_map_host_memory=False)
    assert (ORIN.zero_copy, discrete.zero_copy, unmapped.zero_copy) == (True, False, False)


def test_the_facts_read_as_one_line() -> None:
    assert str(ORIN) == "Orin, sm_87, 8 multiprocessors, 8.0 GiB, integrated, driver for CUDA 12.6"


@pytest.mark.parametrize(
    ("mib", "gib"),
    [(3432, 4), (7620, 8), (7619, 8), (15656, 16), (30698, 32), (30721, 32), (62799, 64), (8192, 8), (24210, 24)],
)
def test_the_memory_of_a_module_does_not_depend_on_what_the_system_keeps_of_it(mib: int, gib: int) -> None:
    assert replace(ORIN, memory_bytes=mib << 20).memory_gib == gib


class Driver:
    """In place of pycuda's driver: a device as the driver describes it, without room for a context."""

    class Error(Exception):
        pass

    device_attribute = SimpleNamespace(INTEGRATED=18, CAN_MAP_HOST_MEMORY=19, MULTIPROCESSOR_COUNT=16)

    def __init__(self, ordinal: int = 0) -> None:
        self.Device = lambda ordinal: self
        self.name = lambda: "Orin"
        self.compute_capability = lambda: (8, 7)
        self.total_memory = lambda: 7620 << 20
        self.get_driver_version = lambda: 12060

    def get_attribute(self, attribute: int) -> int:
        return 14 if attribute == 16 else 1

    def retain_primary_context(self) -> Any:
        raise self.Error("cuDevicePrimaryCtxRetain failed: out of memory\nand more")


def test_the_facts_are_those_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "load_driver", Driver)
    assert device_facts() == replace(ORIN, memory_bytes=7620 << 20, multiprocessors=14)


def test_no_room_for_a_context_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "load_driver", Driver)
    with pytest.raises(BackendError, match=r"^no context on Orin: cuDevicePrimaryCtxRetain failed: out of memory$"):
        PrimaryContext()


def test_a_device_that_is_not_there_is_named(context: PrimaryContext) -> None:
    with pytest.raises(BackendError, match="no CUDA: device 99"):
        device_facts(99)
    assert describe() == str(context.facts)


def test_the_primary_context_can_be_used_from_any_block_and_leaves_none_behind(context: PrimaryContext) -> None:
    for _ in range(2):
        with context.current():
            assert context.driver.Context.get_device().name() == context.facts.name
