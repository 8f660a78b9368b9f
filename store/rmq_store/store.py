"""The store as the broker sees it: append, journal, read, when_safe. Wires log, state, flusher, checkpoint, retention.

One owner per thing: bytes are commitlog's, safety is flush's, tables are state's, the checkpoint is saver's. All calls
are made on the event loop; two worker threads, one that syncs the log and one for all other files, touch no live
object.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import lmdb
import msgspec

from rmq_store import halves, journal, lites, recovery, repetition, snapshot, storeformat, timers
from rmq_store.checkpoint import Checkpoint
from rmq_store.commitlog import CommitLog
from rmq_store.consumequeue import FILLER_SIZE, ConsumeQueue, Entry, QueueFiles
from rmq_store.damage import Damage
from rmq_store.disk import DirectoryLock, Disk, MemoryDisk, RealDisk
from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Flusher, Mode
from rmq_store.halves import Half
from rmq_store.journal import Change, Started, StateEnd, TopicPut
from rmq_store.keyindex import KeyIndex
from rmq_store.later import Later
from rmq_store.record import BLANK_BYTES, SYS_FLAG_ROLLBACK, Damaged, Draft, Record, peek_size, property_bytes
from rmq_store.saver import Saver
from rmq_store.segment import Segment
from rmq_store.state import Origin, State, Topic
from rmq_store.storeformat import ANYWHERE, Form

T = TypeVar("T")
log_ = logging.getLogger("rmq.store")
SEQUENCE_BITS = 40  # of a delivery's number within one start of the store; the start number lies above
_FORGET_CHANGES = 1000  # changed tables that a store without checkpoints remembers
_STATE_CHANGES = 500  # state entries a turn at the start of a segment: well below 256 KiB and a few ms


def _one_thread(name: str) -> Executor:
    return ThreadPoolExecutor(1, name)


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
        disk: Disk | None = None,
        checkpoint: Checkpoint | None = None,
        executor: Callable[[str], Executor] = _one_thread,
    ) -> None:
        """Opens or makes it; `root` None: in memory. Raises StoreError, in one line that says what to do.

        `disk`: instead of the file system itself, over the same root; `checkpoint`: instead of the root's. With both
        a root is not needed: a simulation has none. `executor(name)`: one worker, which does things in order.
        """
        self._settings = settings
        self._loop = loop
        self._now_ms = now_ms
        self._on_visible = on_visible
        self._unseen: deque[tuple[int, ConsumeQueue, int]] = deque()  # not safe yet: (end position, queue, messages)
        self._changes: list[Change] = []
        self._state_left: Iterator[list[Change]] | None = None
        self._writing_state = False
        self._saver: Saver | None = None
        self._undeleted: deque[Segment] = deque()  # the worker's: taken out of the log, files still there
        self.damage = Damage(root)
        self._resources = contextlib.ExitStack()
        try:
            self._open(root, disk, checkpoint, executor, on_failure)
        except (OSError, lmdb.Error) as error:
            self._resources.close()
            raise StoreError(f"cannot open the store in {root}: {error}; repair it, or choose another --data") from None
        except StoreError:
            self._resources.close()
            raise

    def _open(
        self,
        root: Path | None,
        disk: Disk | None,
        checkpoint: Checkpoint | None,
        executor: Callable[[str], Executor],
        on_failure: Callable[[StoreError], None],
    ) -> None:
        settings, resources = self._settings, self._resources
        self.disk = disk or MemoryDisk()
        form = Form()
        if root is not None:
            self.disk = disk or RealDisk(root)
            lock, form = _take(root)
            resources.callback(lock.release)
            checkpoint = checkpoint or Checkpoint(root / "rmq" / "checkpoint")
        if checkpoint is not None:
            resources.callback(checkpoint.close)
        self.log = CommitLog(
            self.disk,
            segment_bytes=settings.segment_bytes,
            reserve_bytes=settings.reserve_bytes,
            free_min_bytes=settings.free_min_bytes,
            store_host=settings.store_host,
            store_port=settings.store_port,
            foreign_end=form.foreign_end,
        )
        imported = form.foreign_end == ANYWHERE and bool(self.log.segments)
        resources.callback(self.log.close)
        if form.segment_bytes and self.log.segments and self.log.segment_bytes != form.segment_bytes:
            self.log.refuse_lengths({self.log.segment_bytes, form.segment_bytes})
        self.files = QueueFiles(self.disk, settings.queue_files_open_max)
        resources.callback(self.files.close)
        self.files.rebuild = self._rebuild
        self.state = State(self.files)
        self.report = recovery.recover(self.log, self.state, checkpoint)
        self.damage.add_found(self.report)
        if root is not None:
            self.log.foreign_end = self.log.end if imported else form.foreign_end if form.foreign_end != ANYWHERE else 0
            storeformat.put(root, self.log.segment_bytes, self.log.foreign_end)
        self.log.on_roll = self._begin_state
        self._syncer = executor("rmq-sync")
        self._worker = executor("rmq-store")
        resources.callback(self._worker.shutdown)
        resources.callback(self._syncer.shutdown)  # first: it hands segments on to the other
        self.keys = KeyIndex(
            self.disk, self.log, self._loop, self._worker, safe=lambda: self.flusher.safe, read_at=self.read_at
        )
        resources.callback(self.keys.close)
        self._start(on_failure)
        if checkpoint is not None:
            self._saver = self._make_saver(checkpoint)
            if self.report.records > settings.checkpoint_records:
                self._saver.save()

    def _start(self, on_failure: Callable[[StoreError], None]) -> None:
        """All that was recovered is synced before anyone sees it; the start number makes this run's handles unique."""
        for queue in (q for topic in self.state.topics.values() for q in topic.queues):
            queue.visible = queue.max_offset
        number = max(self.state.start_number, self.state.sequence_floor >> SEQUENCE_BITS) + 1
        self.sequence = number << SEQUENCE_BITS
        self.log.make_safe(self.report.replayed_from)
        self.flusher = Flusher(
            self.log,
            self._settings.mode,
            self._loop,
            self._syncer,
            interval_ms=self._settings.flush_interval_ms,
            before_write=self._write_journal,
            on_safe=self._show,
            on_failure=on_failure,
        )
        self.apply(Started(number))
        self.flusher.finish()

    def _make_saver(self, checkpoint: Checkpoint) -> Saver:
        return Saver(
            checkpoint,
            self.disk,
            self.log,
            self.state,
            self.flusher,
            self._loop,
            self._worker,
            interval_ms=self._settings.checkpoint_interval_ms,
            records_max=self._settings.checkpoint_records,
            sequence=lambda: (self.sequence >> SEQUENCE_BITS, self.sequence),
        )

    # -- write -------------------------------------------------------------------------------------------------------

    def append(
        self,
        topic: Topic,
        queue: ConsumeQueue,
        draft: Draft,
        tags_code: int,
        origin: Origin | None = None,
        due_ms: int = 0,
    ) -> int:
        """Buffers a message at the queue's end; returns its queue offset. Raises StoreFull: nothing happened then.

        `due_ms`: of the timer that it stands for. StoreError: the log can't go on; `on_failure` hears of it at the
        turn's end.
        """
        self.flusher.touch()
        if origin is not None:
            self._write_journal()  # what this record ends or moves must come before it in the log
        offset = self._append_all(queue, ((draft, tags_code),))
        if origin is not None:
            self.state.settle_origin(origin, topic.name, queue.queue_id, offset, due_ms)
            if origin.attempt:
                self.log.write()  # it may be taken in this very turn
        self._touch()
        return offset

    def append_all(self, queue: ConsumeQueue, drafts: Sequence[tuple[Draft, int]]) -> int:
        """Buffers messages, each with its tags code, one after the other; returns the first queue offset.

        For messages that stand for no other. Raises as `append`: all of them or none.
        """
        first = self._append_all(queue, drafts)
        self._touch()
        return first

    def append_timers(self, drafts: Sequence[tuple[Draft, int, int]]) -> int:
        """As append_all, for records of the timer topic, each with its tags code and due_ms; the first number."""
        queue = self.own_queue(timers.TOPIC)
        first = self._append_all(queue, [(draft, tags_code) for draft, tags_code, _ in drafts])
        for number, (_, _, due_ms) in enumerate(drafts, first):
            self.state.timers.put(number, due_ms, number)
        self._touch()  # not before: a checkpoint may be made in it, of the log and of all that is known of it
        return first

    def append_halves(self, drafts: Sequence[tuple[Draft, int, int]], topic: str) -> int:
        """As append_timers, for records of the half topic, which are messages of `topic`, each with when it is checked
        first.
        """
        queue = self.own_queue(halves.TOPIC)
        first = self._append_all(queue, [(draft, tags_code) for draft, tags_code, _ in drafts])
        for number, (_, _, due_ms) in enumerate(drafts, first):
            self.state.halves.put(number, Half(topic, number, due_ms, 0))
        self._touch()  # as above
        return first

    def own_queue(self, topic: str) -> ConsumeQueue:
        """The one queue of a topic of ours, which is made with its first message."""
        if topic not in self.state.topics:
            self.apply(TopicPut(topic, recovery.UNKNOWN_TYPE, 1))
        return self.state.topics[topic].queues[0]

    def _append_all(self, queue: ConsumeQueue, drafts: Sequence[tuple[Draft, int]]) -> int:
        self.flusher.touch()
        if len(drafts) > 1:
            self.log.make_room(sum([draft.size for draft, _ in drafts]))
        first = queue.max_offset
        append, now_ms, of_lite = self.log.append, self._now_ms(), lites.PROPERTY_BYTES
        for offset, (draft, tags_code) in enumerate(drafts, first):
            queue.append(offset, append(draft, offset, now_ms), draft.size, tags_code)
            if of_lite in draft.properties:
                self._list_lite(queue, offset, draft, now_ms)
        self.state.dirty_queues[queue] = None
        self._unseen.append((self.log.end, queue, len(drafts)))
        return first

    def _list_lite(self, queue: ConsumeQueue, offset: int, draft: Draft, now_ms: int) -> None:
        name = property_bytes(draft.properties, lites.PROPERTY_BYTES).decode()
        if lites.name_in(queue.topic, {lites.PROPERTY: name}):
            self.state.lites.put(queue.topic, name, queue.queue_id, offset, now_ms)

    def apply(self, change: Change) -> None:
        """Changes the state at once and journals it with this turn."""
        self.state.apply(change)
        self._changes.append(change)
        if isinstance(change, journal.TopicDrop | journal.GroupDrop | journal.LitesDropped | TopicPut):
            self._write_journal()  # messages of this turn, before and after, must keep their side of it
        self.flusher.touch()
        self._touch()

    def when_safe(self, result: T) -> "Later[T] | T":
        """`result` once all that this turn appended is safe by the flush profile."""
        return self.flusher.when_safe(result)

    def next_sequence(self) -> int:
        """A number for one receive's or one extension's handles, never used before."""
        self.sequence += 1
        return self.sequence

    def _touch(self) -> None:
        """The log has grown, or will: the flusher was told before."""
        self.keys.touch()
        if self._saver is not None:
            self._saver.touch()
        elif self._changed_tables() > _FORGET_CHANGES:
            snapshot.forget_changes(self.state)

    def _changed_tables(self) -> int:
        state = self.state
        timers_changed = len(state.timers.changes) // 3
        lites_changed = len(state.lites.dirty) + len(state.lites.dirty_places) + len(state.lites.gone)
        return len(state.leases.dirty) + len(state.dirty_queues) + timers_changed + state.halves.changes + lites_changed

    def _write_journal(self) -> None:
        """Raises StoreError. What found no room is kept: the state has it already, so it must come before all else."""
        self._continue_state()
        changes, self._changes = self._changes, []
        if not changes:
            return
        now_ms = self._now_ms()
        try:
            for body in journal.encode(changes, min(journal.BODY_BYTES_MAX, self.log.segment_bytes // 4)):
                draft = Draft.make(journal.TOPIC, 0, body, b"", SYS_FLAG_ROLLBACK, now_ms, b"\x7f\0\0\1", 0)
                self.log.append(draft, 0, now_ms, journal=True)
        except StoreFull:
            self._changes = changes
            raise
        self._writing_state = False

    def _begin_state(self, segment: Segment) -> None:
        """A segment began: its first records repeat the state, over as many turns as it takes.

        A repetition that goes on from the segment before is not begun anew: a state larger than a segment would roll on
        for ever. Retention does without a segment that has none.
        """
        if self._state_left is None and not self._writing_state:
            self._state_left = repetition.changes(self.state, self.sequence >> SEQUENCE_BITS, segment.base)
            self._loop.call_soon(self.flusher.touch)

    def _continue_state(self) -> None:
        if self._state_left is None:
            return
        self._writing_state = True
        limit = len(self._changes) + _STATE_CHANGES
        for changes in self._state_left:
            for change in changes:
                if isinstance(change, StateEnd):
                    self.state.apply(change)
            self._changes += changes
            if len(self._changes) >= limit:
                self._loop.call_soon(self.flusher.touch)
                return
        self._state_left = None

    def _show(self, safe: int) -> None:
        changed: dict[ConsumeQueue, None] = {}
        unseen = self._unseen
        while unseen and unseen[0][0] <= safe:
            _, queue, count = unseen.popleft()
            queue.visible += count
            changed[queue] = None
        for queue in changed:
            if self.state.queue(queue.topic, queue.queue_id) is queue:  # its topic was not dropped meanwhile
                self._on_visible(queue)

    # -- read --------------------------------------------------------------------------------------------------------

    def read(self, queue: ConsumeQueue, offset: int, entry: Entry) -> Record | None:
        """The message that a queue entry points to; None where it is lost or gone, or (then logged) another's."""
        if entry.size == FILLER_SIZE:
            return None
        try:
            found = self.log.read(entry.position, entry.size)
            if (found.topic, found.queue_id, found.queue_offset) != (queue.topic, queue.queue_id, offset):
                raise Damaged(f"it belongs to {found.topic} queue {found.queue_id} offset {found.queue_offset}")
        except Damaged as error:
            if entry.position >= self.log.begin:
                log_.error("%s queue %d offset %d is damaged: %s", queue.topic, queue.queue_id, offset, error)
                self.damage.add(messages=1)
            return None
        return found

    def read_message(self, topic: str, queue_id: int, offset: int) -> Record | None:
        """The message with a queue offset, as `read`; None where there is no such queue or offset, too."""
        queue = self.state.queue(topic, queue_id)
        entries = queue.read(offset, 1) if queue else []
        return self.read(queue, offset, entries[0]) if queue and entries else None

    def _rebuild(self, queue: ConsumeQueue, start: int, end: int, after: int | None, before: int | None) -> bytes:
        log_.error("entries %d to %d of %s are damaged: made anew from the log", start, end, queue.folder)
        self.damage.add(entries=end - start)
        self.state.dirty_queues[queue] = None
        return recovery.rebuild(self.log, queue, start, end, after, before)

    def read_at(self, position: int) -> Record | None:
        """The message at a position of the log; None where there is none that its queue lets anyone read."""
        try:
            size = peek_size(self.log.segment_at(position).read(position, BLANK_BYTES))
            found = self.log.read(position, size or 0)
        except Damaged:
            return None
        queue = self.state.queue(found.topic, found.queue_id)
        if queue is None or not queue.min_offset <= found.queue_offset < queue.visible:
            return None
        entries = queue.read(found.queue_offset, 1)
        return found if entries and entries[0].position == position else None

    def oldest_store_ms(self) -> int | None:
        """When the oldest record that is kept was stored; None where there is none."""
        try:
            size = peek_size(self.log.segment_at(self.log.begin).read(self.log.begin, BLANK_BYTES))
            return self.log.read(self.log.begin, size or 0).store_ms
        except Damaged:
            return None

    # -- end ---------------------------------------------------------------------------------------------------------

    def drop_segments(self, end: int) -> None:
        """Deletes the segments below `end`, on the workers, once no sync of theirs is under way."""
        while self.log.begin < end:
            self._syncer.submit(self._worker.submit, self._discard, self.log.take_first())
        self.keys.drop_before(self.log.begin)

    def _discard(self, segment: Segment) -> None:
        """On the worker. In order: behind one that cannot be deleted the rest stays, a log has no gaps."""
        segment.file.close()
        self._undeleted.append(segment)
        try:
            while self._undeleted:
                self.log.delete(self._undeleted[0])
                self._undeleted.popleft()
        except OSError as error:
            log_.warning("cannot delete an old segment (%s): the next start finds it again", error)

    def close(self) -> None:
        """Writes, syncs and checkpoints all; the next start replays nothing. Raises StoreError where that failed."""
        try:
            if self._saver is not None:
                self._saver.stop()
            if self.flusher.failure is None:
                self.flusher.close()
                if self._saver is not None:
                    self._saver.close()
        except (OSError, lmdb.Error) as error:
            log_.warning("no checkpoint at the stop (%s): the next start will read more of the log", error)
        finally:
            self._resources.close()


def _take(root: Path) -> tuple[DirectoryLock, Form]:
    """The lock on a directory whose format we read, or which has none yet; and what is known of it."""
    try:
        lock = DirectoryLock(root)
    except OSError as error:
        raise StoreError(f"cannot use {root}: {error.strerror}; choose another directory with --data") from None
    try:
        return lock, storeformat.check(root)
    except OSError as error:
        lock.release()
        raise StoreError(f"cannot read {root}: {error.strerror}; choose another directory with --data") from None
    except StoreError:
        lock.release()
        raise
