"""Whether the wall clock can be believed: a station without a network, or without a battery, does not know the time."""

from __future__ import annotations

import ctypes

UNSYNCHRONISED_US = 16_000_000  # the kernel's NTP_PHASE_LIMIT: the error of a clock that nobody keeps right


class _Timex(ctypes.Structure):
    """The beginning of `struct timex` of adjtimex(2), and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),  # 0: nothing is to be changed, which needs no privilege
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),  # microseconds
        ("rest", ctypes.c_byte * 512),
    )


def clock_synchronised() -> bool | None:
    """Whether the system clock follows a time server, by the rule of `timedatectl`; None where nobody tells us.

    That rule is the kernel's estimate of the largest error; its flag STA_UNSYNC may be set for other reasons.
    """
    timex = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:  # a sandbox that forbids the system call
        return None
    return bool(timex.maxerror < UNSYNCHRONISED_US)
