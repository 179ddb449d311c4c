"""A pretended GPU for tests: a CUDA driver in driver.cpp, under the real pycuda, and a TensorRT in site/tensorrt.py.

What runs for real: pycuda, page-locked buffers and their addresses, the launch of our kernels with their arguments,
their arithmetic, CUDA graphs as far as order and addresses go. What does not: speed, memory limits, TensorRT.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad import cuda

HERE = Path(__file__).parent
SITE = HERE / "site"
CUDA_SOURCES = Path(cuda.__file__).parent
HEADERS = Path("/usr/local/cuda/include")
COMPILE = ["g++", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-I", str(CUDA_SOURCES)]


def missing() -> str | None:
    """Why there can be no pretended GPU here, or None."""
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed (make engines builds it)"
    if shutil.which("g++") is None or not (HEADERS / "cuda.h").exists():
        return "the pretended GPU needs g++ and CUDA's headers"
    if Path("/dev/nvidiactl").exists() or Path("/dev/nvmap").exists():
        return "there is a real GPU here"
    return None


def refusing(defined: str) -> str:
    """C for every function of CUDA's headers that driver.cpp leaves out: pycuda will not load without them."""
    headers = "#include <cuda.h>\n#include <cudaProfiler.h>\n"
    command = ["gcc", "-E", "-I", str(HEADERS), "-x", "c", "-"]
    text = subprocess.run(command, input=headers, capture_output=True, text=True, check=True).stdout
    declared = set(re.findall(r"\b(cu[A-Z]\w*)\s*\(", text))
    return "".join(
        f'extern "C" int {name}() {{ return 801; }}\n' for name in sorted(declared) if f" {name}(" not in defined
    )


def build(folder: Path) -> Path:
    """Compile the driver."""
    source = (HERE / "driver.cpp").read_text(encoding="utf-8")
    whole = folder / "driver.cpp"
    whole.write_text(source + refusing(source), encoding="utf-8")
    library = folder / "libcuda.so.1"
    subprocess.run([*COMPILE, "-o", str(library), str(whole)], check=True)
    return library


class FakeGpu:
    """The driver of this process; `environment` makes it that of a child."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self.driver = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self.driver.fake_live.restype = self.driver.fake_captures.restype = ctypes.c_long

    def live(self) -> int:
        """Allocations, streams, modules and graphs that nobody has freed."""
        return int(self.driver.fake_live())

    def captures(self) -> int:
        """CUDA graphs that were begun so far."""
        return int(self.driver.fake_captures())

    def environment(self) -> dict[str, str]:
        paths = [str(SITE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        return {"LD_PRELOAD": str(self._library), "PYTHONPATH": os.pathsep.join(paths).rstrip(os.pathsep)}


def pretend(folder: Path) -> Iterator[FakeGpu]:
    """The body of a fixture for a whole session: the driver once loaded stays."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    gpu = FakeGpu(build(folder))
    sys.path.insert(0, str(SITE))
    yield gpu
    sys.path.remove(str(SITE))
    sys.modules.pop("tensorrt", None)
