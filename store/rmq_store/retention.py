"""Deletes old segments, by age or size, after carrying forward what still lives in them.

Steps, each on the loop and bounded: (1) the oldest segment is due and the next one repeats the whole state; (2) every open
message in it is appended to its group's retry topic, with its origin; (3) that is safe; (4) queues forget what lay in it,
the file goes. Crash before 4: it is done again, a message that moved already is not found open in the old segment.
Where 2 finds no room the segment stays: live messages are never dropped, new ones are refused instead.
"""

import asyncio
from collections.abc import Iterator

from rmq_store import record
from rmq_store.errors import StoreFull
from rmq_store.journal import TopicPut
from rmq_store.leases import Ledger, Open
from rmq_store.record import Damaged, Draft
from rmq_store.recovery import UNKNOWN_TYPE
from rmq_store.segment import Segment
from rmq_store.state import Origin
from rmq_store.store import Store

RETRY_PREFIX = "%RETRY%"
_STEP = 200  # messages carried, or ledgers looked at, in one turn


class Retention:
    """`age_ms` since a segment's last message; `bytes_max` of the whole log, 0 for no limit."""

    def __init__(self, store: Store, *, age_ms: int, bytes_max: int) -> None:
        self._store = store
        self._age_ms = age_ms
        self._bytes_max = bytes_max
        self._carrying: Iterator[None] | None = None
        self._saving: asyncio.Future[None] | None = None

    def step(self, now_ms: int) -> bool:
        """Does a bounded piece of work; True when more is waiting."""
        if self._saving is not None:
            if not self._saving.done():
                return False
            self._saving.result()
            self._saving = None
            self._delete()
            return True
        if self._carrying is None:
            if not self._is_due(now_ms):
                return False
            self._carrying = self._carry(self._store.log.segments[1].base)
        return self._carry_some()

    def _carry_some(self) -> bool:
        assert self._carrying is not None
        try:
            for _ in range(_STEP):
                next(self._carrying)
        except StopIteration:
            self._carrying = None
            saved = self._store.when_safe(None)
            if isinstance(saved, asyncio.Future):
                self._saving = saved
                return False
            self._delete()
        except StoreFull:
            self._carrying = None
            return False
        return True

    def _is_due(self, now_ms: int) -> bool:
        segments = self._store.log.segments
        if len(segments) < 2 or segments[1].base >= self._store.log.end:
            return False
        if segments[1].base not in self._store.state.state_complete:
            return False
        if self._bytes_max and self._store.log.end - segments[0].base > self._bytes_max:
            return True
        return self._first_store_ms(segments[1]) <= now_ms - self._age_ms

    def _first_store_ms(self, segment: Segment) -> int:
        """When the segment before it got its last record, or a little later."""
        size = record.peek_size(segment.read(segment.base, record.BLANK_BYTES)) or 0
        try:
            return self._store.log.read(segment.base, size).store_ms
        except Damaged:
            return 0

    def _carry(self, end: int) -> Iterator[None]:
        """Moves every open message that lies before `end`; one step for each message or ledger."""
        for ledger in list(self._store.state.leases.ledgers()):
            yield
            if not ledger.open:
                continue
            queue = self._store.state.queue(ledger.subscription.topic, ledger.queue_id)
            boundary = queue.first_offset_at(end) if queue else 0
            for offset in [o for o in ledger.open if o < boundary]:
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
        topic_name = RETRY_PREFIX + group
        if topic_name not in store.state.topics:
            store.apply(TopicPut(topic_name, UNKNOWN_TYPE, 1))
        topic = store.state.topics[topic_name]
        first_topic = first.subscription.topic
        origin = Origin(kept.position, first_topic, first.queue_id, first_offset, group, found.attempt)
        properties = kept.decode_properties() | {"RETRY_TOPIC": first_topic, Origin.PROPERTY: origin.text()}
        draft = Draft(
            topic.name_bytes, 0, kept.body, record.encode_properties(properties), kept.sys_flag, kept.born_ms,
            kept.born_host, kept.born_port, found.attempt - 1,
        )  # fmt: skip
        tags = properties.get("TAGS", "")
        store.append(topic, topic.queues[0], draft, record.tags_code(tags) if tags else 0, origin)

    def _delete(self) -> None:
        store = self._store
        end = store.log.segments[1].base
        for topic in store.state.topics.values():
            for queue in topic.queues:
                if queue.min_offset < queue.max_offset:
                    queue.drop_before(queue.first_offset_at(end))
                    store.state.dirty_queues[queue] = None
        store.log.drop_first()
        store.state.state_complete = {base for base in store.state.state_complete if base >= end}
