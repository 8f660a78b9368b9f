"""What each group holds, for people: places, lag, leases, waiting polls. Only looks.

One group on one topic costs a look at each of its queues and one record, and next to nothing for what it holds.
"""

import itertools
from collections.abc import Iterator, Sequence

from rmq import message as m
from rmq.adminport import GroupInfo, GroupTopicInfo, OpenInfo, Place
from rmq.browse import Browser
from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.waiters import Waiters
from rmq_store.consumequeue import FILLER_SIZE
from rmq_store.journal import GroupPut
from rmq_store.ledger import Ledger, Open, Subscription
from rmq_store.store import Store

READY_COUNTED = 1000  # of what waits to be delivered again; beyond it the number may include what was settled meanwhile
IDS_BYTES_MAX = 4 << 20  # of records that are read for the ids of open messages


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
        return GroupInfo(put.name, put.attempts_max, put.steps_ms, topics, sorted(clients))

    def subscriptions(self, group: str) -> list[Subscription]:
        """By topic; what was carried into the retry topic is told under the topic that it came from."""
        found = self._state.leases.by_group.get(group, {})
        return [found[topic] for topic in sorted(found) if topic != m.RETRY_PREFIX + group]

    def _topic(self, subscription: Subscription, open_max: int) -> GroupTopicInfo:
        ledgers = subscription.ledgers.values()
        places = [self._place(ledger) for ledger in ledgers]
        held = sum(len(ledger.open) + len(ledger.moved) - _acked_early(ledger) for ledger in ledgers)
        ready = _count_ready(subscription, held)
        return GroupTopicInfo(
            subscription.topic,
            sum(max(place.max_offset - place.next_offset, 0) for place in places) + _parked(subscription),
            self._lag_ms(subscription.topic, places),
            held - ready,
            ready,
            sum(1 for _ in self._waiters.in_line(subscription)),
            places,
            self._open(subscription, open_max),
        )

    def _place(self, ledger: Ledger) -> Place:
        queue = self._state.queue(ledger.subscription.topic, ledger.queue_id)
        low, high = (queue.min_offset, queue.visible) if queue else (0, 0)
        next_offset = max(ledger.next, low)
        held = len(ledger.open) + len(ledger.moved)
        return Place(ledger.queue_id, next_offset, min(ledger.committed(), next_offset), high, held)

    def _lag_ms(self, topic: str, places: Sequence[Place]) -> int:
        """The age of what lies first in the log among the messages that are next in a queue."""
        oldest = min(self._waiting(topic, places), default=None)
        queue = self._state.queue(topic, oldest[1]) if oldest else None
        found = self._browser.read(queue, oldest[2]) if queue and oldest else None
        return max(self._clock.wall_ms() - found.store_ms, 0) if found else 0

    def _waiting(self, topic: str, places: Sequence[Place]) -> Iterator[tuple[int, int, int]]:
        """Position, queue and offset of what is next in each queue."""
        for place in places:
            queue = self._state.queue(topic, place.queue_id)
            if queue is None or place.next_offset >= place.max_offset:
                continue
            for entry in queue.read(place.next_offset, 1):
                if entry.size != FILLER_SIZE:
                    yield entry.position, place.queue_id, place.next_offset

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
        queue = self._state.queue(ledger.subscription.topic, ledger.queue_id)
        kept = self._browser.read(queue, found.offset) if queue and read else None
        message_id = kept.decode_properties().get(m.UNIQ_KEY, "") if kept else ""
        due_ms, client = (found.lease.due_ms, found.lease.client) if found.lease else (0, "")
        info = OpenInfo(name.queue_id, offset, found.attempt, due_ms, client, message_id)
        return info, kept.size if kept else 0


def _parked(subscription: Subscription) -> int:
    """Behind the cursor, but never delivered: they wait for others of their message group."""
    return sum(ledger.lines.parked for ledger in subscription.ledgers.values() if ledger.lines is not None)


def _acked_early(ledger: Ledger) -> int:
    return len(ledger.lines.early) if ledger.lines is not None else 0


def _count_ready(subscription: Subscription, held: int) -> int:
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
