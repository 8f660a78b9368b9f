"""Writes protobuf by hand where an answer repeats one small message thousands of times a second.

Owns the few rules of the wire format that this takes; all else is the protobuf package's. A message class would cost
more than the store's whole work for the message that the entry answers.
"""

from typing import Final

VARINT: Final = 0
BYTES: Final = 2


def key(number: int, wire_type: int) -> bytes:
    """What comes before a field's value."""
    return varint(number << 3 | wire_type)


def varint(value: int) -> bytes:
    """A number from 0 on: seven bits a byte, the lowest first."""
    if value < 0x80:
        return _SHORT[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x20_0000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SHORT: Final = [bytes((value,)) for value in range(0x80)]
