"""What this machine's processor computes, as far as engines on it differ."""

from __future__ import annotations

import platform
import re
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "i686")
# As Linux names them. VNNI sums products of 8 bits in 32 bits; so does AMX.
_WHOLE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def name() -> str | None:
    """The processor's name; ARM kernels do not tell it."""
    return _told("model name")


def sums_int8_whole() -> bool:
    """Whether sums of INT8 products come out whole here.

    An x86 processor without VNNI adds two products at a time in 16 bits, which cuts off what is larger: engines then
    give other outputs than the graph says. ARM's instructions add in 32 bits. Where nothing is known of the processor,
    the golden outputs have the last word.
    """
    flags = _told("flags")
    return platform.machine() not in _X86 or flags is None or not _WHOLE_SUMS.isdisjoint(flags.split())


def _told(field: str) -> str | None:
    """What Linux says of the first core; None where it does not."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system
        return None
    found = re.search(rf"^{field}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else None
