"""One file of the key index: which messages of a stretch of the log have an id or a key. Immutable once written.

    rmq/keys/<20 digits: start>     big-endian
    0   8   "RMQKEYS1"              24  4   number of entries
    8   8   start: a log position   28  4   number of slots, a power of two
    16  8   end: another            32  4   CRC-32 of bytes 0..31, then of all behind this field
    36  4*slots   for each slot the number of the newest entry of its chain, 0: none
    ..  12*n      entries, the first is number 1:
                  0  4  upper half of the hash   4  4  position - start   8  4  the chain's entry before it, 0: none

A message has an entry for its UNIQ_KEY and for each word of its KEYS (as in Apache: facts, store.md 2.9): BLAKE2b-64 of
topic 00 key, whose lowest bits are the slot. An entry is a hint: who searches reads the message and looks.

Chains are linked as entries come, so a table in memory is searched like a file, and a finished one needs no sorting,
which would hold a turn up.
"""

import contextlib
import hashlib
import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Protocol

from rmq_store import record
from rmq_store.disk import Disk, File

log_ = logging.getLogger("rmq.store")
FOLDER = "rmq/keys"

_MAGIC = b"RMQKEYS1"
_HEAD = struct.Struct(">8sQQII")
_CRC = struct.Struct(">I")
_SLOTS_AT = _HEAD.size + _CRC.size
_SLOT = struct.Struct(">I")
_ENTRY = struct.Struct(">III")


def key_hash(topic: bytes, key: bytes) -> int:
    """64 bits, the same for ever."""
    return int.from_bytes(hashlib.blake2b(b"%b\0%b" % (topic, key), digest_size=8).digest(), "big")


def keys_of(properties: bytes) -> list[bytes]:
    """Under which an encoded property string is found, each once."""
    words = record.property_bytes(properties, b"KEYS").split(b" ")
    return [key for key in dict.fromkeys((record.property_bytes(properties, b"UNIQ_KEY"), *words)) if key]


class Chains(Protocol):
    """Slots and entries, wherever they are. `slots` is their number, `start` what positions are counted from."""

    start: int
    slots: int

    def slot(self, index: int) -> int:
        """The number of the newest entry of a chain; 0: it is empty."""

    def entry(self, number: int) -> tuple[int, int, int]:
        """Upper half of the hash, position - start, number of the one before."""


def walk(chains: Chains, hash_: int) -> Iterator[int | None]:
    """Positions under a hash, the newest first; None for each entry of another hash that is passed."""
    number = chains.slot(hash_ & chains.slots - 1)
    while number:
        upper, offset, number = chains.entry(number)
        yield chains.start + offset if upper == hash_ >> 32 else None


class Table:
    """Entries in memory, of log positions [start, end); it grows until it is written."""

    def __init__(self, start: int, slots: int) -> None:
        self.start = self.end = start
        self.slots = slots
        self.count = 0
        self.topic = b""
        self.keys: list[bytes] = []  # of the record at `end`, still to be added; then `end` is `next`
        self.next = start
        self._slots = bytearray(_SLOT.size * slots)
        self._entries = bytearray()

    def add(self, hash_: int, position: int) -> None:
        """One more entry; positions do not fall."""
        at = (hash_ & self.slots - 1) * _SLOT.size
        self._entries += _ENTRY.pack(hash_ >> 32, position - self.start, *_SLOT.unpack_from(self._slots, at))
        self.count += 1
        _SLOT.pack_into(self._slots, at, self.count)

    def slot(self, index: int) -> int:
        """See Chains."""
        return int(_SLOT.unpack_from(self._slots, index * _SLOT.size)[0])

    def entry(self, number: int) -> tuple[int, int, int]:
        """See Chains."""
        return _ENTRY.unpack_from(self._entries, (number - 1) * _ENTRY.size)

    def file_bytes(self) -> bytes:
        """The whole file."""
        head = _HEAD.pack(_MAGIC, self.start, self.end, self.count, self.slots)
        crc = zlib.crc32(self._entries, zlib.crc32(self._slots, zlib.crc32(head)))
        return b"".join((head, _CRC.pack(crc), self._slots, self._entries))


class KeyFile:
    """A file that is whole, or will be: then `table` has its entries."""

    def __init__(self, start: int, end: int, count: int, slots: int, table: Table | None = None) -> None:
        self.start, self.end, self.count, self.slots = start, end, count, slots
        self.table = table

    @property
    def path(self) -> str:
        """Its name on the disk."""
        return path_of(self.start)

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        return _SLOTS_AT + _SLOT.size * self.slots + _ENTRY.size * self.count


class Reader:
    """Chains in an open file. Raises OSError."""

    def __init__(self, known: KeyFile, file: File) -> None:
        self.start, self.slots = known.start, known.slots
        self._file = file
        self._entries_at = _SLOTS_AT + _SLOT.size * known.slots

    def slot(self, index: int) -> int:
        """See Chains."""
        return int(_SLOT.unpack(self._file.read(_SLOTS_AT + index * _SLOT.size, _SLOT.size))[0])

    def entry(self, number: int) -> tuple[int, int, int]:
        """See Chains."""
        return _ENTRY.unpack(self._file.read(self._entries_at + (number - 1) * _ENTRY.size, _ENTRY.size))


def write(disk: Disk, known: KeyFile, table: Table) -> None:
    """On return it is whole and synced. Raises OSError."""
    disk.remove(known.path)
    with contextlib.closing(disk.open(known.path, known.size_bytes)) as file:
        file.write(0, table.file_bytes())
        file.sync()


def path_of(start: int) -> str:
    """The file that begins at that log position."""
    return f"{FOLDER}/{start:020d}"


def starts(disk: Disk) -> list[int]:
    """Of the files that are there, by their names."""
    return [int(name) for name in disk.list(FOLDER) if name.isdigit() and len(name) == 20]


def end_of(disk: Disk, start: int) -> int | None:
    """Up to where a file covers the log, as its first bytes say; None where they are not ours. Raises OSError."""
    with contextlib.closing(disk.open(path_of(start), disk.size(path_of(start)) or 1)) as file:
        head = _head_of(file.read(0, _SLOTS_AT), start)
    return head.end if head else None


def _head_of(data: bytes, start: int) -> KeyFile | None:
    """What a file's first bytes say of it; None where they are not ours."""
    if len(data) < _SLOTS_AT:
        return None
    magic, said, end, count, slots = _HEAD.unpack_from(data)
    whole = magic == _MAGIC and said == start < end and slots > 0 and not slots & slots - 1
    return KeyFile(start, end, count, slots) if whole else None


def known(disk: Disk, start: int) -> KeyFile | None:
    """The file, if every byte of it is right. Raises OSError."""
    size = disk.size(path_of(start))
    if not size:
        return None
    with contextlib.closing(disk.open(path_of(start), size)) as file:
        data = file.read(0, size)
    found = _head_of(data, start)
    crc = zlib.crc32(memoryview(data)[_SLOTS_AT:], zlib.crc32(data[: _HEAD.size]))
    whole = found is not None and size == found.size_bytes and _CRC.unpack_from(data, _HEAD.size) == (crc,)
    return found if whole else None


def check(disk: Disk, start: int) -> KeyFile | None:
    """The file, if every byte of it is right; else it is deleted."""
    path = path_of(start)
    try:
        found = known(disk, start)
        if found is not None:
            return found
    except OSError as error:
        log_.warning("cannot read %s (%s): it is made anew", path, error)
    else:
        log_.warning("%s is damaged: it is made anew", path)
    remove(disk, path)
    return None


def remove(disk: Disk, path: str) -> None:
    """Says so where it cannot: the file is useless, not harmful."""
    try:
        disk.remove(path)
    except OSError as error:
        log_.warning("cannot delete %s: %s", path, error)
