"""When is what was appended safe, and who is told: turns -> one pwrite -> (durable: one fsync) -> answers.

    durable   safe = fsynced. At most one fsync is in flight; all turns meanwhile share the next.
    fast      safe = in the page cache; an fsync follows within `interval_ms`.
    memory    safe = appended.

An answer is a Later that resolves, in order, once everything appended before it is safe. A failed write or fsync is
final (the kernel may drop the dirty pages and report success next time): every waiting answer fails and `on_failure` is
told once.
"""

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures import Future as WorkerFuture
from typing import Any, TypeVar

from rmq_store.commitlog import CommitLog
from rmq_store.errors import StoreError
from rmq_store.histogram import Histogram
from rmq_store.later import Later
from rmq_store.segment import Segment

T = TypeVar("T")
SYNC_BOUNDS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Mode(enum.Enum):
    """The flush profile."""

    DURABLE = "durable"
    FAST = "fast"
    MEMORY = "memory"


class Flusher:
    """Owns the turn. `before_write` appends what the turn still owes, the journal; `on_safe` hears of safe positions.

    `worker` has one thread and runs nothing but the log's syncs: an answer waits for no other file.
    """

    def __init__(
        self,
        log: CommitLog,
        mode: Mode,
        loop: asyncio.AbstractEventLoop,
        worker: Executor,
        *,
        interval_ms: int,
        before_write: Callable[[], None],
        on_safe: Callable[[int], None],
        on_failure: Callable[[StoreError], None],
    ) -> None:
        self._log = log
        self._mode = mode
        self._loop = loop
        self._worker = worker
        self._interval_s = interval_ms / 1000
        self._before_write, self._on_safe, self._on_failure = before_write, on_safe, on_failure
        self.safe = self.synced = log.written
        self.failure: StoreError | None = None
        self.syncs = Histogram(SYNC_BOUNDS_S)  # how long each fsync took, as the loop saw it
        self._sync_began_s = 0.0
        self._scheduled = False
        self._closed = False
        self._sync: tuple[int, WorkerFuture[None]] | None = (
            None  # the one in flight, and the position that it makes safe
        )
        self._background: asyncio.TimerHandle | None = None
        self._turn: list[tuple[Later[Any], object]] = []  # answers of this turn
        self._waiting: deque[tuple[int, list[tuple[Later[Any], object]]]] = deque()  # by end position
        self._for_disk: deque[tuple[int, asyncio.Future[None]]] = deque()  # who waits for the disk in every mode

    def touch(self) -> None:
        """Something was appended, or will be by `before_write`: end the turn when the loop has run what is ready."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self.end_turn)

    def when_safe(self, result: T) -> "Later[T] | T":
        """`result`, once everything appended so far, and this turn's journal, is safe."""
        self.touch()
        if self._mode is Mode.MEMORY:
            return result
        later: Later[T] = Later(loop=self._loop)
        if self._closed:
            later.set_exception(StoreError("the store is closed"))
        else:
            self._turn.append((later, result))
        return later

    def when_on_disk(self) -> "asyncio.Future[None]":
        """Once everything so far is synced, whatever the mode calls safe; at once where there is no disk. Ends the
        turn. The Future fails with StoreError.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self.end_turn()
        if self.failure is not None:
            future.set_exception(self.failure)
        elif self._mode is Mode.MEMORY or self.synced >= self._log.written:
            future.set_result(None)
        else:
            self._for_disk.append((self._log.written, future))
            self._start_sync()
        return future

    def end_turn(self) -> None:
        """The turn's pwrite; then sync or tell, as the mode says."""
        self._scheduled = False
        if self._closed or not self._write_turn():
            return
        if self._mode is Mode.DURABLE:
            self._advance(self.synced)
            if self._waiting:
                self._start_sync()
        else:
            self._advance(self._log.written)
        self._sync_later()

    def write(self) -> None:
        """What was appended and changed so far is with the operating system: for an answer that leaves in this very
        turn and waits for no sync. Raises StoreError: the log can't go on, and whoever waits has been told.
        """
        if self._mode is not Mode.MEMORY and not self._closed and not self._write_turn():
            assert self.failure is not None
            raise self.failure

    def _write_turn(self) -> bool:
        """False where the log can't go on; whoever waits has been told then."""
        try:
            if self.failure is not None:
                raise self.failure
            self._before_write()
            self._log.write()
        except StoreError as error:
            self._fail(error)
            return False
        if self._turn:
            self._waiting.append((self._log.written, self._turn))
            self._turn = []
        return True

    def _sync_later(self) -> None:
        """What nobody waits for is synced too, within the interval."""
        if self._mode is Mode.MEMORY or self._closed or self._background is not None:
            return
        if self.synced < self._log.written:
            self._background = self._loop.call_later(self._interval_s, self._background_sync)

    def _background_sync(self) -> None:
        self._background = None
        if self.failure is None:
            self._start_sync()

    def _start_sync(self) -> None:
        """At most one at a time: what comes meanwhile shares the next."""
        if self._sync is not None or self.synced >= self._log.written:
            return
        self._sync_began_s = self._loop.time()
        done = self._worker.submit(_sync_all, self._log.take_unsynced())
        self._sync = self._log.written, done
        done.add_done_callback(self._synced_on_worker)

    def _synced_on_worker(self, done: "WorkerFuture[None]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: `close` has asked the future itself
            self._loop.call_soon_threadsafe(self._after_sync, done)

    def _after_sync(self, done: "WorkerFuture[None]") -> None:
        if self._sync is None or self._sync[1] is not done:
            return  # `finish` did not wait to be told
        target, self._sync = self._sync[0], None
        self.syncs.add(max(self._loop.time() - self._sync_began_s, 0.0))
        error = done.exception()
        if error is not None:
            self._fail_sync(error)
            return
        self._set_synced(max(self.synced, target))
        if self._mode is Mode.DURABLE:
            self._advance(self.synced)
        if (self._for_disk or (self._waiting and self._mode is Mode.DURABLE)) and not self._closed:
            self._start_sync()
        self._sync_later()

    def _fail_sync(self, error: BaseException) -> None:
        text = f"fsync of the commit log failed ({error}): what was sent from {self.synced} on is not safe; stopping"
        self._fail(StoreError(text))

    def _set_synced(self, synced: int) -> None:
        self.synced = synced
        while self._for_disk and self._for_disk[0][0] <= synced:
            future = self._for_disk.popleft()[1]
            if not future.done():
                future.set_result(None)

    def _advance(self, safe: int) -> None:
        if safe > self.safe:
            self.safe = safe
            self._on_safe(safe)
        while self._waiting and self._waiting[0][0] <= safe:
            for later, result in self._waiting.popleft()[1]:
                later.resolve(result)

    def _fail(self, error: StoreError) -> None:
        first = self.failure is None
        self.failure = error
        answers = [*self._turn, *(pair for _, pairs in self._waiting for pair in pairs)]
        for_disk = [future for _, future in self._for_disk if not future.done()]
        self._turn.clear()
        self._waiting.clear()
        self._for_disk.clear()
        for later, _ in answers:
            later.reject(error)
        for future in for_disk:
            future.set_exception(error)
        if first:
            self._on_failure(error)

    def finish(self) -> None:
        """Everything appended is written, synced and answered on return; it waits for the disk. Raises StoreError."""
        if self._background is not None:
            self._background.cancel()
            self._background = None
        if self._write_turn() and self._sync_in_flight_succeeds():
            try:
                _sync_all(self._log.take_unsynced())
            except OSError as error:
                self._fail_sync(error)
            else:
                self._set_synced(self._log.written)
                self._advance(self.synced)
        if self.failure is not None:
            raise self.failure

    def _sync_in_flight_succeeds(self) -> bool:
        if self._sync is not None:
            done, self._sync = self._sync[1], None
            error = done.exception()
            if error is not None:
                self._fail_sync(error)
        return self.failure is None

    def close(self) -> None:
        """`finish`, and no turn from now on: the log's files are about to be given back. Raises StoreError."""
        self._closed = True
        self.finish()


def _sync_all(segments: list[Segment]) -> None:
    for segment in segments:
        segment.sync()
