"""One record of the commit log: RocketMQ's V1 layout, byte for byte (facts: store.md 2.1 to 2.4).

    off  len  field                        off  len  field
    0    4    total size                   56   8    store timestamp ms
    4    4    magic DAA320A7               64   4|16+4  store host: IP, port
    8    4    CRC-32 of body & 7FFFFFFF    72   4    reconsume times
    12   4    queue id                     76   8    prepared transaction position
    16   4    flag (the user's)            84   4    body length
    20   8    queue offset                 88   n    body, as sent
    28   8    own position                 ..   1    topic length, then topic
    36   4    system flag                  ..   2    properties length, then properties
    40   8    born timestamp ms
    48   4|16+4  born host: IP, port       big-endian; an IPv6 host adds 12 to all that follows it

Properties are `name 01 value 02` repeated. The last one is always `__CRC32# 01 dddddddddd 02`: CRC-32 & 7FFFFFFF of all
bytes before it, ten decimal digits, the least significant first. Apache 4.x and 5.x read it as one more property.

Does no I/O and decides nothing; `decode` trusts nothing it is given.
"""

import functools
import socket
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

MAGIC = 0xDAA320A7
MAGIC_BLANK = 0xCBD43194
BLANK = struct.Struct(">II")  # bytes left in the segment, magic
BLANK_BYTES = BLANK.size

SYS_FLAG_PREPARED = 0x4
SYS_FLAG_COMMIT = 0x8
SYS_FLAG_ROLLBACK = 0xC
SYS_FLAG_TRANSACTION_MASK = 0xC
SYS_FLAG_BORN_IPV6 = 0x10
SYS_FLAG_STORE_IPV6 = 0x20

HEAD_BYTES_MAX = 112  # all before the body, both hosts IPv6
PROPERTIES_BYTES_MAX = 32767 - 20  # an i16, less the CRC property
TOPIC_BYTES_MAX = 127  # one byte in V1; a longer name would need V2, which 4.9 cannot read

_FIXED_BYTES = 91  # both hosts IPv4, empty body, topic and properties
_PREFIX = struct.Struct(">II")
_BYTE = struct.Struct("B")
_SHORT = struct.Struct(">H")
_FIRST = struct.Struct(">IIiiiqqiq")  # total size .. born timestamp
_OUTLINE = struct.Struct(">II20xqi")  # total size, magic, own position, system flag
_IPV4_HEAD = struct.Struct(">IIiiiqqiq4siq4siiqi")
_IPV6_BORN_HEAD = struct.Struct(">IIiiiqqiq16siq4siiqi")
_HEADS = {
    0: _IPV4_HEAD,
    SYS_FLAG_BORN_IPV6: _IPV6_BORN_HEAD,
    SYS_FLAG_STORE_IPV6: struct.Struct(">IIiiiqqiq4siq16siiqi"),
    SYS_FLAG_BORN_IPV6 | SYS_FLAG_STORE_IPV6: struct.Struct(">IIiiiqqiq16siq16siiqi"),
}
_SYS_FLAG_HOSTS = SYS_FLAG_BORN_IPV6 | SYS_FLAG_STORE_IPV6
_CRC_NAME = b"__CRC32#\x01"
_CRC_BYTES = 20
_MAX31 = 0x7FFFFFFF


class Draft(msgspec.Struct, gc=False):
    """A record before it has a place: everything but position, queue offset and store time. See `make`."""

    topic: bytes
    queue_id: int
    body: bytes
    properties: bytes  # encoded, without the CRC property
    sys_flag: int
    born_ms: int
    born_host: bytes  # 4 or 16 bytes
    born_port: int
    reconsume_times: int
    prepared_position: int
    size: int  # of the whole record once encoded, in bytes

    @classmethod
    def make(
        cls,
        topic: bytes,
        queue_id: int,
        body: bytes,
        properties: bytes,
        sys_flag: int,
        born_ms: int,
        born_host: bytes,
        born_port: int,
        reconsume_times: int = 0,
        prepared_position: int = 0,
    ) -> "Draft":
        """With its size; who makes many adds that up without a call (`fixed_bytes`)."""
        size = fixed_bytes(topic) + len(born_host) + len(body) + len(properties)
        return cls(
            topic, queue_id, body, properties, sys_flag, born_ms, born_host, born_port, reconsume_times,
            prepared_position, size,
        )  # fmt: skip


def fixed_bytes(topic: bytes) -> int:
    """Of every record of a topic: all but the born host's bytes, body and properties."""
    return _FIXED_BYTES - 4 + _CRC_BYTES + len(topic)


class Record(NamedTuple):
    """A record as read back, checked. `properties` is the encoded string without the CRC property."""

    position: int
    size: int
    queue_id: int
    flag: int
    queue_offset: int
    sys_flag: int
    born_ms: int
    born_host: bytes
    born_port: int
    store_ms: int
    store_host: bytes
    store_port: int
    reconsume_times: int
    prepared_position: int
    body: bytes
    topic: str
    properties: bytes

    def decode_properties(self) -> dict[str, str]:
        """The stored properties by name."""
        return decode_properties(self.properties)


class Outline(NamedTuple):
    """What a record's head says of it. `names_at`: where its topic begins, counted from its own begin."""

    size: int
    sys_flag: int
    names_at: int


class Damaged(Exception):  # noqa: N818  # says what the bytes are
    """The bytes at a position are not the record that should be there; `text` says in which way."""


def encode(draft: Draft, position: int, queue_offset: int, store_ms: int, store_host: bytes, store_port: int) -> bytes:
    """The record's bytes. The caller has checked sizes; `store_host` is IPv4."""
    body, topic, properties, born_host = draft.body, draft.topic, draft.properties, draft.born_host
    sys_flag, head = draft.sys_flag, _IPV4_HEAD
    if len(born_host) == 16:
        sys_flag |= SYS_FLAG_BORN_IPV6
        head = _IPV6_BORN_HEAD
    front = b"".join(
        (
            head.pack(
                draft.size, MAGIC, zlib.crc32(body) & _MAX31, draft.queue_id, 0, queue_offset, position, sys_flag,
                draft.born_ms, born_host, draft.born_port, store_ms, store_host, store_port, draft.reconsume_times,
                draft.prepared_position, len(body),
            ),
            body,
            _BYTE.pack(len(topic)),
            topic,
            _SHORT.pack(len(properties) + _CRC_BYTES),
            properties,
        )
    )  # fmt: skip
    return b"%b%b%b\x02" % (front, _CRC_NAME, _crc_digits(front))


def blank(bytes_left: int) -> bytes:
    """Closes a segment: the next record is at the start of the next one."""
    return BLANK.pack(bytes_left, MAGIC_BLANK)


def decode(data: bytes, position: int, *, foreign: bool = True) -> Record:
    """Checks every byte of `data`, one whole record read at `position`. Raises Damaged.

    `foreign`: it may be Apache's; else it has to have a checksum of the whole.
    """
    if len(data) < _FIXED_BYTES:
        raise Damaged("too short for a record")
    size, magic, body_crc, queue_id, flag, queue_offset, own_position, sys_flag, _ = _FIRST.unpack_from(data)
    if magic != MAGIC or size != len(data):
        raise Damaged(f"magic {magic:08X}, size {size} of {len(data)}")
    if own_position != position:
        raise Damaged(f"a record of position {own_position}")
    head = _HEADS[sys_flag & _SYS_FLAG_HOSTS]
    fields = head.unpack_from(data)
    body_end = head.size + fields[16]
    if not head.size <= body_end < size:
        raise Damaged("body length beyond the record")
    topic_end = body_end + 1 + data[body_end]
    properties_end = topic_end + 2 + int.from_bytes(data[topic_end : topic_end + 2], "big")
    if properties_end != size:
        raise Damaged("lengths do not add up")
    body = data[head.size : body_end]
    properties = _checked_properties(data, topic_end + 2, body, body_crc, foreign=foreign)
    try:
        topic = _topic_text(data[body_end + 1 : topic_end])
    except UnicodeDecodeError:
        raise Damaged("topic is not UTF-8") from None
    return Record(
        position, size, queue_id, flag, queue_offset, sys_flag, fields[8], fields[9], fields[10], fields[11],
        fields[12], fields[13], fields[14], fields[15], body, topic, properties,
    )  # fmt: skip


def peek_size(prefix: bytes) -> int | None:
    """The size of the record that starts with these 8 bytes; 0 for a blank, None when no record starts here."""
    if len(prefix) < 8:
        return None
    size, magic = _PREFIX.unpack_from(prefix)
    if magic == MAGIC and size >= _FIXED_BYTES:
        return int(size)
    return 0 if magic == MAGIC_BLANK else None


def outline(head: bytes, position: int) -> Outline | None:
    """From the first HEAD_BYTES_MAX bytes of the record at a position; None where there is none. Not checked whole."""
    if not peek_size(head) or len(head) < _OUTLINE.size:
        return None
    size, _, own_position, sys_flag = _OUTLINE.unpack_from(head)
    body_at = _HEADS[sys_flag & _SYS_FLAG_HOSTS].size
    names_at = body_at + int.from_bytes(head[body_at - 4 : body_at], "big", signed=True)
    if own_position != position or len(head) < body_at or not body_at <= names_at < size:
        return None
    return Outline(size, sys_flag, names_at)


def names(tail: bytes) -> tuple[bytes, bytes] | None:
    """Topic and encoded properties, from the bytes behind a record's body; None where the lengths do not add up."""
    topic_end = 1 + tail[0]
    properties = tail[topic_end + 2 :]
    if len(properties) != int.from_bytes(tail[topic_end : topic_end + 2], "big"):
        return None
    return tail[1:topic_end], properties


def property_bytes(properties: bytes, name: bytes) -> bytes:
    """One value as it is encoded, the last one under that name; empty where there is none."""
    at = properties.rfind(b"\x02%b\x01" % name)
    if at < 0 and not properties.startswith(b"%b\x01" % name):
        return b""
    return properties[at + len(name) + 2 :].partition(b"\x02")[0]


def _checked_properties(data: bytes, start: int, body: bytes, body_crc: int, *, foreign: bool) -> bytes:
    """Records of ours are checked whole; one from Apache carries a checksum of its body only.

    Which of the two it is must not hang on one byte: what ends nearly as ours do is one of ours, damaged. A last byte
    00 is a record of either kind that was cut off: properties end with 02 or with text.
    """
    crc_at = len(data) - _CRC_BYTES
    if crc_at >= start:
        tail, digits = data[crc_at:], _crc_digits(memoryview(data)[:crc_at])
        if tail == b"%b%b\x02" % (_CRC_NAME, digits):
            return data[start:crc_at]
        if tail.startswith(_CRC_NAME) or digits == tail[len(_CRC_NAME) : -1]:
            raise Damaged("record checksum does not match")
    if not foreign:
        raise Damaged("no record checksum")
    if data[-1] == 0 and len(data) > start:
        raise Damaged("cut off in its properties")
    if zlib.crc32(body) & _MAX31 != body_crc:
        raise Damaged("body checksum does not match")
    return data[start:]


def has_checksum(data: bytes) -> bool:
    """Whether a whole record, already checked, ends with the checksum of all before it."""
    return data[-_CRC_BYTES:].startswith(_CRC_NAME)


def _crc_digits(data: bytes | memoryview) -> bytes:
    return (b"%010d" % (zlib.crc32(data) & _MAX31))[::-1]


@functools.lru_cache(4096)
def _topic_text(topic: bytes) -> str:
    return topic.decode()


def encode_properties(properties: Mapping[str, str]) -> bytes:
    """`name 01 value 02` repeated; names and values hold neither separator (the front ends see to it)."""
    return "".join([f"{name}\x01{value}\x02" for name, value in properties.items()]).encode()


def decode_properties(data: bytes) -> dict[str, str]:
    """The reverse; tolerant, as Apache is: a piece without a separator is passed over.

    A stale `__CRC32#` in the middle, which Apache's copies of our records carry along, is dropped (decision 0002).
    """
    result = {}
    for piece in data.decode("utf-8", "replace").split("\x02"):
        name, separator, value = piece.partition("\x01")
        if separator and name:
            result[name] = value
    result.pop("__CRC32#", None)
    return result


@functools.lru_cache(4096)
def tags_code(tags: str) -> int:
    """Java's String.hashCode, a queue entry's third field; 0 without tags (facts: store.md 2.7)."""
    units = tags.encode("utf-16-be", "surrogatepass")  # the code of "" is 0
    code = 0
    for i in range(0, len(units), 2):
        code = (31 * code + (units[i] << 8) + units[i + 1]) & 0xFFFFFFFF
    return code - 0x100000000 if code >= 0x80000000 else code


@functools.lru_cache(4096)
def host_bytes(text: str) -> bytes:
    """4 bytes for IPv4, 16 for IPv6; anything else (a name, an empty text) is 0.0.0.0."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        return bytes(4)


@functools.lru_cache(4096)
def host_text(host: bytes) -> str:
    """The reverse of host_bytes."""
    return socket.inet_ntop(socket.AF_INET6 if len(host) == 16 else socket.AF_INET, host)
