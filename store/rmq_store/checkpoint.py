"""A copy of the state in LMDB, for a fast start only: never the truth, discarded when in doubt.

    key                              value (msgpack)
    m                                Meta: what the copy stands for
    t <topic>                        [type, [[first offset, max offset], ... per queue]]
    g <group>                        the GroupPut entry
    c <group> 00 <topic> 00 <queue>  [next, [[origin topic, queue, offset -> retry offset], ...]]
    o <group> 00 <topic> 00 <queue> 00 <chunk>   [[offset, attempt, sequence, taken_ms, due_ms, client], ...]
    w                                [the latest due time of a timer that fired]
    w <due_ms> <number>              [first number]: one timer that waits; both 8 bytes, big-endian

A commit is whole or absent. Its order is the crash story: the log is synced to `position`, then the queue files, then
LMDB commits. A crash before the commit: the last checkpoint counts, and the log is replayed from its position.
"""

import itertools
import logging
import shutil
import struct
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec

log_ = logging.getLogger("rmq.store")
FORMAT = 1
MAP_BYTES = 8 << 30  # address space, not disk; a bigger copy is not written and the start takes longer
TIMER = b"w"  # first byte of the keys of timers
TIMER_KEY = struct.Struct(">cqq")  # TIMER, due_ms, number
_BEHIND_TIMERS = bytes((TIMER[0] + 1,))
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


class Checkpoint:
    """The LMDB environment under `<data>/rmq/checkpoint`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = self._open()

    def _open(self) -> "lmdb.Environment":
        try:
            return self._environment()
        except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
            log_.warning("the checkpoint is damaged (%s): it is discarded, the whole log is read", error)
            shutil.rmtree(self._folder)
            return self._environment()

    def _environment(self) -> "lmdb.Environment":
        self._folder.mkdir(parents=True, exist_ok=True)
        return lmdb.open(str(self._folder), map_size=MAP_BYTES, max_dbs=0, readahead=False, max_readers=4)

    def load(self) -> tuple[Meta, Iterator[tuple[bytes, Any]]] | None:
        """What the last commit left: None where there is none, or where it can't be used (then it is discarded)."""
        try:
            with self._env.begin() as txn:
                raw = txn.get(b"m")
                pairs = _read(txn) if raw else iter(())
            meta = msgspec.msgpack.decode(raw, type=Meta) if raw else None
        except (lmdb.Error, msgspec.DecodeError):
            self.discard()
            return None
        if meta is None:
            return None
        if meta.format != FORMAT:
            self.discard()
            return None
        return meta, pairs

    def discard(self) -> None:
        """Starts over: the log has all that is in here."""
        self._env.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._env = self._open()

    def commit(self, meta: Meta, pairs: Iterable[tuple[bytes, bytes | None]], *, everything: bool) -> None:
        """Pairs that changed since the last one, None deletes; or all there are, but for those of timers, which are
        always told as changes. Raises lmdb.Error.
        """
        with self._env.begin(write=True) as txn:
            if everything:
                _drop_all_but_timers(txn)
            for key, value in pairs:
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)
            txn.put(b"m", _encode(meta))

    def close(self) -> None:
        """Gives the files back."""
        self._env.close()


def _read(txn: "lmdb.Transaction") -> Iterator[tuple[bytes, Any]]:
    """All pairs, in the keys' order. A million timers are in memory as numbers until they are asked for."""
    pairs: list[tuple[bytes, Any]] = []
    timers = array("q")
    for key, value in txn.cursor():
        key, decoded = bytes(key), _decode(value)
        if len(key) == TIMER_KEY.size and key.startswith(TIMER):
            timers.extend((*TIMER_KEY.unpack(key)[1:], *decoded))
        elif key != b"m":
            pairs.append((key, decoded))
    return itertools.chain(pairs, _timers(timers))


def _timers(rows: "array[int]") -> Iterator[tuple[bytes, Any]]:
    for at in range(0, len(rows), 3):
        yield TIMER_KEY.pack(TIMER, rows[at], rows[at + 1]), [rows[at + 2]]


def _drop_all_but_timers(txn: "lmdb.Transaction") -> None:
    cursor = txn.cursor()
    more = cursor.first()
    while more:
        more = cursor.set_range(_BEHIND_TIMERS) if cursor.key()[:1] == TIMER else cursor.delete()
