"""A stopped store as a reader sees it, for `rmq store inspect`, `check` and `dump`. Never writes: see readonly.py.

    with Inspection(Path("rmq-data")) as store:
        for found in store.scan():  # Record, or Gap where bytes are damaged
            store.replay(found)

What `replay` builds in `state` is what a start would recover from the log alone, whatever the checkpoint says; it takes
20 bytes of memory a message.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from rmq_store import checkpoint, recovery, storeformat
from rmq_store.commitlog import CommitLog, Gap
from rmq_store.consumequeue import QueueFiles
from rmq_store.doubt import Doubt
from rmq_store.errors import StoreError
from rmq_store.lmdbfile import Unreadable
from rmq_store.readonly import ReadOnlyDisk, SharedLock
from rmq_store.record import BLANK_BYTES, Record, peek_size
from rmq_store.segment import FOLDER
from rmq_store.state import State

CHECKPOINT_PATH = "rmq/checkpoint"
_TAIL_BYTES = 64 << 10  # behind the log's end, where the start of an unfinished record would be


class Inspection:
    """The store in one directory. What a scan met: `end`, behind the last whole record, and what is `damaged`."""

    def __init__(self, root: Path) -> None:
        """Raises StoreError: no store, in use, files missing or not to be read."""
        self.root = root
        if not (root / FOLDER).is_dir():
            raise StoreError(f"{root} is no store: it has no {FOLDER} directory; name the --data of a server")
        self._lock = SharedLock(root)
        try:
            self.disk = ReadOnlyDisk(root)
            self.form = self._form()
            foreign_end = self.form.foreign_end if self.form else storeformat.ANYWHERE
            self.log = CommitLog(self.disk, segment_bytes=1, reserve_bytes=1, foreign_end=foreign_end)
        except OSError as error:
            self._lock.release()
            raise StoreError(f"cannot read {error.filename or root}: {error.strerror}") from None
        except StoreError:
            self._lock.release()
            raise
        self.state = State(QueueFiles(self.disk, open_max=1))
        self._doubt = Doubt(self.state, self.log)
        self.begin = self.end = self.log.begin
        self.damaged: list[Gap] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.log.close()
        self._lock.release()

    def _form(self) -> storeformat.Form | None:
        text = storeformat.text_of(self.root)
        try:
            return storeformat.parse(text) if text.strip() else None
        except storeformat.Damaged:
            return None

    @property
    def format(self) -> str:
        """The version's number; empty where nothing says, or what says so is damaged."""
        return str(self.form.version) if self.form else ""

    def scan(self, position: int | None = None) -> Iterator[Record | Gap]:
        """Every record from a position on, or from the first, and what is damaged between them."""
        for found in self.log.scan(self.begin if position is None else max(position, self.begin)):
            if isinstance(found, Record):
                self.end = found.position + found.size
            else:
                self.damaged.append(found)
            yield found

    def replay(self, found: Record | Gap) -> None:
        """Its effect on `state`. Raises StoreError for a journal of a newer version."""
        if isinstance(found, Record):
            recovery.replay(self.state, found, self._doubt)
        else:
            self._doubt.begin(found.end)

    def has_unfinished(self) -> bool:
        """After a whole scan: a record was begun behind the end, as a crash leaves it; the next start cuts it off."""
        segment = next((one for one in self.log.segments if one.base <= self.end < one.end), None)
        tail = segment.read(self.end, _TAIL_BYTES) if segment is not None else b""
        return tail.count(0) != len(tail) and not _is_blank(tail)

    def checkpoint_end(self) -> int | None:
        """Up to where the checkpoint knows the log to be whole; None where there is no checkpoint that can be read."""
        try:
            kept = checkpoint.read(self.root / CHECKPOINT_PATH)
        except (OSError, Unreadable):
            return None
        meta = kept.meta if kept else None
        return meta.last_position + meta.last_size if meta is not None and meta.last_size else None


def _is_blank(tail: bytes) -> bool:
    """A segment's closing mark."""
    return peek_size(tail[:BLANK_BYTES]) == 0
