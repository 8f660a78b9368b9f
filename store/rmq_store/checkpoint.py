"""A copy of the state in LMDB, for a fast start only: never the truth, discarded when in doubt.

    key                              value (msgpack, but for the first)
    m                                0  4  CRC-32 of the rest   4  8  sum of the CRC-32s of all other keys with values
                                     12 .. Meta: what the copy stands for (msgpack)
    t <topic>                        [type, [[first offset, max offset], ... per queue]]
    g <group>                        the GroupPut entry
    c <group> 00 <topic> 00 <queue>  [next, [[origin topic, queue, offset -> retry offset], ...]]
    q <topic> 00 <queue> 00 <file>   checksums of a queue file: see queuesums.py
    o <group> 00 <topic> 00 <queue> 00 <chunk>   [[offset, attempt, sequence, taken_ms, due_ms, client], ...]

What is not what was committed is told by the checksums, or by lmdbfile.py before LMDB may touch it.

A commit is whole or absent. Its order is the crash story: the log is synced to `position`, then the queue files, then
LMDB commits. A crash before the commit: the last checkpoint counts, and the log is replayed from its position.
"""

import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from rmq_store import lmdbfile
from rmq_store.disk import remove_tree
from rmq_store.lmdbfile import Pair, Unreadable

log_ = logging.getLogger("rmq.store")
FORMAT = 2
MAP_BYTES = 8 << 30  # address space, not disk; a bigger copy is not written and the start takes longer
_SUMS = struct.Struct(">IQ")
_SUM_MASK = (1 << 64) - 1
_META_KEY = b"m"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


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
    """What a checkpoint's file holds, checked. `sum`: of its pairs."""

    meta: Meta
    sum: int
    pairs: list[Pair]

    def decoded(self) -> Iterator[tuple[bytes, Any]]:
        """The pairs, in the order of the keys. Raises msgspec.DecodeError."""
        return ((key, _decode(value)) for key, value in self.pairs)


def read(folder: Path) -> Kept | None:
    """None where there is no checkpoint. Raises OSError, and Unreadable: it is not one that we committed."""
    try:
        pairs = lmdbfile.read(folder / "data.mdb")
    except FileNotFoundError:
        return None
    if not pairs:
        return None
    raw = dict(pairs).get(_META_KEY, b"")
    pairs = [(key, value) for key, value in pairs if key != _META_KEY]
    total = sum(_sum_of(key, value) for key, value in pairs) & _SUM_MASK
    if len(raw) < _SUMS.size or _SUMS.unpack_from(raw) != (zlib.crc32(raw[4:]), total):
        raise Unreadable("its checksums do not match")
    try:
        meta = msgspec.msgpack.decode(raw[_SUMS.size :], type=Meta)
    except msgspec.DecodeError as error:
        raise Unreadable(f"it is another version's: {error}") from None
    if meta.format != FORMAT:
        raise Unreadable(f"it has format {meta.format}, not {FORMAT}")
    return Kept(meta, total, pairs)


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
        self._sum = self._kept.sum if self._kept else 0
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
        self._sum = 0
        self._env = self._environment()

    def commit(self, meta: Meta, pairs: list[tuple[bytes, bytes | None]], *, everything: bool) -> None:
        """Pairs that changed since the last one, None deletes; or all there are. Raises lmdb.Error."""
        total = 0 if everything else self._sum
        with self._env.begin(write=True) as txn:
            if everything:
                txn.drop(self._env.open_db(), delete=False)
            for key, value in pairs:
                before = txn.get(key)
                total -= _sum_of(key, before) if before is not None else 0
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)
                    total += _sum_of(key, value)
            total &= _SUM_MASK
            rest = total.to_bytes(8, "big") + _encode(meta)
            txn.put(_META_KEY, zlib.crc32(rest).to_bytes(4, "big") + rest)
        self._sum = total

    def close(self) -> None:
        """Gives the files back."""
        self._env.close()
