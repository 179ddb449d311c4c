"""The wire format of Protocol Buffers, as far as Sparkplug's payload uses it.

A message is a sequence of fields: a key (field number and wire type) as varint, then the value.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edge_ad.core.payload import MalformedError

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are long out of use
UINT64 = 2**64
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10


def varint(number: int, value: int) -> bytes:
    """A field of an integer in 0 .. 2^64 - 1, or of a truth value."""
    return _varint(number << 3 | VARINT) + _varint(value)


def double(number: int, value: float) -> bytes:
    """A field of a 64-bit floating point number."""
    return _varint(number << 3 | FIXED64) + struct.pack("<d", value)


def delimited(number: int, value: bytes) -> bytes:
    """A field of bytes: a text as UTF-8, or a message."""
    return _varint(number << 3 | DELIMITED) + _varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message, in order: (number, value); a value of fixed length as its bytes, little-endian.

    Raises:
        MalformedError: it is not a message.
    """
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise MalformedError("field number 0")
        if wire_type == VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if wire_type == DELIMITED:
            size, at = _read_varint(message, at)
        elif wire_type in _FIXED_BYTES:
            size = _FIXED_BYTES[wire_type]
        else:
            raise MalformedError(f"wire type {wire_type}")
        if at + size > len(message):
            raise MalformedError("it ends within a field")
        yield number, message[at : at + size]
        at += size


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that another byte follows."""
    if not 0 <= value < UINT64:
        raise ValueError(f"{value} is not an unsigned 64-bit number")
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(message[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value % UINT64, at + index + 1
    raise MalformedError("a number that does not end")
