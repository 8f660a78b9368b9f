"""When is what was appended safe, and who is told: turns -> one pwrite -> (durable: one fsync) -> answers.

    durable   safe = fsynced. At most one fsync is in flight; all turns meanwhile share the next.
    fast      safe = in the page cache; an fsync follows within `interval_ms`.
    memory    safe = appended.

An answer is a Future that resolves, in order, once everything appended before it is safe. A failed write or fsync is final
(the kernel may drop the dirty pages and report success next time): every waiting answer fails and `on_failure` is told once.
"""

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from rmq_store.commitlog import CommitLog
from rmq_store.errors import StoreError
from rmq_store.segment import Segment

T = TypeVar("T")


class Mode(enum.Enum):
    """The flush profile."""

    DURABLE = "durable"
    FAST = "fast"
    MEMORY = "memory"


class Flusher:
    """Owns the turn. `before_write` appends what the turn still owes (the journal); `on_safe` hears of each new safe position."""

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
        self._scheduled = False
        self._syncing = False
        self._background: asyncio.TimerHandle | None = None
        self._turn: list[tuple[asyncio.Future[object], object]] = []  # answers of this turn
        self._waiting: deque[tuple[int, list[tuple[asyncio.Future[object], object]]]] = (
            deque()
        )  # (end position, answers)
        self.failure: StoreError | None = None

    def touch(self) -> None:
        """Something was appended, or will be by `before_write`: end the turn when the loop has run what is ready."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.end_turn)

    def when_safe(self, result: T) -> "asyncio.Future[T] | T":
        """`result`, once everything appended so far, and this turn's journal, is safe."""
        self.touch()
        if self._mode is Mode.MEMORY:
            return result
        future: asyncio.Future[T] = self._loop.create_future()
        self._turn.append((future, result))  # type: ignore[arg-type]  # Future is invariant; the pair is of one type
        return future

    def end_turn(self) -> None:
        """The turn's pwrite; then sync or tell, as the mode says."""
        self._scheduled = False
        if self.failure is not None:
            self._fail(self.failure)
            return
        try:
            self._before_write()
            self._log.write()
        except StoreError as error:
            self._fail(error)
            return
        if self._turn:
            self._waiting.append((self._log.written, self._turn))
            self._turn = []
        if self._mode is Mode.DURABLE:
            if self._waiting:
                self._start_sync()
        else:
            self._advance(self._log.written)
        if self._mode is not Mode.MEMORY and self._background is None and self.synced < self._log.written:
            self._background = self._loop.call_later(self._interval_s, self._background_sync)

    def _background_sync(self) -> None:
        self._background = None
        if self.failure is None and self.synced < self._log.written:
            self._start_sync()

    def _start_sync(self) -> None:
        if self._syncing or self.synced >= self._log.written:
            return
        self._syncing = True
        target, segments = self._log.written, self._log.take_unsynced()
        done = self._worker.submit(_sync, segments)
        done.add_done_callback(
            lambda d: (
                self._loop.call_soon_threadsafe(self._after_sync, target, d.exception())
                if not self._loop.is_closed()
                else None
            )
        )

    def _after_sync(self, target: int, error: BaseException | None) -> None:
        self._syncing = False
        if error is not None:
            self._fail(
                StoreError(
                    f"fsync of the commit log failed ({error}): what was sent since {self.safe} is not safe; stopping"
                )
            )
            return
        self.synced = max(self.synced, target)
        if self._mode is Mode.DURABLE:
            self._advance(target)
            if self._waiting:
                self._start_sync()

    def _advance(self, safe: int) -> None:
        if safe > self.safe:
            self.safe = safe
            self._on_safe(safe)
        while self._waiting and self._waiting[0][0] <= safe:
            for future, result in self._waiting.popleft()[1]:
                if not future.done():
                    future.set_result(result)

    def _fail(self, error: StoreError) -> None:
        first = self.failure is None
        self.failure = error
        answers = [*self._turn, *(pair for _, pairs in self._waiting for pair in pairs)]
        self._turn.clear()
        self._waiting.clear()
        for future, _ in answers:
            if not future.done():
                future.set_exception(error)
        if first:
            self._on_failure(error)

    def finish(self) -> None:
        """Everything appended is written, synced and answered on return; the worker must be idle. Raises StoreError."""
        if self._background is not None:
            self._background.cancel()
        self.end_turn()
        if self.failure is not None:
            raise self.failure
        try:
            _sync(self._log.take_unsynced())
        except OSError as error:
            self._fail(StoreError(f"fsync of the commit log failed ({error.strerror})"))
            return
        self.synced = self._log.written
        self._advance(self._log.written)


def _sync(segments: list[Segment]) -> None:
    for segment in segments:
        segment.file.sync()
