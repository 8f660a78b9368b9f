"""Which messages have an id or a key: files (keyfile.py), one for each 64 MiB of log, made in the background.

    | file | file | file, being written | table in memory ...  | not passed yet |
    ^ log begin                         ^ its start            ^ reached        ^ safe

A send pays nothing. Work is cut into pieces of known cost and a turn does at most SLICE_UNITS of it: while nothing is
appended, while someone searches, or once more than BEHIND_BYTES_MAX are not passed yet. A search waits until all that
was safe when it came is passed, then goes from the newest entries to the oldest and looks at each message itself.
Journal records, half messages and roll backs have no entries.

Derived data, never the truth: the worker writes a whole file and syncs it. Crash before that: its checksum is wrong, it
is dropped and made anew, as is one that is damaged, foreign, or knows of more log than a power cut left. Nothing but
names, and the ends of the newest, is read before serving; each file is checked once, later, by the worker. A stop
throws the table away: the next start passes at most one file's worth of log again.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

from rmq_store import keyfile, record
from rmq_store.commitlog import CommitLog
from rmq_store.disk import Disk
from rmq_store.journal import TOPIC
from rmq_store.keyfile import Chains, KeyFile, Reader, Table, key_hash, keys_of, walk
from rmq_store.record import BLANK_BYTES, HEAD_BYTES_MAX, MAGIC, SYS_FLAG_PREPARED, Record, peek_size
from rmq_store.segment import Segment

T = TypeVar("T")
Work = Generator[int, None, list[Record]]
log_ = logging.getLogger("rmq.store")
FILE_LOG_BYTES = 64 << 20  # of log that one file covers
ENTRIES_MAX = 1 << 19  # of one file, about: it covers less log then
IDLE_S = 0.2
BEHIND_BYTES_MAX = 1 << 30
SEARCHES_MAX = 64

SLICE_UNITS = 2000  # a unit is about a microsecond: 2 ms
_RECORD_UNITS = 8
_KEY_UNITS = 4
_ENTRY_UNITS = 2
_OPEN_UNITS = 50
_READ_UNITS = 20  # and one for each KiB
_WINDOW_UNITS = 20
_WINDOW_BYTES = 64 << 10
_KEYS_A_PIECE = 50
_PAUSE_S = 0.002  # between two slices that nobody waits for
_BEHIND_PAUSE_S = 0.01
_FAILURE_PAUSE_S = 10.0
_RECORD_MAGIC = MAGIC.to_bytes(4, "big")


class _Lost(Exception):  # noqa: N818  # says what became of a file
    """A file is not as it was checked: it is made anew, and the search begins again."""


class TooManySearches(Exception):  # noqa: N818  # says what there is
    """SEARCHES_MAX of them wait."""


class _Wanted:
    """What a search is for."""

    def __init__(self, hashes: list[int], accept: Callable[[Record], bool], limit: int, bytes_max: int) -> None:
        self.hashes = hashes
        self.accept = accept
        self._limit = limit
        self._bytes_max = bytes_max

    def has_enough(self, found: list[Record]) -> bool:
        """No more are wanted."""
        return len(found) >= self._limit or sum(len(kept.body) for kept in found) >= self._bytes_max

    def cut(self, found: list[Record]) -> list[Record]:
        """The first ones, up to the one that makes it enough."""
        size = 0
        for count, kept in enumerate(found[: self._limit], 1):
            size += len(kept.body)
            if size >= self._bytes_max:
                return found[:count]
        return found[: self._limit]


class _Search:
    """Someone waits: until everything before `end` has entries, then for `work`."""

    def __init__(self, end: int, wanted: _Wanted, work: Work, future: "asyncio.Future[list[Record]]") -> None:
        self.end = end
        self.wanted = wanted
        self.work = work
        self.future = future


class KeyIndex:
    """The index of one log. `safe()`: the position up to which messages may be seen; `read_at`: the message there, None
    where no queue points to it (any more).
    """

    def __init__(
        self,
        disk: Disk,
        log: CommitLog,
        loop: asyncio.AbstractEventLoop,
        worker: Executor,
        *,
        safe: Callable[[], int],
        read_at: Callable[[int], Record | None],
    ) -> None:
        """Raises OSError."""
        self._disk, self._log, self._loop, self._worker = disk, log, loop, worker
        self._safe, self._read_at = safe, read_at
        self._step_bytes = min(FILE_LOG_BYTES, log.segment_bytes)
        self._slots = max(256, 1 << (self._step_bytes >> 10).bit_length() - 1)
        self._files: list[KeyFile] = []  # by start; they do not overlap
        self._unchecked = self._known_starts()
        self._unsaved: KeyFile | None = None
        self._table: Table | None = None
        self._table_limit: int | None = None  # where the next file begins, if there is one
        self._searches: deque[_Search] = deque()
        self._busy = self._closed = False
        self._failure: BaseException | None = None  # of the last write
        self._timer: asyncio.Handle | None = None
        self._seen_end = log.end  # at the last slice

    def _known_starts(self) -> list[int]:
        """Those that know of more log than there is are deleted before any of it is written."""
        starts = keyfile.starts(self._disk)
        while starts and not (keyfile.end_of(self._disk, starts[-1]) or self._log.end + 1) <= self._log.end:
            self._disk.remove(keyfile.path_of(starts.pop()))
        return starts

    # -- when --------------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Something was appended."""
        if self._timer is None:
            self._schedule()

    def _schedule(self) -> None:
        """The next slice: now for a search, soon where nothing else goes on, else when that has ended."""
        if self._timer is not None or self._busy or self._closed:
            return
        if self._searches:
            self._timer = self._loop.call_soon(self._run)
        elif self._log.end > self._reached():
            self._timer = self._loop.call_later(self._pause_s(), self._run)

    def _pause_s(self) -> float:
        if self._failure is not None:
            return _FAILURE_PAUSE_S
        if self._log.end != self._seen_end or self._reached() >= self._safe():
            return _BEHIND_PAUSE_S if self._is_behind() else IDLE_S
        return _PAUSE_S

    def _is_behind(self) -> bool:
        return self._safe() - max(self._reached(), self._log.begin) > BEHIND_BYTES_MAX

    def _run(self) -> None:
        """One slice, if it may be now; then sees to the next."""
        self._timer = None
        if self._searches or self._log.end == self._seen_end or self._is_behind():
            left = SLICE_UNITS
            while left > 0 and (cost := self._piece()):
                left -= cost
        self._schedule()
        self._seen_end = self._log.end

    def _piece(self) -> int:
        """A bounded piece of work; returns its cost in units, 0: there is none, or the worker has it."""
        while self._searches and self._searches[0].future.done():
            self._searches.popleft().work.close()
        search = self._searches[0] if self._searches else None
        if self._reached() < (search.end if search else self._safe()):
            return self._build()
        return self._go_on(search) if search else 0

    def _submit(self, work: Callable[[], T], then: Callable[["Future[T]"], None]) -> None:
        def tell(done: "Future[T]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._worked, done, then)

        self._busy = True
        self._worker.submit(work).add_done_callback(tell)

    def _worked(self, done: "Future[T]", then: Callable[["Future[T]"], None]) -> None:
        self._busy = False
        if not self._closed:
            then(done)
            self._schedule()

    def close(self) -> None:
        """No work from now on; who searches is cancelled."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._searches:
            search = self._searches.popleft()
            search.work.close()
            search.future.cancel()

    # -- build -------------------------------------------------------------------------------------------------------

    def _reached(self) -> int:
        """Everything before has its entries."""
        if self._unchecked:
            return -1
        return self._table.end if self._table is not None else self._gap()[0]

    def _gap(self) -> tuple[int, int | None]:
        """The first positions that no file covers: from, and up to the next file's."""
        start = self._log.begin
        for file in self._files:
            if file.start > start:
                return start, file.start
            start = max(start, file.end)
        return start, None

    def _build(self) -> int:
        if self._busy:
            return 0
        if self._unchecked:
            start = self._unchecked.pop()
            self._submit(lambda: keyfile.check(self._disk, start), self._adopt)
            return 0
        if self._unsaved is not None:
            return self._save(self._unsaved)
        if self._table is not None and self._table.end < self._log.begin:
            self._table = None  # retention was faster
        table = self._table or self._begin()
        if self._is_full(table):
            return self._finish(table)
        return self._add_keys(table) if table.keys else self._pass_record(table)

    def _adopt(self, done: "Future[KeyFile | None]") -> None:
        known = done.result()
        if known is not None and (not self._files or known.end <= self._files[0].start):
            self._files.insert(0, known)
        elif known is not None:
            self._worker.submit(keyfile.remove, self._disk, known.path)
        if not self._unchecked:
            self.drop_before(self._log.begin)

    def _begin(self) -> Table:
        start, self._table_limit = self._gap()
        self._table = Table(start, self._slots)
        return self._table

    def _is_full(self, table: Table) -> bool:
        if table.keys:
            return False
        full = table.end - table.start >= self._step_bytes or table.count >= ENTRIES_MAX
        return full or (self._table_limit is not None and table.end >= self._table_limit)

    def _finish(self, table: Table) -> int:
        file = KeyFile(table.start, table.end, table.count, table.slots, table)
        self._files.append(file)
        self._files.sort(key=lambda one: one.start)
        self._unsaved, self._table = file, None
        return _OPEN_UNITS

    def _save(self, file: KeyFile) -> int:
        """A file that cannot be written stays in memory, and no other is begun."""
        table = file.table
        assert table is not None
        self._submit(lambda: keyfile.write(self._disk, file, table), self._saved)
        return 0

    def _saved(self, done: "Future[None]") -> None:
        error = done.exception()
        if error is None:
            if self._unsaved is not None:
                self._unsaved.table = None
            self._unsaved = self._failure = None
            return
        if self._failure is None:
            log_.warning("cannot write the key index (%s): trying again, until then old messages are not found", error)
        self._failure = error
        while self._searches:
            search = self._searches.popleft()
            search.work.close()
            if not search.future.done():
                search.future.set_exception(error)

    def _add_keys(self, table: Table) -> int:
        """Some of one message's: there may be thousands."""
        keys, table.keys = table.keys[:_KEYS_A_PIECE], table.keys[_KEYS_A_PIECE:]
        for key in keys:
            table.add(key_hash(table.topic, key), table.end)
        if not table.keys:
            table.end = table.next
        return _KEY_UNITS * len(keys)

    def _pass_record(self, table: Table) -> int:
        position = table.end
        segment = self._log.segment_at(position)
        head = segment.read(position, HEAD_BYTES_MAX)
        if peek_size(head) == 0:
            return self._pass_to(table, segment.end)
        found = record.outline(head, position)
        names = None
        if found is not None:
            names = record.names(segment.read(position + found.names_at, found.size - found.names_at))
        if found is None or names is None:
            return self._pass_damage(table, segment)
        topic, properties = names
        after = min(position + found.size, segment.end)
        if topic == TOPIC or found.sys_flag & SYS_FLAG_PREPARED or not (keys := keys_of(properties)):
            return self._pass_to(table, after)
        table.topic, table.keys, table.next = topic, keys, after
        return _RECORD_UNITS + len(keys) // 4

    def _pass_to(self, table: Table, position: int) -> int:
        table.end = position if self._table_limit is None else min(position, self._table_limit)
        return _RECORD_UNITS

    def _pass_damage(self, table: Table, segment: Segment) -> int:
        """To what may be the next record: then that is looked at."""
        start = table.end + 1
        window = segment.read(start, _WINDOW_BYTES)
        at = window.find(_RECORD_MAGIC, 4) - 4
        if at < 0:
            at = len(window) if start + len(window) >= segment.end else len(window) - BLANK_BYTES + 1
        self._pass_to(table, start + at)
        return _WINDOW_UNITS

    def drop_before(self, begin: int) -> None:
        """The log begins there now."""
        gone = [file for file in self._files if file.end <= begin]
        self._files = [file for file in self._files if file.end > begin]
        for file in gone:
            if file is self._unsaved:
                self._unsaved = None
            self._worker.submit(keyfile.remove, self._disk, file.path)

    # -- search ------------------------------------------------------------------------------------------------------

    def find(
        self,
        names: Sequence[tuple[str, str]],
        accept: Callable[[Record], bool],
        *,
        limit: int,
        bytes_max: int,
    ) -> "asyncio.Future[list[Record]]":
        """The newest messages under any of these (topic, key) that `accept` takes, the newest first.

        At most `limit`, and none more once their bodies have `bytes_max` bytes. Raises TooManySearches. Cancelling
        the Future ends it; its exceptions are OSErrors: the index can't be read or written.
        """
        if len(self._searches) >= SEARCHES_MAX:
            raise TooManySearches(f"{SEARCHES_MAX} searches are waiting")
        hashes = [key_hash(topic.encode(), key.encode()) for topic, key in names]
        wanted = _Wanted(hashes, accept, limit, bytes_max)
        future: asyncio.Future[list[Record]] = self._loop.create_future()
        self._searches.append(_Search(self._safe(), wanted, self._look(wanted), future))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._schedule()
        return future

    def _go_on(self, search: _Search) -> int:
        try:
            return next(search.work)
        except StopIteration as end:
            search.future.set_result(end.value)
        except _Lost:
            self._table = None  # so that work goes on at the first gap
            search.work = self._look(search.wanted)
            return _OPEN_UNITS
        except OSError as error:
            search.future.set_exception(error)
        self._searches.popleft()
        return _OPEN_UNITS

    def _look(self, wanted: _Wanted) -> Work:
        """From the newest entries to the oldest."""
        found: list[Record] = []
        if self._table is not None:
            found += yield from self._look_in(self._table, wanted)
        for file in reversed(self._files):
            if wanted.has_enough(found):
                break
            if file.end <= self._log.begin or file not in self._files:
                continue
            yield _OPEN_UNITS
            with self._opened(file) as chains:
                found += yield from self._look_in(chains, wanted)
        return wanted.cut(found)

    @contextlib.contextmanager
    def _opened(self, file: KeyFile) -> Iterator[Chains]:
        if file.table is not None:
            yield file.table
            return
        if self._disk.size(file.path) != file.size_bytes:
            log_.warning("%s was changed or deleted: it is made anew", file.path)
            self._files.remove(file)
            raise _Lost
        with contextlib.closing(self._disk.open(file.path, file.size_bytes, mapped=True)) as opened:
            yield Reader(file, opened)

    def _look_in(self, chains: Chains, wanted: _Wanted) -> Work:
        found: dict[int, Record] = {}
        for hash_ in wanted.hashes:
            mine: list[Record] = []
            for position in walk(chains, hash_):
                yield _ENTRY_UNITS
                if position is None or position in found:
                    continue
                kept = self._read_at(position)
                if kept is not None:
                    yield _READ_UNITS + (kept.size >> 10)
                    if wanted.accept(kept):
                        found[position] = kept
                        mine.append(kept)
                        if wanted.has_enough(mine):
                            break
                else:
                    yield _READ_UNITS
        return [found[position] for position in sorted(found, reverse=True)]
