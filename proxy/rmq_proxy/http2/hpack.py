"""Header blocks (RFC 7541): a decoder for requests, and what it takes to write answers once and for all.

The decoder owns one connection's dynamic table. Each entry carries what its field means to a request (`mark`), so that
a field which the table already holds is checked once and not with each call. The encoder side keeps no table: our
answers use static entries and literals, and can be prepared before there is a connection.

An entry is (field, mark, weight): field = (name, value), weight = bytes as RFC 7541 section 4.1 counts them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec

from rmq_proxy.http2.huffman import Huffman

Field: TypeAlias = tuple[str, str]
Entry: TypeAlias = tuple[Field, int, int]

METHOD: Final = 0x01
SCHEME: Final = 0x02
PATH: Final = 0x04
AUTHORITY: Final = 0x08
REGULAR: Final = 0x10
LENGTH: Final = 0x20
"""content-length: whoever reads the body has to compare."""
ILLEGAL: Final = 0x40
"""Not allowed in a request (RFC 9113, sections 8.2 and 8.3); the request is malformed, the block is not."""
BINARY: Final = 0x80
"""A name ending in -bin: its value is base64 of bytes."""
PSEUDO: Final = METHOD | SCHEME | PATH | AUTHORITY
REQUIRED: Final = METHOD | SCHEME | PATH

FIELD_OVERHEAD_BYTES: Final = 32
INTEGER_OCTETS_MAX: Final = 5
NAMES_KEPT_MAX: Final = 512
STATIC_LAST: Final = 61
ENTRIES_KEPT_MAX: Final = 2048
KEPT_VALUE_BYTES_MAX: Final = 24
"""Longer values are most often of one call only (ids, signatures)."""

_PSEUDO_MARKS: Final = {":method": METHOD, ":scheme": SCHEME, ":path": PATH, ":authority": AUTHORITY}
_CONNECTION_NAMES: Final = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE_ILLEGAL: Final = re.compile(r"[\x00\r\n]")

_STATIC_TEXT: Final = """
:authority :method=GET :method=POST :path=/ :path=/index.html :scheme=http :scheme=https :status=200 :status=204
:status=206 :status=304 :status=400 :status=404 :status=500 accept-charset accept-encoding=gzip,_deflate
accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control
content-disposition content-encoding content-language content-length content-location content-range content-type cookie
date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified
link location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie
strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""


class HpackError(Exception):
    """A block that no decoder can read: the connection's tables are lost, it ends in COMPRESSION_ERROR."""


class Block(msgspec.Struct, gc=False):
    """One decoded header block."""

    fields: list[Field]  # in their order, pseudo fields first; none of a list beyond the size limit
    marks: int  # of all fields; ILLEGAL where one is, or where pseudo fields are doubled or late
    list_bytes: int  # of the whole list, whatever was kept


class Decoder:
    """Decodes the blocks of one connection, in their order. The peer may make its table `table_bytes_max` large."""

    __slots__ = ("_capacity", "_dynamic", "_list_bytes_max", "_table_bytes", "_table_bytes_max")

    def __init__(self, table_bytes_max: int, list_bytes_max: int) -> None:
        self._table_bytes_max = self._capacity = table_bytes_max
        self._list_bytes_max = list_bytes_max
        self._dynamic: list[Entry] = []  # the newest last: index 62 is [-1]
        self._table_bytes = 0

    def decode(self, block: bytes) -> Block:
        """Raises HpackError."""
        try:
            return self._decode(block)
        except IndexError:
            raise HpackError("a header block ends early or names an entry that is not there") from None
        except ValueError as error:
            raise HpackError(str(error)) from None

    def _decode(self, block: bytes) -> Block:
        fields: list[Field] = []
        append, dynamic, static = fields.append, self._dynamic, STATIC
        marks = list_bytes = position = 0
        end = len(block)
        while position < end:
            octet = block[position]
            position += 1
            if 0xBD < octet < 0xFF:  # an entry of the dynamic table, 62 and on, in one byte: almost every field
                entry = dynamic[0xBD - octet]
            elif 0x80 < octet <= 0xBD:
                entry = static[octet - 0x80]
            elif octet >= 0x80:
                index, position = _integer(block, position, octet, 0x7F)
                entry = self._entry(index)
            elif octet >= 0x40:
                entry, position = self._literal(block, position, octet, 0x3F)
                self._insert(entry)
            elif octet >= 0x20:
                if fields:
                    raise HpackError("a table size update comes after a field")
                size_bytes, position = _integer(block, position, octet, 0x1F)
                self._resize(size_bytes)
                continue
            else:
                entry, position = self._literal(block, position, octet, 0x0F)
            field, mark, weight = entry
            list_bytes += weight
            if mark < REGULAR and marks & (mark | REGULAR):  # a pseudo field again, or after others
                mark = ILLEGAL
            marks |= mark
            append(field)
        return Block([] if list_bytes > self._list_bytes_max else fields, marks, list_bytes)

    def _entry(self, index: int) -> Entry:
        if index > STATIC_LAST:
            return self._dynamic[STATIC_LAST - index]
        if index == 0:
            raise IndexError
        return STATIC[index]

    def _literal(self, block: bytes, position: int, octet: int, mask: int) -> tuple[Entry, int]:
        """The field, and where it ends. Every call has some (its id, its timeout), so most of it is in one frame."""
        index = octet & mask
        if index == mask:
            second = block[position]
            if second < 0x80:
                index, position = mask + second, position + 1
            else:
                index, position = _integer(block, position, octet, mask)
        if index > STATIC_LAST:
            name = self._dynamic[STATIC_LAST - index][0][0]
        elif index:
            name = STATIC[index][0][0]
        else:
            coded, raw, position = _string(block, position)
            name = HUFFMAN.decode(raw) if coded else raw.decode("latin-1")
        coded, raw, position = _string(block, position)
        if len(raw) <= KEPT_VALUE_BYTES_MAX and not 0x10 <= octet < 0x20:  # those are never to be kept
            return entry_of(name, raw, coded), position
        return make_entry(name, raw, coded), position

    def _insert(self, entry: Entry) -> None:
        weight = entry[2]
        self._table_bytes += weight
        if self._table_bytes > self._capacity:
            self._evict()
            if weight > self._capacity:
                self._table_bytes = 0
                return
        self._dynamic.append(entry)

    def _evict(self) -> None:
        """Drops the oldest entries until the sum fits, or none is left."""
        dynamic, table_bytes, dropped = self._dynamic, self._table_bytes, 0
        while table_bytes > self._capacity and dropped < len(dynamic):
            table_bytes -= dynamic[dropped][2]
            dropped += 1
        del dynamic[:dropped]
        self._table_bytes = table_bytes

    def _resize(self, size_bytes: int) -> None:
        if size_bytes > self._table_bytes_max:
            raise HpackError("a table size update goes beyond our SETTINGS")
        self._capacity = size_bytes
        self._evict()


def _string(block: bytes, position: int) -> tuple[int, bytes, int]:
    """The string that starts at `position`: whether it is Huffman code, its bytes, where it ends."""
    octet = block[position]
    position += 1
    length = octet & 0x7F
    if length == 0x7F:
        length, position = _integer(block, position, octet, 0x7F)
    end = position + length
    if end > len(block):
        raise IndexError
    return octet & 0x80, block[position:end], end


def make_entry(name: str, raw: bytes, coded: int) -> Entry:
    """The entry of a literal field; `coded`: its value is Huffman code. Raises ValueError."""
    value = HUFFMAN.decode(raw) if coded else raw.decode("latin-1")
    weight = len(name) + len(value) + FIELD_OVERHEAD_BYTES
    mark = mark_of(name)
    if mark != REGULAR or name == "te" or not value.isascii() or not value.isprintable() or " " in value:
        value = value.strip(" \t")  # RFC 9113 refuses blanks at the ends, gRPC strips them, and clients send them
        mark = mark_of_value(name, value, mark)
    return (name, value), mark, weight


entry_of = lru_cache(ENTRIES_KEPT_MAX)(make_entry)
"""The same, remembering the latest: clients insert the same timeouts, dates and paths over and over."""


def _integer(block: bytes, position: int, octet: int, mask: int) -> tuple[int, int]:
    """The number that starts in the low bits of `octet` (RFC 7541, section 5.1), and where it ends."""
    value = octet & mask
    if value < mask:
        return value, position
    for shift in range(0, 7 * INTEGER_OCTETS_MAX, 7):
        octet = block[position]
        position += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise HpackError("a number in a header block is too long")


@lru_cache(NAMES_KEPT_MAX)
def mark_of(name: str) -> int:
    """What a field of this name is to a request."""
    if name in _PSEUDO_MARKS:
        return _PSEUDO_MARKS[name]
    if name in _CONNECTION_NAMES or not _NAME.fullmatch(name):
        return ILLEGAL | REGULAR
    if name == "content-length":
        return LENGTH | REGULAR
    return REGULAR | BINARY if name.endswith("-bin") else REGULAR


def mark_of_value(name: str, value: str, mark: int) -> int:
    """`mark` of the name, with what the value adds to it."""
    illegal = (
        _VALUE_ILLEGAL.search(value)
        or (name == "te" and value != "trailers")
        or (mark & PATH and not value)
        or (mark & LENGTH and not (value.isascii() and value.isdigit()))
    )
    return mark | ILLEGAL if illegal else mark


def _static() -> tuple[Entry, ...]:
    table: list[Entry] = [(("", ""), ILLEGAL, 0)]  # index 0 is never used
    for word in _STATIC_TEXT.split():
        name, _, value = word.partition("=")
        value = value.replace("_", " ")
        mark = mark_of(name)
        if name in ("content-length", "te") or mark & PATH:
            mark = mark_of_value(name, value, mark)
        table.append(((name, value), mark, len(name) + len(value) + FIELD_OVERHEAD_BYTES))
    return tuple(table)


STATIC: Final = _static()
HUFFMAN: Final = Huffman()

_STATIC_FIELDS: Final = {entry[0]: index for index, entry in enumerate(STATIC) if index}
_STATIC_NAMES: Final = {entry[0][0]: index for index, entry in reversed(list(enumerate(STATIC))) if index}


def encode(fields: Sequence[Field]) -> bytes:
    """A block that any decoder reads in any state of its table, and that leaves the table as it was."""
    return b"".join(map(_encode_field, fields))


def _encode_field(field: Field) -> bytes:
    index = _STATIC_FIELDS.get(field)
    if index:
        return encode_integer(index, 0x7F, 0x80)
    name, value = field
    index = _STATIC_NAMES.get(name, 0)
    start = encode_integer(index, 0x0F, 0)
    return start + (b"" if index else _encode_text(name)) + _encode_text(value)


def _encode_text(text: str) -> bytes:
    raw = text.encode("latin-1")
    return encode_integer(len(raw), 0x7F, 0) + raw


def encode_integer(value: int, mask: int, pattern: int) -> bytes:
    """`value` in the low bits `mask` of a first byte that also carries `pattern`."""
    if value < mask:
        return bytes((pattern | value,))
    octets = [pattern | mask]
    value -= mask
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
