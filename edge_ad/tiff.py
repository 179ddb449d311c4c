"""What the first directory of a TIFF file says, which OpenCV keeps to itself (TIFF 6.0, section 2, and BigTIFF)."""

from __future__ import annotations

import struct
from collections.abc import Collection

BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PHOTOMETRIC, EXTRA_SAMPLES = 262, 338
WHITE_IS_ZERO = 0  # of PHOTOMETRIC
STRAIGHT_ALPHA = 2  # of EXTRA_SAMPLES: the colours are not multiplied by it

_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I"}  # the types of values that are


def first_values(data: bytes, wanted: Collection[int]) -> dict[int, int]:
    """Tag -> first value of those wanted tags that the first directory has; what is damaged has none."""
    if data[:4] not in BEGINNINGS:
        return {}
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    offset, count, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    try:
        place = _number(data, order + offset, 8 if big else 4)
        start = place + struct.calcsize(order + count)
        size = struct.calcsize(order + entry)
        entries = data[start : start + size * _number(data, order + count, place)]
        found = {}
        for tag, kind, values, field in struct.iter_unpack(order + entry, entries[: len(entries) // size * size]):
            if tag in wanted and kind in _WHOLE_NUMBERS:
                form = order + _WHOLE_NUMBERS[kind]
                inside = values * struct.calcsize(form) <= len(field)
                found[tag] = _number(field, form) if inside else _number(data, form, _number(field, order + offset))
    except struct.error:  # it ends before
        return {}
    return found


def _number(data: bytes, form: str, place: int = 0) -> int:
    return int(struct.unpack(form, data[place : place + struct.calcsize(form)])[0])
