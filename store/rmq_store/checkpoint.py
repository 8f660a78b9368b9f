"""A copy of the state in LMDB, for a fast start only: never the truth, discarded when in doubt.

    key                              value (msgpack)
    m                                Meta: what the copy stands for
    t <topic>                        [type, [[first offset, max offset], ... per queue]]
    g <group>                        the GroupPut entry
    c <group> 00 <topic> 00 <queue>  [next, [[origin topic, queue, offset -> retry offset], ...]]
    o <group> 00 <topic> 00 <queue> 00 <chunk>   [[offset, attempt, sequence, taken_ms, due_ms, client], ...]

A commit is whole or absent. Its order is the crash story: the log is synced to `position`, then the queue files, then
LMDB commits. A crash before the commit: the last checkpoint counts, and the log is replayed from its position.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from rmq_store.disk import remove_tree

log_ = logging.getLogger("rmq.store")
FORMAT = 1
MAP_BYTES = 8 << 30  # address space, not disk; a bigger copy is not written and the start takes longer
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
            remove_tree(self._folder)
            return self._environment()

    def _environment(self) -> "lmdb.Environment":
        self._folder.mkdir(parents=True, exist_ok=True)
        return lmdb.open(str(self._folder), map_size=MAP_BYTES, max_dbs=0, readahead=False, max_readers=4)

    def load(self) -> tuple[Meta, Iterator[tuple[bytes, Any]]] | None:
        """What the last commit left: None where there is none, or where it can't be used (then it is discarded)."""
        try:
            with self._env.begin() as txn:
                raw = txn.get(b"m")
                pairs = [(bytes(k), _decode(v)) for k, v in txn.cursor() if bytes(k) != b"m"] if raw else []
            meta = msgspec.msgpack.decode(raw, type=Meta) if raw else None
        except (lmdb.Error, msgspec.DecodeError):
            self.discard()
            return None
        if meta is None:
            return None
        if meta.format != FORMAT:
            self.discard()
            return None
        return meta, iter(pairs)

    def discard(self) -> None:
        """Starts over: the log has all that is in here."""
        self._env.close()
        remove_tree(self._folder)  # for good: one day the log would reach where it claims to have been
        self._env = self._open()

    def commit(self, meta: Meta, pairs: list[tuple[bytes, bytes | None]], *, everything: bool) -> None:
        """Pairs that changed since the last one, None deletes; or all there are. Raises lmdb.Error."""
        with self._env.begin(write=True) as txn:
            if everything:
                txn.drop(self._env.open_db(), delete=False)
            for key, value in pairs:
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)
            txn.put(b"m", _encode(meta))

    def close(self) -> None:
        """Gives the files back."""
        self._env.close()
