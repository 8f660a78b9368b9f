"""A transaction id: which half message. Opaque to clients; a field of its own, so no client takes it apart.

40 upper-case hex digits of 20 bytes, big-endian:

    0   8  first number of the half message (rmq_store/halves.py)
    8   8  when it was sent, wall time ms: a store that was begun anew counts from 0 again
    16  4  CRC-32 of bytes 0..15 and the topic

The table of half messages decides what an id is worth, and the half message's record, which holds it.
"""

import struct
import zlib

from rmq.errors import ClientError, Code

_FIELDS = struct.Struct(">qq")
_BYTES = _FIELDS.size + 4


def make(number: int, sent_ms: int, topic: str) -> str:
    """What the producer gets."""
    fields = _FIELDS.pack(number, sent_ms)
    return (fields + _crc(fields, topic)).hex().upper()


def parse(text: str, topic: str) -> int:
    """The number. Raises INVALID_TRANSACTION_ID for what is none, or another topic's."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    fields = data[: _FIELDS.size]
    number = _FIELDS.unpack(fields)[0] if len(data) == _BYTES else -1
    if number < 0 or data[_FIELDS.size :] != _crc(fields, topic):
        raise ClientError(
            Code.INVALID_TRANSACTION_ID,
            "the transaction id is not one of this server's for this topic: end a transaction with the id that the "
            "answer to its message gave",
        )
    return int(number)


def _crc(fields: bytes, topic: str) -> bytes:
    return zlib.crc32(topic.encode(), zlib.crc32(fields)).to_bytes(4, "big")
