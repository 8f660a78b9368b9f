"""What the store's tests share: a store driven turn by turn on a loop of its own, disks that fail, views of a state."""

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from rmq_store import halves
from rmq_store.commitlog import CommitLog
from rmq_store.consumequeue import ConsumeQueue, QueueFiles
from rmq_store.disk import Disk, File, MemoryDisk
from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Mode
from rmq_store.journal import Acked, Cursors, Grouped, GroupPut, Leased, TopicPut, lease_part, steps
from rmq_store.ledger import Ledger, Open
from rmq_store.lines import Lines
from rmq_store.record import SYS_FLAG_COMMIT, Draft, Record, encode_properties
from rmq_store.recovery import Report, recover
from rmq_store.retention import Retention
from rmq_store.segment import FOLDER
from rmq_store.state import Origin, State, Topic
from rmq_store.store import Settings, Store
from rmq_store.timers import DELIVER_MS, REAL_TOPIC
from rmq_store.timers import TOPIC as TIMER_TOPIC

SEGMENT_BYTES = 64 << 10
SETTINGS = Settings(
    mode=Mode.FAST,
    segment_bytes=SEGMENT_BYTES,
    reserve_bytes=SEGMENT_BYTES,
    free_min_bytes=0,
    flush_interval_ms=3_600_000,
    checkpoint_interval_ms=3_600_000,
    checkpoint_records=1_000_000,
    queue_files_open_max=16,
    store_host=b"\x7f\0\0\1",
    store_port=10911,
)
GROUP = GroupPut("g", 17, (1000,), 5000, 7_200_000, 2.0)
WAIT_S = 30.0


def draft(topic: str, queue_id: int, body: bytes = b"body", properties: bytes = b"") -> Draft:
    """A message as the broker would hand it over."""
    return Draft.make(topic.encode(), queue_id, body, properties, 0, 1_700_000_000_000, b"\x7f\0\0\1", 50000)


class Rig:
    """An open store, the loop that runs it, and its clock; `seen` are queues that got visible messages."""

    opened: ClassVar[list["Rig"]] = []

    def __init__(self, root: Path | None, disk: Disk | None = None, **settings: object) -> None:
        self.loop = asyncio.new_event_loop()
        self.now_ms = 1_700_000_000_000
        self.seen: list[ConsumeQueue] = []
        self.failures: list[StoreError] = []
        try:
            self.store = Store(
                root,
                msgspec.structs.replace(SETTINGS, **settings),
                self.loop,
                now_ms=lambda: self.now_ms,
                on_visible=self.seen.append,
                on_failure=self.failures.append,
                disk=disk,
            )
        except StoreError:
            self.loop.close()
            raise
        Rig.opened.append(self)

    # -- time --------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Runs what the loop has ready, once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def until(self, done: Callable[[], bool]) -> None:
        """Runs the loop until `done`; fails after WAIT_S."""
        deadline_s = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline_s, "it did not come"
            self.loop.call_later(0.001, self.loop.stop)
            self.loop.run_forever()

    def wait(self, answer: object) -> object:
        """The value of a when_safe."""
        if not isinstance(answer, asyncio.Future):
            return answer
        return self.loop.run_until_complete(asyncio.wait_for(answer, WAIT_S))

    def save(self) -> None:
        """One checkpoint, written to its end."""
        saver = self.store._saver
        assert saver is not None
        saver.save()
        self.until(lambda: saver._running is None)

    def close(self) -> None:
        """An orderly stop. Raises StoreError."""
        try:
            self.store.close()
        finally:
            self.end()

    def end(self) -> None:
        """The store is closed: its loop goes, too."""
        self.turn()
        self.loop.close()
        Rig.opened.remove(self)

    def crash(self) -> None:
        """The process is gone: what was written stays, nothing else is saved."""
        saver = self.store._saver
        if saver is not None:
            saver.stop()
        self.store._resources.close()
        self.end()

    # -- the broker's verbs, in short --------------------------------------------------------------------------------

    def topic(self, name: str, queues: int = 1, kind: int = 1) -> Topic:
        """The topic with at least so many queues."""
        known = self.store.state.topics.get(name)
        if known is None or len(known.queues) < queues:
            self.store.apply(TopicPut(name, kind, queues))
        return self.store.state.topics[name]

    def send(self, topic: str, queue_id: int = 0, body: bytes = b"body", *, properties: bytes = b"") -> int:
        """Appends one message; returns its queue offset."""
        target = self.topic(topic, queue_id + 1)
        return self.store.append(target, target.queues[queue_id], draft(topic, queue_id, body, properties), 0)

    def delay(self, due_ms: int) -> int:
        """A timer; returns its number."""
        properties = encode_properties({DELIVER_MS: str(due_ms)})
        return self.store.append_timers(
            [(Draft.make(TIMER_TOPIC.encode(), 0, b"later", properties, 0, 1, bytes(4), 0), 0, due_ms)]
        )

    def fire(self, first: int, due_ms: int, topic: str, body: bytes = b"now") -> int:
        """A timer's real message; returns its queue offset."""
        kept = self.topic(topic)
        origin = Origin(0, TIMER_TOPIC, 0, first, "")
        properties = encode_properties({DELIVER_MS: str(due_ms), Origin.PROPERTY: origin.text()})
        draft = Draft.make(kept.name_bytes, 0, body, properties, 0, 1, bytes(4), 0)
        return self.store.append(kept, kept.queues[0], draft, 0, origin, due_ms)

    def begin(self, due_ms: int) -> int:
        """A half message; its number."""
        properties = encode_properties({halves.CHECK: halves.check_text(due_ms, 0), REAL_TOPIC: "t"})
        draft = Draft.make(halves.TOPIC_BYTES, 0, b"half", properties, 0, 1, bytes(4), 0)
        return self.store.append_halves([(draft, 0, due_ms)], "t")

    def commit(self, first: int, topic: str) -> None:
        """A half message's real message."""
        kept = self.topic(topic)
        origin = Origin(0, halves.TOPIC, 0, first, "")
        properties = encode_properties({Origin.PROPERTY: origin.text()})
        draft = Draft.make(kept.name_bytes, 0, b"whole", properties, SYS_FLAG_COMMIT, 1, bytes(4), 0)
        self.store.append(kept, kept.queues[0], draft, 0, origin)

    def fill(self, size: int) -> None:
        """Messages until they are refused."""
        with pytest.raises(StoreFull, match="disk full"):
            self._send_for_ever(size)

    def _send_for_ever(self, size: int) -> None:
        while True:
            self.send("filler", body=bytes(size))

    def take(self, group: str, topic: str, count: int, due_ms: int = 1 << 50, client: str = "") -> list[Ledger]:
        """Leases up to `count` visible messages of each queue; the ledgers that gave some."""
        state = self.store.state
        parts: list[tuple[int, int, list[int], list[int]]] = []
        if (group, topic) not in state.leases.subscriptions:
            starts = [(q.queue_id, q.min_offset) for q in state.topics[topic].queues]
            self.store.apply(Cursors(group, topic, starts))
        subscription = state.leases.subscription(group, topic)
        for queue in state.topics[topic].queues:
            first = max(subscription.ledger(queue.queue_id).next, queue.min_offset)
            end = min(first + count, queue.visible)
            if first < end:
                parts.append((queue.queue_id, end, [first] + [1] * (end - first - 1), []))
        if parts:
            sequence = self.store.next_sequence()
            self.store.apply(Leased(group, topic, sequence, self.now_ms, due_ms, client, parts))
        return [subscription.ledgers[part[0]] for part in parts]

    def take_in_line(self, group: str, topic: str, count: int, due_ms: int) -> None:
        """As take, but each message belongs to one of three message groups, and only fronts are leased."""
        subscription = self.store.state.leases.subscription(group, topic)
        lined: list[tuple[int, list[int], list[int]]] = []
        parts: list[tuple[int, int, list[int], list[int]]] = []
        for queue in self.store.state.topics[topic].queues:
            ledger = subscription.ledger(queue.queue_id)
            first = max(ledger.next, queue.min_offset)
            new = list(range(first, max(first, min(first + count, queue.visible))))
            lined.append((queue.queue_id, steps(new), [1 + offset % 3 for offset in new]))
            parts.append(lease_part(queue.queue_id, first + len(new), list(_fronts(ledger, queue.min_offset, new))))
        self.store.apply(Grouped(group, topic, lined))
        sequence = self.store.next_sequence()
        self.store.apply(Leased(group, topic, sequence, self.now_ms, due_ms, "", parts))

    def ack(self, group: str, topic: str, queue_id: int, *offsets: int) -> None:
        """Settles messages by the names under which they were delivered."""
        self.store.apply(Acked(group, topic, [(queue_id, list(offsets))]))

    def bury(self, found: Open) -> None:
        """Dead letter: one record that ends the open message."""
        ledger = found.ledger
        group = ledger.subscription.group
        name, offset = ledger.origins.get(found.offset, (ledger, found.offset))
        topic = self.topic(f"%DLQ%{group}")
        origin = Origin(0, name.subscription.topic, name.queue_id, offset, group)
        properties = f"{Origin.PROPERTY}\x01{origin.text()}\x02".encode()
        self.store.append(topic, topic.queues[0], draft(topic.name, 0, b"dead", properties), 0, origin)

    def retain(self, bytes_max: int = 1, age_ms: int = 1 << 50) -> None:
        """Runs retention until it finds nothing more to do."""
        retention = Retention(self.store, age_ms=age_ms, bytes_max=bytes_max)
        steps = 0
        while retention.step(self.now_ms) or retention._saving is not None:
            if (saving := retention._saving) is not None:
                self.until(saving.done)  # turns of the loop are no measure of a busy disk's time
            self.turn()
            steps += 1
            assert steps < 10_000, "retention does not come to an end"

    def roll(self) -> None:
        """Ends the segment, and with it everything before the next message; the new one repeats its state."""
        end = self.store.log.segment_at(self.store.log.end).end
        while self.store.log.end <= end:
            self.send("filler", body=bytes(20_000))
            self.turn()
        while self.store._state_left is not None:
            self.turn()

    def bodies(self, topic: str, queue_id: int = 0) -> list[bytes | None]:
        """What a reader of the queue gets, from its first offset on; None where a message can't be read."""
        queue = self.store.state.topics[topic].queues[queue_id]
        found = [
            (offset, entry) for offset in range(queue.min_offset, queue.visible) for entry in queue.read(offset, 1)
        ]
        records = [self.store.read(queue, offset, entry) for offset, entry in found]
        return [None if record is None else record.body for record in records]


def _fronts(ledger: Ledger, low: int, new: list[int]) -> Iterator[tuple[int, int]]:
    """(offset, attempt) of what may be leased: fronts that nobody has, and new messages that nobody is before. What was
    parked below `low` is gone, nobody can be given it.
    """
    lines = ledger.lines or Lines()
    for key in lines.groups():
        found = ledger.find(front := lines.at(key, 0))
        if found is not None and found.lease is None:
            yield front, found.attempt + 1
        elif found is None and front >= low:
            yield front, 1
    known = set(lines.groups())
    for offset in new:
        if 1 + offset % 3 not in known:
            known.add(1 + offset % 3)
            yield offset, 1


# -- views -----------------------------------------------------------------------------------------------------------


def view(state: State, now_ms: int = 0) -> dict[str, object]:
    """All that the state stands for, comparable. Leases due by `now_ms` count as over: their end is no record."""
    outcomes = state.halves.outcomes
    return {
        "topics": {
            name: (topic.type, [_queue(queue) for queue in topic.queues]) for name, topic in state.topics.items()
        },
        "groups": dict(state.groups),
        "places": dict(_places(state, now_ms)),
        "timers": (sorted(_timers(state)), state.timers.fired_ms),
        "halves": dict(_halves(state)),
        "lites": sorted(_lites(state)),
        "lite places": sorted(_lite_places(state)),
        "outcomes": {name: outcomes.chunk(name) for name in outcomes.names()},
        "count": sum(len(ledger.open) for ledger in state.leases.ledgers()) == state.leases.open_count,
        "parked": sum(len(ledger.parked()) for ledger in state.leases.ledgers()) == state.leases.parked_count,
    }


def _timers(state: State) -> Iterator[tuple[int, int, int]]:
    carried = dict(state.timers._carried)
    for due_ms, first in state.timers.earliest(len(state.timers)):
        yield due_ms, carried.pop(first, first), first
    assert not carried, "a timer that is gone is remembered"


def _halves(state: State) -> Iterator[tuple[int, tuple[object, ...]]]:
    halves = state.halves
    for first in halves.firsts():
        half = halves.get(first)
        assert half is not None
        assert (first in halves.parked, halves.due.has(half.due_ms, first)) in ((True, False), (False, True))
        yield first, msgspec.structs.astuple(half)
    assert len(halves) == len(halves.due) + len(halves.parked) == sum(halves.by_topic.values())


def _lites(state: State) -> Iterator[tuple[object, ...]]:
    """Without what is gone from the queue: live it is forgotten when somebody looks."""
    for lite in state.lites:
        queue = state.queue(lite.topic, lite.queue_id)
        low = queue.min_offset if queue is not None else 0
        listed = [offset for offset in lite.offsets if offset >= low]
        yield lite.topic, lite.name, lite.queue_id, lite.end, lite.touched_ms, listed


def _lite_places(state: State) -> Iterator[tuple[object, ...]]:
    for groups in state.lites.groups.values():
        for group in groups.values():
            assert state.leases.subscription(group.group, group.topic).lite
            subscribed = sorted((client, key) for client, keys in group.clients.items() for key in keys)
            assert subscribed == sorted(
                (client, key) for key, place in group.places.items() for client in place.clients
            )
            yield (
                group.group,
                group.topic,
                [(key, place.next) for key, place in sorted(group.places.items())],
                subscribed,
            )


def _queue(queue: ConsumeQueue) -> tuple[int, int, list[tuple[int, int, int]]]:
    entries: list[tuple[int, int, int]] = []
    while queue.first_offset + len(entries) < queue.max_offset:
        more = queue.read(queue.first_offset + len(entries), 1000)
        assert more, "an entry cannot be read"
        entries += more
    return queue.first_offset, queue.max_offset, entries


def _places(state: State, now_ms: int) -> Iterator[tuple[tuple[str, str, int], object]]:
    for (group, topic), subscription in state.leases.subscriptions.items():
        for queue_id, ledger in subscription.ledgers.items():
            opened = {offset: _open(found, now_ms) for offset, found in ledger.open.items()}
            moved = {o: (m.ledger.subscription.topic, m.ledger.queue_id, m.offset) for o, m in ledger.moved.items()}
            if ledger.next or opened or moved:
                yield (group, topic, queue_id), (ledger.next, opened, moved, _lines(state, ledger))


def _lines(state: State, ledger: Ledger) -> object:
    """Message groups in line, without what is gone from the queue and was never delivered; and early acks."""
    queue = state.queue(ledger.subscription.topic, ledger.queue_id)
    low = queue.min_offset if queue is not None else 0
    lines = ledger.lines or Lines()
    in_line = {offset: lines.key(offset) for offset in sorted(lines) if offset >= low or ledger.find(offset)}
    return in_line, sorted(lines.early)


def _open(found: Open, now_ms: int) -> tuple[object, ...]:
    lease = found.lease
    if lease is None or lease.due_ms <= now_ms:
        return (found.attempt, None)
    return (found.attempt, lease.sequence, lease.taken_ms, lease.due_ms, lease.client)


# -- logs ------------------------------------------------------------------------------------------------------------


def log_bytes(store: Store) -> tuple[int, bytes]:
    """The log's first position, and its bytes from there to its written end."""
    log = store.log
    data = b"".join(segment.read(segment.base, log.segment_bytes) for segment in log.segments)
    return log.begin, data[: log.written - log.begin]


def recovered(begin: int, data: bytes, segment_bytes: int = SEGMENT_BYTES) -> tuple[CommitLog, State, Report]:
    """What a start finds in a log of these bytes, without a checkpoint."""
    disk = MemoryDisk()
    for at in range(0, max(len(data), 1), segment_bytes):
        disk.open(f"{FOLDER}/{begin + at:020d}", segment_bytes).write(0, data[at : at + segment_bytes])
    log = CommitLog(disk, segment_bytes=segment_bytes, reserve_bytes=segment_bytes)
    state = State(QueueFiles(disk, 16))
    return log, state, recover(log, state, None)


def records(begin: int, data: bytes) -> list[Record]:
    """The whole records of a log."""
    log, _, _ = recovered(begin, data)
    return [found for found in log.scan(begin) if isinstance(found, Record)]


# -- disks that fail ---------------------------------------------------------------------------------------------------


class WatchedFile:
    """A file whose disk decides what works."""

    def __init__(self, disk: "WatchedDisk", path: str, file: File) -> None:
        self._disk, self._path, self._file = disk, path, file

    def read(self, offset: int, size: int) -> bytes:
        return self._file.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._disk.check("write", self._path)
        self._file.write(offset, data)

    def sync(self) -> None:
        self._disk.check("sync", self._path)
        self._file.sync()

    def reserve(self, offset: int, size: int) -> None:
        self._disk.check("reserve", self._path, size)
        self._file.reserve(offset, size)

    def data(self, offset: int) -> list[tuple[int, int]]:
        return self._file.data(offset)

    def close(self) -> None:
        self._file.close()


class WatchedDisk:
    """Another disk, counted: `broken` (operation, start of path) fail with ENOSPC, syncs of the log wait for `gate`."""

    def __init__(self, inner: Disk) -> None:
        self.inner = inner
        self.broken: set[tuple[str, str]] = set()
        self.calls: list[tuple[str, str]] = []
        self.room = 1 << 60  # bytes that may still be reserved
        self.gate = threading.Event()
        self.gate.set()
        self.at_once = 0
        self.at_once_max = 0

    def check(self, operation: str, path: str, size: int = 0) -> None:
        """Counts, waits, fails."""
        self.calls.append((operation, path))
        if operation == "sync" and path.startswith(FOLDER):
            self.at_once += 1
            self.at_once_max = max(self.at_once, self.at_once_max)
            assert self.gate.wait(WAIT_S)
            self.at_once -= 1
        if size > self.room or any(operation == o and path.startswith(start) for o, start in self.broken):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= size

    def syncs(self) -> int:
        """How often the log was synced."""
        return sum(operation == "sync" and path.startswith(FOLDER) for operation, path in self.calls)

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        return WatchedFile(self, path, self.inner.open(path, size, mapped=mapped))

    def size(self, path: str) -> int | None:
        return self.inner.size(path)

    def list(self, folder: str) -> list[str]:
        return self.inner.list(folder)

    def remove(self, path: str) -> None:
        self.inner.remove(path)

    def sync_folder(self, folder: str) -> None:
        self.inner.sync_folder(folder)

    def free_bytes(self) -> int:
        return self.room
