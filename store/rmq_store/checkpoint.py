"""A copy of the state in LMDB, for a fast start only: never the truth, discarded when in doubt.

    key                              value (msgpack, but for m and those of timers)
    m                                0  4  CRC-32 of the rest   4  8  sum of the CRC-32s of all other keys with values
                                     12 .. Meta: what the copy stands for (msgpack)
    t <topic>                        [type, [[first offset, max offset], ... per queue]]
    g <group>                        the GroupPut entry
    c <group> 00 <topic> 00 <queue>  [next, [[origin topic, queue, offset -> retry offset], ...]]
    q <topic> 00 <queue> 00 <file>   checksums of a queue file: see queuesums.py
    o <group> 00 <topic> 00 <queue> 00 <chunk>   [[offset, attempt, sequence, taken_ms, due_ms, client, asked], ...]
    p <group> 00 <topic> 00 <queue> 00 <chunk>   [[key << 8 | offset & 255, ...], [[offset, sequence] acked early, ...]]
    l <key>                          [topic, name, queue, first number, touched_ms]: one lite topic; 8 bytes, big-endian
    n <key> <chunk>                  [number, bytes]: queue offsets of its messages from that number on; each 8 bytes
    u <key> <group> 00 <topic>       [next, [client, ...]]: a group's place in it; the key 8 bytes
    v <group> 00 <topic>             []: the group reads the topic by its lite topics
    w                                [the latest due time of a timer that fired]
    w <due_ms> <number>              first number: one timer that waits; each 8 bytes, big-endian, no msgpack
    x <first number>                 [number, due_ms, checks, topic]: one half message that lives; 8 bytes, big-endian
    y <chunk>                        [stamp, bytes]: how half messages ended, see outcomes.py; 8 bytes, big-endian

What is not what was committed is told by the checksums, or by lmdbfile.py before LMDB may touch it.

A commit is whole or absent. Its order is the crash story: the log is synced to `position`, then the queue files, then
LMDB commits. A crash before the commit: the last checkpoint counts, and the log is replayed from its position.
"""

import logging
import operator
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from rmq_store import lmdbfile
from rmq_store.disk import remove_tree
from rmq_store.lmdbfile import Unreadable

log_ = logging.getLogger("rmq.store")
FORMAT = 6
_OLDEST_FORMAT = 2  # without timers, nor (3) message groups, nor (4) half messages, nor (5) lite topics; else alike
MAP_BYTES = 8 << 30  # address space, not disk; a bigger copy is not written and the start takes longer
TIMER = b"w"  # first byte of the keys of timers, and the key of what is known of all
_TIMER_KEY = struct.Struct(">cqq")  # TIMER, due_ms, number
_NUMBER = struct.Struct(">q")
_TIMER_BYTES = _TIMER_KEY.size + _NUMBER.size
HALF, OUTCOMES = b"x", b"y"  # first bytes of the keys of half messages, and of ended ones
LITE, LITE_CHUNK, LITE_PLACE, LITE_GROUP = b"l", b"n", b"u", b"v"
_NUMBERED_KEY = struct.Struct(">cq")
_CHUNK_KEY = struct.Struct(">cqq")
_CHANGING = (TIMER, HALF, OUTCOMES)  # always told as changes
_BEHIND_CHANGING = b"z"
_SUMS = struct.Struct(">IQ")
_SUM_MASK = (1 << 64) - 1
_META_KEY = b"m"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

Changed = tuple[bytes, bytes | None]
"""A key and its value, None: there is none any more."""


def timer_pair(due_ms: int, number: int, first: int | None) -> Changed:
    """Of a timer that waits; `first` None: of one that went."""
    return _TIMER_KEY.pack(TIMER, due_ms, number), None if first is None else _NUMBER.pack(first)


def numbered_key(kind: bytes, number: int) -> bytes:
    """Of HALF, OUTCOMES or LITE."""
    return _NUMBERED_KEY.pack(kind, number)


def chunk_key(key: int, chunk: int) -> bytes:
    """Of LITE_CHUNK."""
    return _CHUNK_KEY.pack(LITE_CHUNK, key, chunk)


def place_key(key: int, group: str, topic: str) -> bytes:
    """Of LITE_PLACE."""
    return numbered_key(LITE_PLACE, key) + f"{group}\0{topic}".encode()


def number_of(key: bytes) -> int:
    """The reverse; the first one where there are two."""
    return int.from_bytes(key[1:9], "big")


class Meta(msgspec.Struct, array_like=True):
    """Entry `m`."""

    format: int
    position: int
    last_position: int  # of the last record before `position`; it must be whole, else this copy is beyond the log
    last_size: int
    start_number: int
    sequence_floor: int
    state_complete: list[int]  # bases of segments
    begin: int  # the log's first position: retention is no record, so a replay does not see it


class Kept(msgspec.Struct):
    """What a checkpoint's file holds, checked. `pairs`: all but those of timers, of which there may be a million."""

    meta: Meta
    pairs: list[tuple[bytes, bytes]]
    packed_timers: bytearray  # due_ms, number, first number of each: keys without their first bytes, and values

    def decoded(self) -> Iterator[tuple[bytes, Any]]:
        """The pairs, in the order of the keys. Raises msgspec.DecodeError."""
        return ((key, _decode(value)) for key, value in self.pairs)

    def timers(self) -> "tuple[array[int], array[int], array[int]]":
        """Due times in ms, numbers and first numbers of all timers, in that order."""
        numbers: array[int] = array("q")
        numbers.frombytes(self.packed_timers)
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers[0::3], numbers[1::3], numbers[2::3]


def read(folder: Path) -> Kept | None:
    """None where there is no checkpoint. Raises OSError, and Unreadable: it is not one that we committed."""
    raw, total = b"", 0
    pairs: list[tuple[bytes, bytes]] = []
    timers = bytearray()
    try:
        for keys, values in lmdbfile.read(folder / "data.mdb"):
            total += sum(map(zlib.crc32, values, map(zlib.crc32, keys)))
            if _are_timers(keys, values):
                rows = bytearray(b"".join(map(operator.add, keys, values)))
                del rows[::_TIMER_BYTES]
                timers += rows
                continue
            for key, value in zip(keys, values, strict=True):
                if key == _META_KEY:
                    raw = value
                    total -= _sum_of(key, value)
                elif _are_timers((key,), (value,)):
                    timers += key[1:] + value
                else:
                    pairs.append((key, value))
    except FileNotFoundError:
        return None
    if not (raw or pairs or timers):
        return None
    return Kept(_meta(raw, total & _SUM_MASK), pairs, timers)


def _are_timers(keys: Sequence[bytes], values: Sequence[bytes]) -> bool:
    """All of them; `keys` rise."""
    if not keys[0].startswith(TIMER) or not keys[-1].startswith(TIMER):
        return False
    return set(map(len, keys)) == {_TIMER_KEY.size} and set(map(len, values)) == {_NUMBER.size}


def _meta(raw: bytes, total: int) -> Meta:
    if len(raw) < _SUMS.size or _SUMS.unpack_from(raw) != (zlib.crc32(raw[4:]), total):
        raise Unreadable("its checksums do not match")
    try:
        meta = msgspec.msgpack.decode(raw[_SUMS.size :], type=Meta)
    except msgspec.DecodeError as error:
        raise Unreadable(f"it is another version's: {error}") from None
    if not _OLDEST_FORMAT <= meta.format <= FORMAT:
        raise Unreadable(f"it has format {meta.format}, not {FORMAT}")
    return meta


def _sum_of(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))


class Checkpoint:
    """The LMDB environment under `<data>/rmq/checkpoint`. What cannot be used is deleted: the log has it all."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError and lmdb.Error: none can be written."""
        self._folder = folder
        self._kept: Kept | None = None
        try:
            self._kept = read(folder)
        except Unreadable as error:
            log_.warning("the checkpoint is damaged (%s): it is discarded, the whole log is read", error)
            remove_tree(folder)
        self._env = self._environment()

    def _environment(self) -> "lmdb.Environment":
        self._folder.mkdir(parents=True, exist_ok=True)
        return lmdb.open(str(self._folder), map_size=MAP_BYTES, max_dbs=0, readahead=False, max_readers=4)

    def load(self) -> Kept | None:
        """What was found at the opening, once; None where there is nothing."""
        kept, self._kept = self._kept, None
        return kept

    def discard(self) -> None:
        """Starts over: the log has all that is in here."""
        self._env.close()
        remove_tree(self._folder)  # for good: one day the log would reach where it claims to have been
        self._env = self._environment()

    def commit(self, meta: Meta, pairs: Iterable[Changed], *, everything: bool) -> None:
        """Pairs that changed since the last one; or all there are, but for those of timers and half messages, which are
        always told as changes. Raises lmdb.Error.
        """
        with self._env.begin(write=True) as txn:
            raw = txn.get(_META_KEY)  # not what was last asked for: a commit that raised may be there, or not
            total: int = _SUMS.unpack_from(raw)[1] if raw else 0
            if everything:
                total -= _drop_all_but_changing(txn)
            for key, value in pairs:
                before = txn.get(key)
                total -= _sum_of(key, before) if before is not None else 0
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)
                    total += _sum_of(key, value)
            rest = (total & _SUM_MASK).to_bytes(8, "big") + _encode(meta)
            txn.put(_META_KEY, zlib.crc32(rest).to_bytes(4, "big") + rest)

    def close(self) -> None:
        """Gives the files back."""
        self._env.close()


def _drop_all_but_changing(txn: "lmdb.Transaction") -> int:
    """Returns the sum of the pairs that went."""
    total = 0
    cursor = txn.cursor()
    more = cursor.first()
    while more:
        key = bytes(cursor.key())
        if key.startswith(_CHANGING):
            more = cursor.set_range(_BEHIND_CHANGING)
        else:
            total += _sum_of(key, bytes(cursor.value())) if key != _META_KEY else 0
            more = cursor.delete()
    return total
