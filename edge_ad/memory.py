"""Memory that was freed, given back to the system.

The C library keeps what was freed for later. A daemon needs most of its memory for a moment, while it reads and checks
a bundle and an engine packs its weights; on a board the rest belongs to others.
"""

from __future__ import annotations

import ctypes


def give_back_freed() -> None:
    """Return freed memory to the system; with a C library that cannot (not glibc), nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
