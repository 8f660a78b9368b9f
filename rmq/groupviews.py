"""What each group holds, for people: places, lag, leases, waiting polls. Only looks.

One group on one topic costs a look at each of its queues and one record, and next to nothing for what it holds.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rmq import message as m
from rmq.adminport import GroupInfo, GroupTopicInfo, OpenInfo, Place
from rmq.browse import Browser
from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.groups import flags_of, policy
from rmq.waiters import Waiters
from rmq_store.consumequeue import FILLER_SIZE, ConsumeQueue
from rmq_store.journal import GroupPut
from rmq_store.ledger import Ledger, Open, Subscription
from rmq_store.store import Store

READY_COUNTED = 1000  # of what waits to be delivered again; beyond it the number may include what was settled meanwhile
IDS_BYTES_MAX = 4 << 20  # of records that are read for the ids of open messages


class Backlog(NamedTuple):
    """What a group has not settled: never delivered, leased, to be delivered again; and what the cursor has passed and
    nobody was given, for it waits for others of its message group.
    """

    fresh: int
    leased: int
    ready: int
    parked: int


class GroupViews:
    """`online` are the (group, client) pairs that live."""

    def __init__(
        self, store: Store, browser: Browser, waiters: Waiters, clock: Clock, online: set[tuple[str, str]]
    ) -> None:
        self._state = store.state
        self._browser = browser
        self._waiters = waiters
        self._clock = clock
        self._online = online

    def require(self, name: str) -> GroupPut:
        """Raises CONSUMER_GROUP_NOT_FOUND."""
        put = self._state.groups.get(name)
        if put is None:
            raise ClientError(Code.CONSUMER_GROUP_NOT_FOUND, f"there is no group {name}")
        return put

    def each(self) -> Iterator[GroupInfo]:
        """All, by name, without their open messages; each is looked at when it is asked for."""
        clients: dict[str, list[str]] = {}
        for group, client in self._online:
            clients.setdefault(group, []).append(client)
        for name in sorted(self._state.groups):
            put = self._state.groups.get(name)
            if put is not None:
                yield self._info(put, clients.get(name, []), 0)

    def one(self, name: str, open_max: int = 0) -> GroupInfo:
        """See AdminPort.group_info."""
        put = self.require(name)
        return self._info(put, [client for group, client in self._online if group == name], open_max)

    def _info(self, put: GroupPut, clients: Sequence[str], open_max: int) -> GroupInfo:
        topics = [self._topic(subscription, open_max) for subscription in self.subscriptions(put.name)]
        return GroupInfo(put.name, put.attempts_max, policy(put), topics, sorted(clients), flags_of(put))

    def subscriptions(self, group: str) -> list[Subscription]:
        """By topic; what was carried into the retry topic is told under the topic that it came from."""
        found = self._state.leases.by_group.get(group, {})
        return [found[topic] for topic in sorted(found) if topic != m.RETRY_PREFIX + group]

    def _topic(self, subscription: Subscription, open_max: int) -> GroupTopicInfo:
        backlog = self.backlog(subscription)
        return GroupTopicInfo(
            subscription.topic,
            backlog.fresh + backlog.parked,
            self.queueing_ms(subscription),
            backlog.leased,
            backlog.ready,
            self._waiters.count(subscription),
            [self._place(ledger) for ledger in subscription.ledgers.values()],
            self._open(subscription, open_max),
        )

    def backlog(self, subscription: Subscription) -> Backlog:
        """In numbers."""
        fresh = held = parked = 0
        for ledger in subscription.ledgers.values():
            queue = self._queue(ledger)
            fresh += max(queue.visible - max(ledger.next, queue.min_offset), 0) if queue else 0
            held += len(ledger.open) + len(ledger.moved)
            if ledger.lines is not None:
                held -= len(ledger.lines.early)
                parked += ledger.lines.parked
        ready = _count_ready(subscription, held)
        return Backlog(fresh, held - ready, ready, parked)

    def _queue(self, ledger: Ledger) -> ConsumeQueue | None:
        return self._state.queue(ledger.subscription.topic, ledger.queue_id)

    def _place(self, ledger: Ledger) -> Place:
        queue = self._queue(ledger)
        low, high = (queue.min_offset, queue.visible) if queue else (0, 0)
        next_offset = max(ledger.next, low)
        held = len(ledger.open) + len(ledger.moved)
        return Place(ledger.queue_id, next_offset, min(ledger.committed(), next_offset), high, held)

    def queueing_ms(self, subscription: Subscription) -> int:
        """The age of what lies first in the log among the messages that nobody was given yet; 0 where there is none."""
        return self._age_ms(place for ledger in subscription.ledgers.values() for place in _first_fresh(ledger))

    def unsettled_ms(self, subscription: Subscription) -> int:
        """The same among all that the group has not settled; a carried message has the age of its copy."""
        ledgers = subscription.ledgers.values()
        finders = (_first_held, _first_fresh)
        return self._age_ms(place for ledger in ledgers for find in finders for place in find(ledger))

    def _age_ms(self, places: Iterable[tuple[Ledger, int]]) -> int:
        oldest = min(self._entries(places), default=None)
        queue = self._state.queue(oldest[1], oldest[2]) if oldest else None
        found = self._browser.read(queue, oldest[3]) if queue and oldest else None
        return max(self._clock.wall_ms() - found.store_ms, 0) if found else 0

    def _entries(self, places: Iterable[tuple[Ledger, int]]) -> Iterator[tuple[int, str, int, int]]:
        """Position, topic, queue and offset of what is at each place, where anyone may see it."""
        for ledger, at in places:
            queue = self._queue(ledger)
            offset = max(at, queue.min_offset) if queue else 0
            if queue is None or offset >= queue.visible:
                continue
            for entry in queue.read(offset, 1):
                if entry.size != FILLER_SIZE:
                    yield entry.position, queue.topic, queue.queue_id, offset

    def _open(self, subscription: Subscription, open_max: int) -> list[OpenInfo]:
        ledgers = subscription.ledgers.values()
        held = (found for ledger in ledgers for found in (*ledger.open.values(), *ledger.moved.values()))
        bytes_left = IDS_BYTES_MAX
        infos = []
        for found in itertools.islice(held, open_max):
            info, size = self._open_info(found, read=bytes_left > 0)
            bytes_left -= size
            infos.append(info)
        return infos

    def _open_info(self, found: Open, *, read: bool) -> tuple[OpenInfo, int]:
        ledger = found.ledger
        name, offset = ledger.origins.get(found.offset, (ledger, found.offset))
        queue = self._queue(ledger)
        kept = self._browser.read(queue, found.offset) if queue and read else None
        message_id = kept.decode_properties().get(m.UNIQ_KEY, "") if kept else ""
        due_ms, client = (found.lease.due_ms, found.lease.client) if found.lease else (0, "")
        info = OpenInfo(name.queue_id, offset, found.attempt, due_ms, client, message_id)
        return info, kept.size if kept else 0


def _count_ready(subscription: Subscription, held: int) -> int:
    if subscription.bands is not None:
        return min(len(subscription.bands), held)
    ready = subscription.ready
    if len(ready) > READY_COUNTED:
        return min(len(ready), held)
    count = sum(found.lease is None and found.ledger.open.get(found.offset) is found for found in ready)
    return count + sum(_in_line(ledger) for ledger in subscription.ledgers.values())


def _in_line(ledger: Ledger) -> int:
    """Those of message groups among the first READY_COUNTED open messages: they are not in `ready`."""
    lines = ledger.lines
    if lines is None:
        return 0
    held = itertools.islice(itertools.chain(ledger.open.items(), ledger.moved.items()), READY_COUNTED)
    return sum(one.lease is None and lines.key(at) is not None and at not in lines.early for at, one in held)


def _first_held(ledger: Ledger) -> Iterator[tuple[Ledger, int]]:
    """Places of what was delivered first among the open messages here, and among those that were carried away."""
    for held in (ledger.open, ledger.moved):
        for found in itertools.islice(held.values(), 1):
            yield found.ledger, found.offset


def _first_fresh(ledger: Ledger) -> Iterator[tuple[Ledger, int]]:
    """Places of what is first among the messages that were never delivered, parked ones and others."""
    parked = ledger.first_parked()
    if parked is not None:
        yield ledger, parked
    yield ledger, ledger.next
