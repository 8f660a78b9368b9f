"""Reads stored messages for people: pages of a topic in the order in which they came, by id or key, and news of it.

Takes nothing from any group. A page is bounded in work and in bytes; a search is cut into slices (rmq_store.keyindex).
"""

import asyncio
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence

from rmq import message as m
from rmq.adminport import Kept, Page, Start
from rmq.errors import ClientError, Code
from rmq.filter import ALL, Filter
from rmq.scan import look, offset_at
from rmq.topics import Topics
from rmq_store import record
from rmq_store.consumequeue import ConsumeQueue, Entry
from rmq_store.halves import TOPIC as HALF_TOPIC
from rmq_store.keyindex import TooManySearches
from rmq_store.record import Record
from rmq_store.state import Topic
from rmq_store.store import Store

SCAN_MAX = 2000  # queue entries that one page looks at, a record read in vain counts more: some milliseconds
BODIES_BYTES_MAX = 4 << 20  # of a page; one message always fits
_ENTRIES_AT_ONCE = 64


class _Reading:
    """One queue of a page: `entry` is at `offset`, None at the end."""

    def __init__(self, queue: ConsumeQueue, offset: int, at_once: int) -> None:
        self.queue = queue
        self.offset = offset
        self._at_once = at_once
        self._entries: Iterator[Entry] = iter(())
        self.entry = self._next()

    def _next(self) -> Entry | None:
        entry = next(self._entries, None)
        if entry is None:
            count = min(self._at_once, self.queue.visible - self.offset)
            self._entries = iter(self.queue.read(self.offset, count))
            entry = next(self._entries, None)
        return entry

    def pass_on(self) -> None:
        """To the next entry."""
        self.offset += 1
        self.entry = self._next()

    def __lt__(self, other: "_Reading") -> bool:
        return _position(self) < _position(other)


def _position(reading: _Reading) -> int:
    return reading.entry.position if reading.entry is not None else 0


class Browser:
    """Over the store's queues and its key index."""

    def __init__(self, store: Store, topics: Topics, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._topics = topics
        self._loop = loop
        self._watchers: dict[str, set[asyncio.Future[None]]] = {}

    def require(self, name: str) -> Topic:
        """Raises TOPIC_NOT_FOUND, and ILLEGAL_TOPIC where messages are hidden from all."""
        topic = self._topics.find(name)
        if name == HALF_TOPIC:
            raise ClientError(Code.ILLEGAL_TOPIC, f"{name} is read by nobody: see `rmq transaction list`")
        if topic is None:
            raise ClientError(Code.TOPIC_NOT_FOUND, f"there is no topic {name}")
        return topic

    def read(self, queue: ConsumeQueue, offset: int) -> Record | None:
        """One message; None where it is lost, gone or not there yet."""
        entries = queue.read(offset, 1)
        return self._store.read(queue, offset, entries[0]) if entries else None

    # -- pages -------------------------------------------------------------------------------------------------------

    def begin(self, queue: ConsumeQueue, start: Start) -> int:
        """The offset that a start means in one queue."""
        if start.offsets is not None:
            missing = queue.min_offset if start.rest else queue.visible
            return min(max(start.offsets.get(queue.queue_id, missing), queue.min_offset), queue.visible)
        if start.end:
            return queue.visible
        return queue.min_offset if start.time_ms is None else offset_at(self._store, queue, start.time_ms)

    def peek(self, topic: str, start: Start, limit: int, wanted: Filter = ALL) -> Page:
        """See AdminPort."""
        queues = self.require(topic).queues
        if start.offsets is not None and not start.rest:
            queues = [queue for queue in queues if queue.queue_id in start.offsets]
        at_once = min(max(SCAN_MAX // max(len(queues), 1), 1), _ENTRIES_AT_ONCE)
        readings = [_Reading(queue, self.begin(queue, start), at_once) for queue in queues]
        found = list(self._merged(readings, limit, wanted))
        return Page(found, {reading.queue.queue_id: reading.offset for reading in readings})

    def _merged(self, readings: Sequence[_Reading], limit: int, wanted: Filter) -> Iterator[Kept]:
        """By position in the log; a filler counts as position 0 and is passed at once."""
        line = [reading for reading in readings if reading.entry is not None]
        heapq.heapify(line)
        bytes_left = BODIES_BYTES_MAX
        budget = SCAN_MAX
        while line and limit > 0 and bytes_left > 0 and budget > 0:
            kept, cost = self._wanted(line[0], wanted)
            budget -= cost
            line[0].pass_on()
            if line[0].entry is None:
                heapq.heappop(line)
            else:
                heapq.heapreplace(line, line[0])
            if kept is not None:
                limit -= 1
                bytes_left -= len(kept.body)
                yield kept

    def _wanted(self, reading: _Reading, wanted: Filter) -> tuple[Kept | None, int]:
        """The message if it is wanted, and what it cost to look."""
        entry = reading.entry
        assert entry is not None
        seen, cost = look(self._store, reading.queue, reading.offset, entry, wanted)
        return as_kept(*seen) if seen is not None else None, 1 + cost

    # -- by id or key ------------------------------------------------------------------------------------------------

    def find(self, topic: str, message_id: str, key: str, limit: int) -> "asyncio.Future[Sequence[Kept]]":
        """See AdminPort."""
        self.require(topic)
        names = self.copies(topic) if message_id else [topic]
        accept = _has_id(topic, message_id) if message_id else _has_key(topic, key)
        return self.search([(name, message_id or key) for name in names], accept, limit)

    def search(
        self,
        names: Sequence[tuple[str, str]],
        accept: Callable[[Record], bool],
        limit: int,
        bytes_max: int = BODIES_BYTES_MAX,
    ) -> "asyncio.Future[Sequence[Kept]]":
        """The newest messages under any of these (topic, key) that `accept` takes, the newest first; `bytes_max` limits
        their bodies, but one there is. Cancelling the Future ends it. Raises TOO_MANY_REQUESTS.
        """
        try:
            found = self._store.keys.find(names, accept, limit=limit, bytes_max=bytes_max)
        except TooManySearches as error:
            raise ClientError(Code.TOO_MANY_REQUESTS, f"{error}; ask again later") from None
        answer: asyncio.Future[Sequence[Kept]] = self._loop.create_future()
        answer.add_done_callback(lambda _: found.cancel())
        found.add_done_callback(lambda _: _hand_on(found, answer))
        return answer

    def copies(self, topic: str) -> list[str]:
        """The topic, and where messages of it may live on."""
        groups = self._store.state.leases.by_topic.get(topic, ())
        others = [prefix + group for group in groups for prefix in (m.RETRY_PREFIX, m.DLQ_PREFIX)]
        return [topic, *(name for name in others if name != topic and self._topics.find(name) is not None)]

    # -- news --------------------------------------------------------------------------------------------------------

    def watch(self, topic: str) -> "asyncio.Future[None]":
        """See AdminPort."""
        self.require(topic)
        future: asyncio.Future[None] = self._loop.create_future()
        self._watchers.setdefault(topic, set()).add(future)
        future.add_done_callback(lambda _: self._unwatch(topic, future))
        return future

    def _unwatch(self, topic: str, future: "asyncio.Future[None]") -> None:
        watchers = self._watchers.get(topic, set())
        watchers.discard(future)
        if not watchers:
            self._watchers.pop(topic, None)

    def news(self, topic: str) -> None:
        """There is something new to read in it, or it is gone: who watches looks again."""
        for future in tuple(self._watchers.get(topic, ())):
            if not future.done():
                future.set_result(None)


def _has_id(topic: str, message_id: str) -> Callable[[Record], bool]:
    def accept(found: Record) -> bool:
        properties = found.decode_properties()
        return properties.get(m.UNIQ_KEY) == message_id and topic in (found.topic, origin_topic(properties))

    return accept


def _has_key(topic: str, key: str) -> Callable[[Record], bool]:
    return lambda found: found.topic == topic and key in found.decode_properties().get(m.KEYS, "").split(" ")


def origin_topic(properties: Mapping[str, str]) -> str:
    """The topic that a dead letter, or a message carried forward, was sent to; empty for others."""
    return properties.get(m.DLQ_ORIGIN_TOPIC) or properties.get(m.RETRY_TOPIC, "")


def _hand_on(found: "asyncio.Future[list[Record]]", answer: "asyncio.Future[Sequence[Kept]]") -> None:
    if answer.done():
        return
    if found.cancelled():
        answer.cancel()
    elif (error := found.exception()) is None:
        answer.set_result([as_kept(one, one.decode_properties()) for one in found.result()])
    else:
        text = f"the key index cannot be used now ({error}): see to the disk of the server, then ask again"
        answer.set_exception(ClientError(Code.INTERNAL_SERVER_ERROR, text))


def as_kept(found: Record, properties: dict[str, str]) -> Kept:
    """A record in the admin port's words."""
    return Kept(
        found.topic, found.queue_id, found.queue_offset, found.position, found.body, properties, found.sys_flag,
        found.born_ms, record.host_text(found.born_host), found.store_ms, found.reconsume_times,
    )  # fmt: skip
