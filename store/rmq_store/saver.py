"""When the checkpoint is written, and what becomes of one that could not be. The bytes are made on the loop, at the end
of a turn, and written by a worker that touches no live object.

    (1) the log is synced up to the job's position
    (2) folders of dropped topics are emptied, queue files written and synced, with the entries of their folders
    (3) LMDB commits: the new checkpoint counts
    (4) queue files that retention dropped are deleted

Crash, or a full disk, before 3: the last checkpoint counts and the log is replayed from its position; what 2 left in
the queue files lies behind the ends that it knows. After 3: what 4 left is deleted when its queue next loses a file.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future

from rmq_store import snapshot
from rmq_store.checkpoint import FORMAT, Checkpoint, Meta
from rmq_store.commitlog import CommitLog
from rmq_store.consumequeue import FILE_BYTES, FOLDER
from rmq_store.disk import Disk
from rmq_store.flush import Flusher
from rmq_store.segment import Segment
from rmq_store.state import State

log_ = logging.getLogger("rmq.store")
_SLOW_FILES = 256  # queue files a checkpoint: with more, the next one comes later by as many times


class Job:
    """One checkpoint: finished bytes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        disk: Disk,
        segments: list[Segment],
        state: State,
        meta: Meta,
        synced_folders: set[str],
    ) -> None:
        """Takes what changed out of `state`, which is clean afterwards.

        `synced_folders`: whose entries this process has made durable; a killed one may have left others. Grows here.
        """
        self._checkpoint, self._disk, self._segments, self._meta = checkpoint, disk, segments, meta
        self._synced_folders = synced_folders
        self.queues = [(queue, queue.max_offset) for queue in state.dirty_queues]
        self.writes = [write for queue, _ in self.queues for write in queue.unwritten()]
        self.stale_folders, state.stale_folders = state.stale_folders, []
        self.stale_files, state.stale_files = state.stale_files, []
        self._everything, state.rewrite = state.rewrite, False
        self._timers = state.timers.take_changes()
        self._pairs = snapshot.changed(state, everything=self._everything)
        self._fired_ms = state.timers.fired_ms
        self._halves = snapshot.half_pairs(state.halves)

    def run(self) -> None:
        """Raises OSError or lmdb.Error; the old checkpoint counts then."""
        for segment in self._segments:
            segment.sync()
        for folder in self.stale_folders:
            for name in self._disk.list(folder):
                self._disk.remove(f"{folder}/{name}")
        for path, offset, data in self.writes:
            with contextlib.closing(self._disk.open(path, FILE_BYTES)) as file:
                file.write(offset, data)
                file.sync()
        self._sync_folders()
        pairs = itertools.chain(self._pairs, self._halves, snapshot.timer_pairs(self._timers, self._fired_ms))
        self._checkpoint.commit(self._meta, pairs, everything=self._everything)
        for path in self.stale_files:
            self._disk.remove(path)

    def _sync_folders(self) -> None:
        for queue, _ in self.queues:
            if queue.folder not in self._synced_folders and self._disk.list(queue.folder):
                topic_folder = f"{FOLDER}/{queue.topic}"
                for folder in (queue.folder, topic_folder, FOLDER, ""):
                    if folder not in self._synced_folders:
                        self._disk.sync_folder(folder)
                        self._synced_folders.add(folder)

    def done(self) -> None:
        """Memory lets go of the queue entries that are on disk now."""
        for queue, offset in self.queues:
            queue.written_to(offset)

    def take_back(self, state: State) -> None:
        """It failed: the next one saves everything, and these queues with it, unless their topic went meanwhile."""
        state.rewrite = True
        state.timers.give_back(self._timers)
        snapshot.half_pairs_again(state.halves, self._halves)
        state.stale_folders[:0] = self.stale_folders
        state.stale_files[:0] = self.stale_files
        for queue, _ in self.queues:
            if state.queue(queue.topic, queue.queue_id) is queue:
                state.dirty_queues[queue] = None


class Saver:
    """Saves `interval_ms` after the first change, or after `records_max` of them; one checkpoint at a time."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        disk: Disk,
        log: CommitLog,
        state: State,
        flusher: Flusher,
        loop: asyncio.AbstractEventLoop,
        worker: Executor,
        *,
        interval_ms: int,
        records_max: int,
        sequence: Callable[[], tuple[int, int]],
    ) -> None:
        """`sequence`: the start number, and the last delivery sequence."""
        self._checkpoint, self._disk, self._log, self._state = checkpoint, disk, log, state
        self._flusher = flusher
        self._loop = loop
        self._worker = worker
        self._interval_s = interval_ms / 1000
        self._records_max = records_max
        self._sequence = sequence
        self._records = 0
        self._due: asyncio.TimerHandle | None = None
        self._running: tuple[Job, Future[None]] | None = None
        self._closed = False
        self._synced_folders: set[str] = set()

    def touch(self) -> None:
        """A record was appended, or will be; the state and the log agree."""
        self._records += 1
        if self._records >= self._records_max and self._running is None:
            self.save()
        elif self._due is None and not self._closed:
            self._save_later(1)

    def _save_later(self, intervals: int) -> None:
        self._due = self._loop.call_later(intervals * self._interval_s, self.save)

    def save(self) -> None:
        """Ends the turn and hands the worker a checkpoint of it. While one is written, its end sees to the next."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._running is not None or self._closed:
            return
        self._flusher.end_turn()
        if self._flusher.failure is None:
            self._records = 0
            job = self._job()
            done = self._worker.submit(job.run)
            self._running = job, done
            done.add_done_callback(self._saved_on_worker)

    def _job(self) -> Job:
        log, state = self._log, self._state
        number, sequence = self._sequence()
        complete = sorted(base for base in state.state_complete if base >= log.begin)
        meta = Meta(FORMAT, log.written, *log.last, number, sequence, complete, log.begin)
        unsynced = [s for s in log.segments if s.base < log.written and s.end > self._flusher.synced]
        return Job(self._checkpoint, self._disk, unsynced, state, meta, self._synced_folders)

    def _saved_on_worker(self, done: "Future[None]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: `close` has asked the future itself
            self._loop.call_soon_threadsafe(self._saved, done)

    def _saved(self, done: "Future[None]") -> None:
        if self._running is None or self._running[1] is not done:
            return  # `close` did not wait to be told
        job, self._running = self._running[0], None
        error = done.exception()
        if error is None:
            job.done()
        else:
            log_.warning("no checkpoint (%s): the next start will read more of the log; trying again", error)
            job.take_back(self._state)
            self._synced_folders = set()
        if self._due is None and not self._closed and (self._records or error is not None):
            self._save_later(max(1, len(job.writes) // _SLOW_FILES))

    def close(self) -> None:
        """A last checkpoint, here; the flusher has closed. Raises OSError or lmdb.Error: the one before counts then."""
        self.stop()
        self._job().run()

    def stop(self) -> None:
        """No checkpoint from now on; waits for the one that is being written."""
        self._closed = True
        if self._due is not None:
            self._due.cancel()
        if self._running is not None:
            done = self._running[1]
            done.exception()
            self._saved(done)
