"""Deletes old segments, by age or size, after carrying forward what still lives in them.

    (1) queues are cut where the oldest segment ends: from now on nobody is given what lies before
    (2) every open message before the cut is appended to its group's retry topic with its origin, its lease repeated,
        every timer that waits to the timer topic again, every half message that lives to the half topic
    (3) all that is on the disk, in every flush profile, and what is to go as well: nobody syncs it from now on
    (4) queues forget what lies before the cut, the segment's file goes

Each step is done on the loop, in bounded pieces. Due is a segment behind which the next one repeats the whole state;
where one has no repetition of its own, it goes together with the one before. Crash before 4: it is done again, and what
moved already is not found open before the cut. Where 2 finds no room the segment stays: live messages are never
dropped, new ones are refused instead. Where what lives is more than the limit, copying it again and
again frees nothing: the next segment is due by size when another one has been filled.
"""

import asyncio
from collections.abc import Iterator, Mapping

from rmq_store import halves, record, timers
from rmq_store.commitlog import Gap
from rmq_store.errors import StoreFull
from rmq_store.halves import Half
from rmq_store.journal import Acked, Grouped, Leased, TopicPut
from rmq_store.ledger import Ledger, Open
from rmq_store.record import Draft, Record
from rmq_store.recovery import UNKNOWN_TYPE
from rmq_store.segment import Segment
from rmq_store.state import Origin, Topic
from rmq_store.store import Store

RETRY_PREFIX = "%RETRY%"
_STEP = 200  # queues cut, messages carried, or ledgers looked at, in one turn
_TIMERS_A_STEP = 20
_BEFORE_ALL_MS = -1
_HALVES_A_STEP = 100


class Retention:
    """`age_ms` since a segment's last message; `bytes_max` of the whole log, 0 for no limit."""

    def __init__(self, store: Store, *, age_ms: int, bytes_max: int) -> None:
        self._store = store
        self._age_ms = age_ms
        self._bytes_max = bytes_max
        self._carried_bytes = 0  # by the work under way
        self._by_size_from = 0  # the log's end at which the size counts again
        self._work: Iterator[asyncio.Future[None] | None] | None = None
        self._saving: asyncio.Future[None] | None = None

    def step(self, now_ms: int) -> bool:
        """Does a bounded piece of work; True when more is waiting. Raises StoreError: the store can't go on."""
        if self._saving is not None:
            if not self._saving.done():
                return False
            self._saving.result()
            self._saving = None
        if self._work is None:
            cut = self._due(now_ms)
            if cut is None:
                return False
            self._work = self._delete_before(cut.base)
        try:
            for _ in range(_STEP):
                self._saving = next(self._work)
                if self._saving is not None:
                    return False
        except StopIteration:
            self._work = None
        except StoreFull:
            self._work = None
            return False
        return True

    def _due(self, now_ms: int) -> Segment | None:
        """The segment at which the log is to begin."""
        log, complete = self._store.log, self._store.state.state_complete
        cut = next((s for s in log.segments[1:] if s.base in complete and s.base < log.end), None)
        if cut is None:
            return None
        if self._bytes_max and log.end - log.begin > self._bytes_max and log.end >= self._by_size_from:
            return cut
        return cut if self._begun_before(cut, now_ms - self._age_ms) else None

    def _begun_before(self, segment: Segment, time_ms: int) -> bool:
        """Its first record is that old: the segment before got its last one then, or a little earlier."""
        first = next((r for r in self._store.log.scan(segment.base) if not isinstance(r, Gap)), None)
        return first is not None and first.store_ms <= time_ms

    def _delete_before(self, end: int) -> Iterator[asyncio.Future[None] | None]:
        """One step for each queue, ledger or message; a Future where the next step has to wait for it."""
        state = self._store.state
        self._carried_bytes = 0
        for queue in [queue for topic in state.topics.values() for queue in topic.queues]:
            queue.cut(queue.first_offset_at(end))
            yield None
        for ledger in list(state.leases.ledgers()):
            yield None
            yield from self._carry(ledger)
        yield from self._carry_timers()
        yield from self._carry_halves()
        on_disk = self._store.flusher.when_on_disk()
        if on_disk.done():
            on_disk.result()
        else:
            yield on_disk
        for queue in [queue for topic in state.topics.values() for queue in topic.queues]:
            if queue.first_offset < queue.min_offset:
                state.stale_files += queue.drop_before(queue.min_offset)
                state.dirty_queues[queue] = None
                yield None
        if self._carried_bytes * 2 > end - self._store.log.begin:
            self._by_size_from = self._store.log.end + self._store.log.segment_bytes
        self._store.drop_segments(end)
        state.state_complete = {base for base in state.state_complete if base >= end}

    def _carry(self, ledger: Ledger) -> Iterator[None]:
        queue = self._store.state.queue(ledger.subscription.topic, ledger.queue_id)
        cut = queue.min_offset if queue else 0
        for offset in sorted(offset for offset in ledger.open if offset < cut):  # early acks after what they are behind
            if (found := ledger.open.get(offset)) is not None:
                self._move(ledger, found)
                yield

    def _move(self, ledger: Ledger, found: Open) -> None:
        store, group = self._store, ledger.subscription.group
        queue = store.state.queue(ledger.subscription.topic, ledger.queue_id)
        entries = queue.read(found.offset, 1) if queue else []
        kept = store.read(queue, found.offset, entries[0]) if queue and entries else None
        if kept is None:
            return  # unreadable: nothing to carry, the lease ends as usual
        first, first_offset = ledger.origins.get(found.offset, (ledger, found.offset))
        first_topic = first.subscription.topic
        topic_name = RETRY_PREFIX + group
        if topic_name not in store.state.topics:
            store.apply(TopicPut(topic_name, UNKNOWN_TYPE, 1))
        topic = store.state.topics[topic_name]
        origin = Origin(kept.position, first_topic, first.queue_id, first_offset, group, found.attempt + 1)
        properties = kept.decode_properties() | {"RETRY_TOPIC": first_topic, Origin.PROPERTY: origin.text()}
        draft = Draft.make(
            topic.name_bytes, 0, kept.body, record.encode_properties(properties), kept.sys_flag, kept.born_ms,
            kept.born_host, kept.born_port, max(found.attempt - 1, 0),
        )  # fmt: skip
        store.append(topic, topic.queues[0], draft, record.tags_code(properties.get("TAGS", "")), origin)
        self._carried_bytes += draft.size
        self._repeat_line(first, first_offset)
        self._repeat_lease(first, first_offset, found)

    def _repeat_line(self, first: Ledger, offset: int) -> None:
        """As the lease below. Behind the record, which may begin a segment: an entry before it would be deleted."""
        key, subscription = first.key(offset), first.subscription
        if key is not None:
            part = (first.queue_id, [offset], [key])
            self._store.apply(Grouped(subscription.group, subscription.topic, [part]))

    def _carry_timers(self) -> Iterator[None]:
        """A look at many timers costs little, so a step is a handful of milliseconds that have some."""
        topic = self._store.state.topics.get(timers.TOPIC)
        if topic is None:
            return
        timers_ = self._store.state.timers
        due_ms, looked = timers_.due_after(_BEFORE_ALL_MS), 0
        while due_ms is not None:
            for first in timers_.numbers_at(due_ms):
                if timers_.current(first) < topic.queues[0].min_offset:
                    self._move_timer(topic, first, due_ms)
                    yield
            if looked % _TIMERS_A_STEP == 0:
                yield
            due_ms, looked = timers_.due_after(due_ms), looked + 1

    def _move_timer(self, topic: Topic, first: int, due_ms: int) -> None:
        """Unless it fired, or ended, since its millisecond was looked at. An unreadable one ends when it is due."""
        timers_ = self._store.state.timers
        if timers_.waits(first, due_ms):
            self._repeat(topic, timers_.current(first), first, {}, due_ms)

    def _carry_halves(self) -> Iterator[None]:
        topic = self._store.state.topics.get(halves.TOPIC)
        if topic is None:
            return
        for looked, first in enumerate(list(self._store.state.halves.firsts())):
            half = self._store.state.halves.get(first)
            if half is not None and half.number < topic.queues[0].min_offset:
                self._move_half(topic, first, half)
                yield
            elif looked % _HALVES_A_STEP == 0:
                yield

    def _move_half(self, topic: Topic, first: int, half: Half) -> None:
        """With what its own record cannot know: how often it was checked, and when it is next."""
        self._repeat(topic, half.number, first, {halves.CHECK: halves.check_text(half.due_ms, half.checks)})

    def _repeat(self, topic: Topic, number: int, first: int, more: Mapping[str, str], due_ms: int = 0) -> None:
        """The same record of a topic of ours again, with its first number and `more`; nothing where that is lost."""
        store, queue = self._store, topic.queues[0]
        kept = store.read_message(topic.name, 0, number)
        if kept is None:
            return
        draft, origin = again(kept, first, more)
        store.append(topic, queue, draft, record.tags_code(kept.decode_properties().get("TAGS", "")), origin, due_ms)
        self._carried_bytes += draft.size

    def _repeat_lease(self, first: Ledger, offset: int, found: Open) -> None:
        """Its entry goes with the old segment, and a replay of what is kept must know who has the message."""
        lease, subscription = found.lease, first.subscription
        if first.lines is not None and offset in first.lines.early:
            self._store.apply(Acked(subscription.group, subscription.topic, [(first.queue_id, [offset])]))
        if lease is not None:
            part = (first.queue_id, first.next, [offset], [found.attempt])
            times = lease.sequence, lease.taken_ms, lease.due_ms
            self._store.apply(Leased(subscription.group, subscription.topic, *times, lease.client, [part]))


def again(kept: Record, first: int, more: Mapping[str, str]) -> tuple[Draft, Origin]:
    """A record of a topic of ours once more, to carry it forward under the number that it goes by, and with `more`."""
    properties = kept.decode_properties()
    origin = Origin.parse(properties.get(Origin.PROPERTY, "")) or Origin(kept.position, kept.topic, 0, first, "")
    properties |= {Origin.PROPERTY: origin.text(), **more}
    draft = Draft.make(
        kept.topic.encode(), 0, kept.body, record.encode_properties(properties), kept.sys_flag, kept.born_ms,
        kept.born_host, kept.born_port, kept.reconsume_times,
    )  # fmt: skip
    return draft, origin
