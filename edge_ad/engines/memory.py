"""How much memory a build may take. Pure, but for the reading of /proc/meminfo.

A builder needs far more than the engine that it makes, and on a Jetson it shares the RAM with the desktop, the daemon
and the page cache. Where too little is free, the kernel kills the build, or worse, something else.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge_ad.engines.key import Builder

MIB = 1 << 20
GIB = 1 << 30
# What a build of the edge profile may take beside its workspace: CUDA's and TensorRT's own libraries and kernels; with
# Torch-TensorRT, torch and a second copy of the weights. An estimate until measured on a board: docs/jetson.md.
NEEDED = {"tensorrt": 3 * GIB // 2, "torch_tensorrt": 7 * GIB // 2}
WORKSPACE_LEAST, WORKSPACE_MOST = 128 * MIB, 1024 * MIB
_STOP_FIRST = "stop the daemon and the desktop first (sudo systemctl stop edge-ad; sudo systemctl isolate multi-user)"


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What the kernel thinks can be had without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(encoding="ascii"), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def workspace_bytes(available: int) -> int:
    """The scratch memory that TensorRT may give to one kernel: a quarter of what is free, within limits.

    Networks of this size use a few tens of MiB; a limit keeps the builder from *trying* kernels that want GiBs.
    """
    return min(max(available // 4, WORKSPACE_LEAST), WORKSPACE_MOST)


def warning(available: int, builder: Builder, *, integrated: bool) -> str | None:
    """What to do first where RAM and GPU memory are one and little of it is free; None where there is enough."""
    needed = NEEDED[builder]
    if not integrated or available >= needed:
        return None
    return f"{available / GIB:.1f} GiB are free, a build with {builder} may take {needed / GIB:.1f} GiB: {_STOP_FIRST}"
