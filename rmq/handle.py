"""A receipt handle: which delivery of which message. Opaque to clients and to the proxy.

URL-safe base64 of 33 bytes, big-endian:

    0   1  1, or 2: suspended   13  8  sequence of the delivery (start number of the store << 40 | count)
    1   4  queue id             21  8  valid until, lease time ms: told apart only once the message is settled
    5   8  queue offset         29  4  CRC-32 of bytes 0..28, group, 00, topic

The lease table decides whether a handle is valid; the checksum only tells garbage and another group's apart.
"""

import base64
import binascii
import struct
import zlib
from typing import NamedTuple

from rmq.errors import ClientError, Code
from rmq_store.leases import Leases

_FIELDS = struct.Struct(">BIQQQ")
_KINDS = _DELIVERED, _SUSPENDED = 1, 2


class Handle(NamedTuple):
    """The fields that a handle carries."""

    queue_id: int
    offset: int
    sequence: int
    until_ms: int
    suspended: bool = False  # the delivery is not counted already


class HandleMaker:
    """Makes and reads the handles of one group on one topic."""

    __slots__ = ("_owner",)

    def __init__(self, group: str, topic: str) -> None:
        self._owner = f"{group}\x00{topic}".encode()

    def text(self, handle: Handle) -> str:
        """What the client gets."""
        kind = _SUSPENDED if handle.suspended else _DELIVERED
        fields = _FIELDS.pack(kind, handle.queue_id, handle.offset, handle.sequence, handle.until_ms)
        crc = zlib.crc32(self._owner, zlib.crc32(fields))
        return base64.urlsafe_b64encode(fields + crc.to_bytes(4, "big")).decode()

    def parse(self, text: str) -> Handle:
        """Raises INVALID_RECEIPT_HANDLE for garbage and for another group's or topic's handle."""
        try:
            data = base64.b64decode(text, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if len(data) != _FIELDS.size + 4:
            raise ClientError(Code.INVALID_RECEIPT_HANDLE, "receipt handle is not one of this server's")
        fields = data[:-4]
        kind, queue_id, offset, sequence, until_ms = _FIELDS.unpack(fields)
        if zlib.crc32(self._owner, zlib.crc32(fields)) != int.from_bytes(data[-4:], "big") or kind not in _KINDS:
            raise ClientError(Code.INVALID_RECEIPT_HANDLE, "receipt handle belongs to another group or topic")
        return Handle(queue_id, offset, sequence, until_ms, kind == _SUSPENDED)


class HandleMakers:
    """Those of all groups. Kept for the ones that the table of leases knows: a client that makes names up fills no
    memory.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._makers: dict[tuple[str, str], HandleMaker] = {}

    def of(self, group: str, topic: str) -> HandleMaker:
        """One group's on one topic."""
        maker = self._makers.get((group, topic))
        if maker is None:
            maker = HandleMaker(group, topic)
            if (group, topic) in self._leases.subscriptions:
                self._makers[(group, topic)] = maker
        return maker
