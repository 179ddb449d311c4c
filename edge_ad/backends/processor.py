"""What this machine's processor computes, as far as engines on it differ."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "AMD64", "i686")
# As Linux names them. VNNI sums products of 8 bits in 32 bits; so does AMX.
_WHOLE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def sums_int8_whole() -> bool:
    """Whether sums of INT8 products come out whole here.

    An x86 processor without VNNI adds two products at a time in 16 bits, which cuts off what is larger: engines then
    give other outputs than the graph says. ARM's instructions add in 32 bits.
    """
    if platform.machine() not in _X86:
        return True
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux: nothing is known, and the golden outputs have the last word
        return True
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), [])
    return not _WHOLE_SUMS.isdisjoint(flags)
