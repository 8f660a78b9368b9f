"""The broker's tables for people: look at them, change them. Implements rmq.adminport.AdminPort in this process.

Reading takes nothing from any group and does bounded work. Deleting ends the polls that wait on what is deleted. Does not
decide who may call: that is the admin service's.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from rmq import message as m
from rmq.adminport import (
    GroupInfo,
    GroupTopicInfo,
    Kept,
    OpenInfo,
    Page,
    Place,
    QueueRange,
    Start,
    StoreInfo,
    TopicInfo,
)
from rmq.clock import Clock, ManualClock
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.filter import Filter, by_tag
from rmq.groups import Groups
from rmq.message import MessageType
from rmq.port import Answer
from rmq.retry import RetryPolicy
from rmq.topics import Topics
from rmq.waiters import Waiters
from rmq_store import record
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.journal import Acked, Cursors, GroupDrop, TopicDrop
from rmq_store.leases import Ledger, Open, Subscription
from rmq_store.record import Draft, Record
from rmq_store.state import Origin, Topic
from rmq_store.store import Store

SCAN_MAX = 2000  # queue entries that one peek looks at: a few milliseconds
REPLAYS = "CID_RMQ_SYS_DLQ_REPLAY"  # the group whose place in a dead letter topic tells what was replayed


class Admin:
    """`tick` does what is due by the clock; `online` are the (group, client) pairs that live."""

    def __init__(
        self,
        store: Store,
        topics: Topics,
        groups: Groups,
        waiters: Waiters,
        clock: Clock,
        config: Config,
        *,
        online: set[tuple[str, str]],
        tick: Callable[[], None],
    ) -> None:
        self._store = store
        self._state = store.state
        self._topics = topics
        self._groups = groups
        self._waiters = waiters
        self._clock = clock
        self._config = config
        self._online = online
        self._tick = tick
        self._watchers: dict[str, set[asyncio.Future[None]]] = {}

    def describe(self) -> StoreInfo:
        """See AdminPort."""
        log = self._store.log
        return StoreInfo(
            log.begin,
            log.end,
            self._store.flusher.safe,
            self._store.disk.free_bytes(),
            len(self._state.topics),
            len(self._state.groups),
            self._state.leases.open_count,
            len(self._waiters),
        )

    # -- topics ------------------------------------------------------------------------------------------------------

    def topics(self) -> Sequence[TopicInfo]:
        """See AdminPort."""
        return [self._topic_info(self._state.topics[name]) for name in sorted(self._state.topics)]

    def topic(self, name: str) -> TopicInfo:
        """See AdminPort."""
        return self._topic_info(self._topic(name))

    def _topic(self, name: str) -> Topic:
        topic = self._topics.find(name)
        if topic is None:
            raise ClientError(Code.TOPIC_NOT_FOUND, f"there is no topic {name}")
        return topic

    def _topic_info(self, topic: Topic) -> TopicInfo:
        ranges = [QueueRange(q.queue_id, q.min_offset, q.visible) for q in topic.queues]
        groups = sorted(g for g in self._state.leases.by_topic.get(topic.name, ()) if g != REPLAYS)
        return TopicInfo(topic.name, MessageType(topic.type), ranges, groups)

    def put_topic(self, name: str, kind: MessageType | None, queues: int) -> Answer[TopicInfo]:
        """See AdminPort."""
        known = self._topics.find(name)
        if known is not None and 0 < queues < len(known.queues):
            raise ClientError(
                Code.BAD_REQUEST, f"topic {name} has {len(known.queues)} queues and can only get more, not {queues}"
            )
        if queues > self._config.queues_per_topic_max:
            raise ClientError(
                Code.BAD_REQUEST, f"{queues} queues are more than queues_per_topic_max = {self._config.queues_per_topic_max}"
            )
        if kind is None:
            kind = MessageType(known.type) if known else MessageType.NORMAL
        default = len(known.queues) if known else self._config.topic_queues
        topic = self._topics.make(name, kind, queues or default)
        return self._store.when_safe(self._topic_info(topic))

    def delete_topic(self, name: str) -> Answer[None]:
        """See AdminPort."""
        self._drop_topic(self._topic(name).name)
        return self._store.when_safe(None)

    def _drop_topic(self, name: str) -> None:
        for subscription in self._state.leases.by_topic.get(name, {}).values():
            self._waiters.end(subscription)
        self._store.apply(TopicDrop(name))

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self) -> Sequence[GroupInfo]:
        """See AdminPort."""
        return [self.group_info(name) for name in sorted(self._state.groups)]

    def group_info(self, name: str, *, open_max: int = 0) -> GroupInfo:
        """See AdminPort."""
        put = self._state.groups.get(name)
        if put is None:
            raise ClientError(Code.CONSUMER_GROUP_NOT_FOUND, f"there is no group {name}")
        clients = sorted(client for group, client in self._online if group == name)
        topics = [self._group_topic(s, open_max) for s in self._subscriptions(name)]
        return GroupInfo(name, put.attempts_max, put.steps_ms, topics, clients)

    def _subscriptions(self, group: str) -> list[Subscription]:
        """By topic; what was carried into the retry topic is told under the topic that it came from."""
        found = [s for (g, t), s in self._state.leases.subscriptions.items() if g == group and t != m.RETRY_PREFIX + g]
        return sorted(found, key=lambda s: s.topic)

    def _group_topic(self, subscription: Subscription, open_max: int) -> GroupTopicInfo:
        places = [self._place(ledger) for ledger in subscription.ledgers.values()]
        held = [found for ledger in subscription.ledgers.values() for found in _all_open(ledger)]
        leased = sum(found.lease is not None for found in held)
        return GroupTopicInfo(
            subscription.topic,
            sum(max(place.max_offset - place.next_offset, 0) for place in places),
            max((self._age_ms(subscription.topic, place) for place in places), default=0),
            leased,
            len(held) - leased,
            sum(1 for _ in self._waiters.in_line(subscription)),
            places,
            [self._open_info(found) for found in held[:open_max]],
        )

    def _place(self, ledger: Ledger) -> Place:
        queue = self._state.queue(ledger.subscription.topic, ledger.queue_id)
        low, high = (queue.min_offset, queue.visible) if queue else (0, 0)
        next_offset = max(ledger.next, low)
        return Place(ledger.queue_id, next_offset, min(ledger.committed(), next_offset), high, len(ledger.open))

    def _age_ms(self, topic: str, place: Place) -> int:
        queue = self._state.queue(topic, place.queue_id)
        found = self._read(queue, place.next_offset) if queue and place.next_offset < place.max_offset else None
        return max(self._clock.wall_ms() - found.store_ms, 0) if found else 0

    def _open_info(self, found: Open) -> OpenInfo:
        ledger = found.ledger
        name, offset = ledger.origins.get(found.offset, (ledger, found.offset))
        queue = self._state.queue(ledger.subscription.topic, ledger.queue_id)
        kept = self._read(queue, found.offset) if queue else None
        message_id = kept.decode_properties().get(m.UNIQ_KEY, "") if kept else ""
        due_ms, client = (found.lease.due_ms, found.lease.client) if found.lease else (0, "")
        return OpenInfo(name.queue_id, offset, found.attempt, due_ms, client, message_id)

    def put_group(self, name: str, attempts_max: int, retry_ms: Sequence[int] | None) -> Answer[GroupInfo]:
        """See AdminPort."""
        known = self._state.groups.get(name)
        steps = tuple(retry_ms) if retry_ms else (known.steps_ms if known else RetryPolicy().steps_ms)
        attempts = attempts_max or (known.attempts_max if known else self._config.attempts_max)
        self._groups.make(name, attempts, RetryPolicy(steps))
        return self._store.when_safe(self.group_info(name))

    def delete_group(self, name: str) -> Answer[None]:
        """See AdminPort."""
        self.group_info(name)
        self._drop_group(name)
        return self._store.when_safe(None)

    def _drop_group(self, name: str) -> None:
        for subscription in self._subscriptions(name):
            self._waiters.end(subscription)
        self._store.apply(GroupDrop(name))

    def reset_offset(self, group: str, topic: str, start: Start) -> Answer[GroupInfo]:
        """See AdminPort."""
        self.group_info(group)
        queues = self._topic(topic).queues
        subscription = self._state.leases.subscription(group, topic)
        settled = [
            (ledger.queue_id, [*ledger.open, *ledger.moved])
            for ledger in subscription.ledgers.values()
            if ledger.open or ledger.moved
        ]
        if settled:
            self._store.apply(Acked(group, topic, settled))
        self._store.apply(Cursors(group, topic, [(q.queue_id, self._begin(q, start)) for q in queues]))
        return self._store.when_safe(self.group_info(group))

    # -- messages ----------------------------------------------------------------------------------------------------

    def _begin(self, queue: ConsumeQueue, start: Start) -> int:
        if start.offsets is not None:
            return min(max(start.offsets.get(queue.queue_id, queue.visible), queue.min_offset), queue.visible)
        if start.end:
            return queue.visible
        return queue.min_offset if start.time_ms is None else self._offset_at(queue, start.time_ms)

    def _offset_at(self, queue: ConsumeQueue, time_ms: int) -> int:
        """The first offset that was stored then or later; store times do not fall within a queue, but for clock steps."""
        low, high = queue.min_offset, queue.visible
        while low < high:
            middle = (low + high) // 2
            found = self._read(queue, middle)
            if found is not None and found.store_ms < time_ms:
                low = middle + 1
            else:
                high = middle
        return low

    def peek(self, topic: str, start: Start, limit: int, expression: str = "*") -> Page:
        """See AdminPort."""
        queues = self._topic(topic).queues
        if start.offsets is not None:
            queues = [queue for queue in queues if queue.queue_id in start.offsets]
        wanted = by_tag(expression)
        next_: dict[int, int] = {}
        found: list[Kept] = []
        budget = SCAN_MAX // max(len(queues), 1) + 1
        for queue in queues:
            offset = end = self._begin(queue, start)
            end = min(offset + budget, queue.visible)
            taken = []
            for offset, kept in self._scan(queue, offset, end, wanted):
                taken.append(kept)
                if len(taken) >= limit:
                    end = offset + 1
                    break
            next_[queue.queue_id] = end
            found += taken
        found.sort(key=lambda kept: kept.position)
        for kept in found[limit:]:
            next_[kept.queue_id] = min(next_[kept.queue_id], kept.offset)
        return Page(found[:limit], next_)

    def _scan(self, queue: ConsumeQueue, offset: int, end: int, wanted: Filter) -> Iterator[tuple[int, Kept]]:
        while offset < end:
            entries = queue.read(offset, min(end - offset, 64))
            if not entries:
                return
            for entry in entries:
                if wanted.may_match(entry.tags_code) and (kept := self._store.read(queue, offset, entry)) is not None:
                    properties = kept.decode_properties()
                    if wanted.matches(properties):
                        yield offset, _kept(kept, properties)
                offset += 1

    def _read(self, queue: ConsumeQueue, offset: int) -> Record | None:
        entries = queue.read(offset, 1)
        return self._store.read(queue, offset, entries[0]) if entries else None

    def watch(self, topic: str) -> "asyncio.Future[None]":
        """See AdminPort."""
        self._topic(topic)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watchers = self._watchers.setdefault(topic, set())
        watchers.add(future)
        future.add_done_callback(watchers.discard)
        return future

    def visible(self, topic: str) -> None:
        """The broker tells: there is something new to read."""
        for future in list(self._watchers.get(topic, ())):
            if not future.done():
                future.set_result(None)

    # -- dead letters ------------------------------------------------------------------------------------------------

    def dead_letters(self, group: str, limit: int) -> Page:
        """See AdminPort."""
        topic = self._topics.find(m.DLQ_PREFIX + group)
        if topic is None:
            return Page([], {})
        place = self._state.leases.subscriptions.get((REPLAYS, topic.name))
        ledger = place.ledgers.get(0) if place else None
        return self.peek(topic.name, Start({0: ledger.next if ledger else 0}), limit)

    def replay(self, group: str, message_ids: Sequence[str]) -> Answer[int]:
        """See AdminPort."""
        self.group_info(group)
        topic = self._topic(m.DLQ_PREFIX + group)
        queue = topic.queues[0]
        wanted = set(message_ids)
        place = self._state.leases.subscriptions.get((REPLAYS, topic.name))
        ledger = place.ledgers.get(0) if place else None
        first = queue.min_offset if wanted or ledger is None else max(ledger.next, queue.min_offset)
        count = 0
        for offset in range(first, queue.visible):
            kept = self._read(queue, offset)
            properties = kept.decode_properties() if kept else {}
            if kept is not None and (not wanted or properties.get(m.UNIQ_KEY) in wanted):
                count += self._deliver_again(group, kept, properties)
        if not wanted:
            self._store.apply(Cursors(REPLAYS, topic.name, [(0, queue.visible)]))
        self._tick()
        return self._store.when_safe(count)

    def _deliver_again(self, group: str, kept: Record, properties: dict[str, str]) -> bool:
        """Into the group's retry topic as a message that lives on there: to this group alone, with all its attempts."""
        dead = Origin.parse(properties.get(m.RMQ_ORIGIN, ""))
        if dead is None:
            return False
        name = m.RETRY_PREFIX + group
        retry = self._topics.make(name, MessageType.MIXED, 1)
        origin = Origin(kept.position, dead.topic, dead.queue_id, dead.offset, group, attempt=1)
        kept_properties = {k: v for k, v in properties.items() if k not in (m.DLQ_ORIGIN_TOPIC, m.DLQ_ORIGIN_MESSAGE_ID)}
        encoded = record.encode_properties(kept_properties | {m.RETRY_TOPIC: dead.topic, m.RMQ_ORIGIN: origin.text()})
        draft = Draft(
            retry.name_bytes, 0, kept.body, encoded, kept.sys_flag, kept.born_ms, kept.born_host, kept.born_port
        )
        tags = properties.get(m.TAGS, "")
        self._store.append(retry, retry.queues[0], draft, record.tags_code(tags) if tags else 0, origin)
        return True

    # -- tests -------------------------------------------------------------------------------------------------------

    def advance(self, ms: int) -> int:
        """See AdminPort."""
        if not isinstance(self._clock, ManualClock):
            raise ClientError(Code.BAD_REQUEST, "the clock is the machine's: start the server with --manual-clock")
        if ms < 0:
            raise ClientError(Code.BAD_REQUEST, f"time only moves forward, not by {ms} ms")
        self._clock.advance(ms=ms)
        self._tick()
        return self._clock.wall_ms()

    def reset(self) -> Answer[None]:
        """See AdminPort."""
        if self._config.flush != "memory":
            raise ClientError(Code.BAD_REQUEST, "this server keeps its data: only one with --flush memory can be reset")
        for name in list(self._state.groups):
            self._drop_group(name)
        for name in list(self._state.topics):
            self._drop_topic(name)
        self._declare()
        return self._store.when_safe(None)

    def _declare(self) -> None:
        for name, topic in self._config.topics.items():
            self._topics.make(name, topic.type, topic.queues)
        for name, group in self._config.groups.items():
            self._groups.make(name, group.attempts_max, RetryPolicy(group.retry_ms) if group.retry_ms else RetryPolicy())


def _all_open(ledger: Ledger) -> list[Open]:
    return [*ledger.open.values(), *ledger.moved.values()]


def _kept(kept: Record, properties: dict[str, str]) -> Kept:
    return Kept(
        kept.topic,
        kept.queue_id,
        kept.queue_offset,
        kept.position,
        kept.body,
        properties,
        kept.sys_flag,
        kept.born_ms,
        record.host_text(kept.born_host),
        kept.store_ms,
        kept.reconsume_times,
    )
