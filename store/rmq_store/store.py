"""The store as the broker sees it: append, journal, read, when_safe. Wires log, state, flusher, checkpoint and retention.

One owner per thing: bytes are commitlog's, safety is flush's, tables are state's. All calls are made on the event loop;
the one worker thread syncs and commits checkpoints and touches no live object.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import lmdb
import msgspec

from rmq_store import journal, recovery, snapshot
from rmq_store.checkpoint import FORMAT, Checkpoint, Meta
from rmq_store.commitlog import CommitLog
from rmq_store.consumequeue import FILE_BYTES, FILLER_SIZE, ConsumeQueue, Entry, QueueFiles
from rmq_store.disk import DirectoryLock, Disk, MemoryDisk, RealDisk
from rmq_store.errors import StoreError
from rmq_store.flush import Flusher, Mode
from rmq_store.journal import Change, Cursors, QueueEnds, Started, StateEnd, TopicPut
from rmq_store.record import SYS_FLAG_ROLLBACK, Damaged, Draft, Record
from rmq_store.segment import Segment
from rmq_store.state import Origin, State, Topic

T = TypeVar("T")
log_ = logging.getLogger("rmq.store")
FORMAT_PATH = "rmq/format"
SEQUENCE_BITS = 40  # of a delivery's number within one start of the store; the start number lies above
_STATE_CHANGES = 500  # state entries a turn at the start of a segment: well below 256 KiB and a few ms
_SLOW_CHECKPOINT_FILES = 256


class Settings(msgspec.Struct, frozen=True):
    """What the store is told; sizes in bytes."""

    mode: Mode
    segment_bytes: int
    reserve_bytes: int
    free_min_bytes: int
    flush_interval_ms: int
    checkpoint_interval_ms: int
    checkpoint_records: int
    queue_files_open_max: int
    store_host: bytes
    store_port: int


class Store:
    """An open store. `on_visible(queue)` hears of queues with new readable messages, `on_failure` of the end."""

    def __init__(
        self,
        root: Path | None,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        *,
        now_ms: Callable[[], int],
        on_visible: Callable[[ConsumeQueue], None],
        on_failure: Callable[[StoreError], None],
    ) -> None:
        """Opens or makes it; `root` None: in memory. Raises StoreError, in one line that says what to do."""
        self._settings = settings
        self._loop = loop
        self._now_ms = now_ms
        self._on_visible = on_visible
        self._lock, self.disk = _open_root(root)
        self._worker = ThreadPoolExecutor(1, "rmq-store")
        self._checkpoint = Checkpoint(root / "rmq" / "checkpoint") if root else None
        self.log = CommitLog(
            self.disk,
            segment_bytes=settings.segment_bytes,
            reserve_bytes=settings.reserve_bytes,
            free_min_bytes=settings.free_min_bytes,
            store_host=settings.store_host,
            store_port=settings.store_port,
        )
        self.files = QueueFiles(self.disk, settings.queue_files_open_max)
        self.state = State(self.files)
        self.report = recovery.recover(self.log, self.state, self._checkpoint)
        self.log.on_roll = self._begin_state
        self._unseen: deque[tuple[int, ConsumeQueue]] = (
            deque()
        )  # (end position, queue) of messages that are not safe yet
        self._changes: list[Change] = []
        self._state_left: Iterator[Change] | None = None
        self._checkpoint_due: asyncio.TimerHandle | None = None
        self._checkpointing = False
        self._checkpointed_end = self.report.replayed_from
        self._records = 0
        self.flusher = Flusher(
            self.log,
            settings.mode,
            loop,
            self._worker,
            interval_ms=settings.flush_interval_ms,
            before_write=self._write_journal,
            on_safe=self._show,
            on_failure=on_failure,
        )
        self._start()

    def _start(self) -> None:
        """All that was recovered is synced before anyone sees it; the start number makes handles of this run unlike any other's."""
        for queue in (q for topic in self.state.topics.values() for q in topic.queues):
            queue.visible = queue.max_offset
        number = max(self.state.start_number, self.state.sequence_floor >> SEQUENCE_BITS) + 1
        self.sequence = number << SEQUENCE_BITS
        for segment in self.log.segments[-2:]:
            segment.file.sync()
        self.apply(Started(number))
        self.flusher.finish()
        if self.report.records > self._settings.checkpoint_records:
            self._checkpoint_now()

    # -- write -------------------------------------------------------------------------------------------------------

    def append(
        self, topic: Topic, queue: ConsumeQueue, draft: Draft, tags_code: int, origin: Origin | None = None
    ) -> int:
        """Buffers a message at the queue's end; returns its queue offset. Raises StoreFull: nothing happened then."""
        if origin is not None:
            self._write_journal()  # what this record ends or moves must come before it in the log
        offset = queue.max_offset
        position, size = self.log.append(draft, offset, self._now_ms())
        self.state.index(queue, offset, position, size, tags_code)
        self._unseen.append((position + size, queue))
        if origin is not None:
            self.state.settle_origin(origin, topic.name, queue.queue_id, offset)
        self._touch()
        return offset

    def apply(self, change: Change) -> None:
        """Changes the state at once and journals it with this turn."""
        self.state.apply(change)
        self._changes.append(change)
        if isinstance(change, journal.TopicDrop | journal.GroupDrop | TopicPut):
            self._write_journal()  # messages of this turn, before and after, must keep their side of it
        self._touch()

    def when_safe(self, result: T) -> "asyncio.Future[T] | T":
        """`result` once all that this turn appended is safe by the flush profile."""
        return self.flusher.when_safe(result)

    def next_sequence(self) -> int:
        """A number for one receive's or one extension's handles, never used before."""
        self.sequence += 1
        return self.sequence

    def _touch(self) -> None:
        self._records += 1
        self.flusher.touch()
        if self._checkpoint is None:
            return
        if self._checkpoint_due is None:
            self._checkpoint_due = self._loop.call_later(
                self._settings.checkpoint_interval_ms / 1000, self._checkpoint_now
            )
        elif self._records == self._settings.checkpoint_records:
            self._checkpoint_now()

    def _write_journal(self) -> None:
        if self._state_left is not None:
            self._continue_state()
        if not self._changes:
            return
        changes, self._changes = self._changes, []
        now_ms = self._now_ms()
        for body in journal.encode(changes):
            draft = Draft(journal.TOPIC, 0, body, b"", SYS_FLAG_ROLLBACK, now_ms, b"\x7f\0\0\1", 0)
            self.log.append(draft, 0, now_ms, journal=True)

    def _begin_state(self, segment: Segment) -> None:
        """A segment began: its first records repeat the state, over as many turns as it takes."""
        self._state_left = self._state_changes(segment.base)

    def _state_changes(self, base: int) -> Iterator[Change]:
        state = self.state
        yield Started(self.sequence >> SEQUENCE_BITS)
        for name in list(state.topics):
            if (topic := state.topics.get(name)) is not None:
                yield TopicPut(name, topic.type, len(topic.queues))
                yield QueueEnds(name, [queue.max_offset for queue in topic.queues])
        for name in list(state.groups):
            if (group := state.groups.get(name)) is not None:
                yield group
        for key in list(state.leases.subscriptions):
            subscription = state.leases.subscriptions.get(key)
            if subscription is not None and subscription.ledgers:
                yield Cursors(*key, [(q, ledger.next) for q, ledger in subscription.ledgers.items()])
        yield StateEnd(base)

    def _continue_state(self) -> None:
        changes, self._state_left = self._state_left, None
        for count, change in enumerate(changes or ()):
            if isinstance(change, StateEnd):
                self.state.apply(change)
            self._changes.append(change)
            if count >= _STATE_CHANGES:
                self._state_left = changes
                self._loop.call_soon(self.flusher.touch)
                return

    def _show(self, safe: int) -> None:
        changed: dict[ConsumeQueue, None] = {}
        unseen = self._unseen
        while unseen and unseen[0][0] <= safe:
            queue = unseen.popleft()[1]
            queue.visible += 1
            changed[queue] = None
        for queue in changed:
            self._on_visible(queue)

    # -- read --------------------------------------------------------------------------------------------------------

    def read(self, queue: ConsumeQueue, offset: int, entry: Entry) -> Record | None:
        """The message that a queue entry points to; None where it is lost, gone, or not what should be there (then logged)."""
        if entry.size == FILLER_SIZE:
            return None
        try:
            found = self.log.read(entry.position, entry.size)
            if (found.topic, found.queue_id, found.queue_offset) != (queue.topic, queue.queue_id, offset):
                raise Damaged(f"it belongs to {found.topic} queue {found.queue_id} offset {found.queue_offset}")
        except Damaged as error:
            if entry.position >= self.log.begin:
                log_.error("%s queue %d offset %d is damaged: %s", queue.topic, queue.queue_id, offset, error)
            return None
        return found

    # -- checkpoint --------------------------------------------------------------------------------------------------

    def _checkpoint_now(self) -> None:
        if self._checkpoint_due is not None:
            self._checkpoint_due.cancel()
            self._checkpoint_due = None
        if self._checkpointing or self._checkpoint is None or self.flusher.failure is not None:
            return
        self._records = 0
        self.flusher.end_turn()
        if self.flusher.failure is None:
            self._checkpointing = True
            job = self._checkpoint_job()
            done = self._worker.submit(job.run)
            done.add_done_callback(
                lambda d: (
                    self._loop.call_soon_threadsafe(self._after_checkpoint, job, d.exception())
                    if not self._loop.is_closed()
                    else None
                )
            )

    def _checkpoint_job(self) -> "_CheckpointJob":
        state = self.state
        queues = [(queue, queue.max_offset) for queue in state.dirty_queues]
        writes = [write for queue, _ in queues for write in queue.unwritten()]
        meta = Meta(
            FORMAT,
            self.log.written,
            *self.log.last,
            self.sequence >> SEQUENCE_BITS,
            self.sequence,
            sorted(base for base in state.state_complete if base >= self.log.begin),
        )
        everything, state.rewrite = state.rewrite, False
        pairs = snapshot.changed(state, everything=everything)
        assert self._checkpoint is not None
        segments = self.log.segments[-2:]
        return _CheckpointJob(self._checkpoint, self.disk, segments, queues, writes, meta, pairs, everything=everything)

    def _after_checkpoint(self, job: "_CheckpointJob", error: BaseException | None) -> None:
        self._checkpointing = False
        if error is not None:
            log_.warning("no checkpoint (%s): the next start will read more of the log; trying again", error)
            self.state.rewrite = True
            self.state.dirty_queues.update((queue, None) for queue, _ in job.queues)
            return
        for queue, offset in job.queues:
            queue.written_to(offset)
        if self._records and self._checkpoint_due is None:
            slow = max(1, len(job.writes) // _SLOW_CHECKPOINT_FILES)
            delay_s = slow * self._settings.checkpoint_interval_ms / 1000
            self._checkpoint_due = self._loop.call_later(delay_s, self._checkpoint_now)

    def close(self) -> None:
        """Writes, syncs and checkpoints all; the next start replays nothing. Raises StoreError where that failed."""
        if self._checkpoint_due is not None:
            self._checkpoint_due.cancel()
        self._worker.shutdown(wait=True)
        try:
            if self.flusher.failure is None:
                self.flusher.finish()
                if self._checkpoint is not None:
                    self._checkpoint_job().run()
        except (OSError, lmdb.Error) as error:
            log_.warning("no checkpoint at the stop (%s): the next start will read more of the log", error)
        finally:
            self._release()

    def _release(self) -> None:
        self.files.close()
        self.log.close()
        if self._checkpoint is not None:
            self._checkpoint.close()
        if self._lock is not None:
            self._lock.release()


class _CheckpointJob:
    """Finished bytes for the worker. Order: log synced, queue files written and synced, then LMDB commits."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        disk: Disk,
        segments: list[Segment],
        queues: list[tuple[ConsumeQueue, int]],
        writes: list[tuple[str, int, bytes]],
        meta: Meta,
        pairs: snapshot.Pairs,
        *,
        everything: bool,
    ) -> None:
        self._checkpoint, self._disk, self._segments = checkpoint, disk, segments
        self.queues, self.writes = queues, writes
        self._meta, self._pairs, self._everything = meta, pairs, everything

    def run(self) -> None:
        """Raises OSError or lmdb.Error; the old checkpoint counts then."""
        for segment in self._segments:
            segment.file.sync()
        for path, offset, data in self.writes:
            file = self._disk.open(path, FILE_BYTES)
            try:
                file.write(offset, data)
                file.sync()
            finally:
                file.close()
        self._checkpoint.commit(self._meta, self._pairs, everything=self._everything)


def _open_root(root: Path | None) -> tuple[DirectoryLock | None, Disk]:
    if root is None:
        return None, MemoryDisk()
    disk = RealDisk(root)
    try:
        lock = DirectoryLock(root)
    except OSError as error:
        raise StoreError(f"cannot use {root}: {error.strerror}; choose another directory with --data") from None
    path = root / FORMAT_PATH
    try:
        found = path.read_text().strip() if path.exists() else ""
        if found and found != str(FORMAT):
            lock.release()
            raise StoreError(
                f"{root} holds store format {found} of another version of rmq, this one reads {FORMAT}: "
                "use that version, or another --data"
            )
        if not found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{FORMAT}\n")
    except OSError as error:
        lock.release()
        raise StoreError(f"cannot write to {root}: {error.strerror}; choose another directory with --data") from None
    return lock, disk
