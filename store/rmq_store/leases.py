"""Who has which message: per (group, topic, queue) a cursor and the open messages behind it.

    queue offsets    0 1 2 3 4 5 6 7 8 9 ...
                     ^ settled   ^   ^ ^ next: everything from here on was never delivered
                     |           open: leased, or ready to be delivered again
    An offset below `next` that is not open is settled (acked, dead-lettered, filtered out, or gone).

Tables and their transitions, the same ones live and in replay. No clock, no log, no policy. An open message with a
lease of its own costs at most 500 bytes, its timer included, one of many in a lease about 200
(tests/store/test_leases.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from rmq_store.journal import Acked, Cursors, Extended, Leased
from rmq_store.wheel import Wheel

CHUNK_BITS = 8  # the checkpoint saves open messages in chunks of 256 offsets
_DEAD_TIMERS = 10_000  # timers of ended leases that the wheel may hold, besides as many as there are leases


class Lease:
    """What one receive took, or what one change of invisible duration left: due together."""

    __slots__ = ("_held", "client", "due_ms", "key", "live", "sequence", "taken_ms")

    def __init__(self, key: int, sequence: int, taken_ms: int, due_ms: int, client: str) -> None:
        self.key = key  # in Leases.leases and in the wheel: the sequence, while no other lease has it
        self.sequence = sequence  # of the receipt handles; lasts
        self.taken_ms = taken_ms
        self.due_ms = due_ms
        self.client = client  # the server renews the lease while this client lives; "" : it does not
        self._held: Open | tuple[Open, ...] = ()  # most leases hold one message: no tuple for it
        self.live = 0  # how many of `held` are still held by this lease

    @property
    def held(self) -> "tuple[Open, ...]":
        """What it took; some may be settled, or with another lease, by now."""
        return self._held if isinstance(self._held, tuple) else (self._held,)

    @held.setter
    def held(self, held: "tuple[Open, ...]") -> None:
        self._held = held[0] if len(held) == 1 else held


class Open:
    """One open message. `lease` None: ready to be delivered again. `attempt`: deliveries so far that count."""

    __slots__ = ("attempt", "lease", "ledger", "offset")

    def __init__(self, ledger: "Ledger", offset: int, attempt: int, lease: Lease | None) -> None:
        self.ledger = ledger
        self.offset = offset
        self.attempt = attempt
        self.lease = lease


class Ledger:
    """One group's place in one queue."""

    __slots__ = ("dirty", "moved", "next", "open", "origins", "queue_id", "subscription")

    def __init__(self, subscription: "Subscription", queue_id: int, next_offset: int = 0) -> None:
        self.subscription = subscription
        self.queue_id = queue_id
        self.next = next_offset
        self.open: dict[int, Open] = {}
        self.moved: dict[int, Open] = {}  # carried forward: our offset -> the open message in the retry topic
        self.origins: dict[int, tuple[Ledger, int]] = {}  # in a retry topic: offset -> where it came from
        self.dirty: set[int] = set()  # chunks changed since the last checkpoint

    def find(self, offset: int) -> Open | None:
        """The open message that was delivered under this offset, wherever it lies now."""
        return self.open.get(offset) or self.moved.get(offset)

    def committed(self) -> int:
        """The oldest offset that is not settled."""
        return min(self.open, default=self.next)


class Subscription:
    """One group on one topic. `pending`: queues that may hold something new; `ready`: what is to be delivered again."""

    __slots__ = ("group", "ledgers", "pending", "ready", "topic")

    def __init__(self, group: str, topic: str) -> None:
        self.group = group
        self.topic = topic
        self.ledgers: dict[int, Ledger] = {}
        self.ready: deque[Open] = deque()
        self.pending: dict[int, None] = {}

    def ledger(self, queue_id: int) -> Ledger:
        """Made at offset 0 on first use."""
        ledger = self.ledgers.get(queue_id)
        if ledger is None:
            ledger = self.ledgers[queue_id] = Ledger(self, queue_id)
            self.pending[queue_id] = None
        return ledger


class Leases:
    """All groups' places, all leases, and the wheel that says when they end (lease time)."""

    def __init__(self) -> None:
        self.subscriptions: dict[tuple[str, str], Subscription] = {}
        self.by_topic: dict[str, dict[str, Subscription]] = {}
        self.by_group: dict[str, dict[str, Subscription]] = {}
        self.leases: dict[int, Lease] = {}
        self.by_client: dict[tuple[str, str], dict[int, Lease]] = {}  # (group, client) -> renewed leases
        self.wheel = Wheel()
        self.open_count = 0
        self.dirty: dict[Ledger, None] = {}
        self.woken: dict[Subscription, None] = {}  # whose `ready` grew since the broker last looked
        self._next_key = -1

    def subscription(self, group: str, topic: str) -> Subscription:
        """Made on first use."""
        found = self.subscriptions.get((group, topic))
        if found is None:
            found = self.subscriptions[(group, topic)] = Subscription(group, topic)
            self.by_topic.setdefault(topic, {})[group] = found
            self.by_group.setdefault(group, {})[topic] = found
        return found

    # -- transitions -------------------------------------------------------------------------------------------------

    def apply_cursors(self, change: Cursors) -> None:
        """The group goes on at these offsets."""
        subscription = self.subscription(change.group, change.topic)
        for queue_id, next_offset in change.nexts:
            ledger = subscription.ledger(queue_id)
            ledger.next = next_offset
            subscription.pending[queue_id] = None
            self.dirty[ledger] = None

    def apply_leased(self, change: Leased) -> Lease:
        """Messages are with a client until due."""
        subscription = self.subscription(change.group, change.topic)
        lease = self.new_lease(change.group, change.sequence, change.taken_ms, change.due_ms, change.client)
        held: list[Open] = []
        for queue_id, next_offset, steps, attempts in change.parts:
            ledger = subscription.ledger(queue_id)
            ledger.next = max(ledger.next, next_offset)
            self.dirty[ledger] = None
            offset = 0
            for index, step in enumerate(steps):
                offset += step
                held.append(self._hold(ledger, offset, attempts[index] if attempts else 1, lease))
        lease.held = tuple(held)
        return lease

    def apply_acked(self, change: Acked) -> None:
        """Messages are settled."""
        subscription = self.subscription(change.group, change.topic)
        for queue_id, offsets in change.parts:
            ledger = subscription.ledger(queue_id)
            for offset in offsets:
                self.settle(ledger, offset)

    def apply_extended(self, change: Extended) -> Lease:
        """One message's lease gets another end, under a new sequence."""
        ledger = self.subscription(change.group, change.topic).ledger(change.queue_id)
        lease = self.new_lease(change.group, change.sequence, change.taken_ms, change.due_ms, "")
        lease.held = (self._hold(ledger, change.offset, change.attempt, lease),)
        return lease

    def settle(self, ledger: Ledger, offset: int) -> None:
        """The message is done for this group; nothing happens if it was already, or if nobody knows of its delivery."""
        found = ledger.find(offset)
        if found is None:
            return
        self._leave_lease(found)
        found.lease = None
        self._forget(found)

    def release(self, found: Open) -> None:
        """The lease is over: ready to be delivered again. The caller has decided that it may."""
        self._leave_lease(found)
        found.lease = None
        home = self._home(found.ledger, found.offset)
        home.ready.append(found)
        self.woken[home] = None
        self._mark(found.ledger, found.offset)

    def move(self, ledger: Ledger, offset: int, to: Ledger, to_offset: int, restored: Open | None = None) -> None:
        """Carried forward: the open message known as (ledger, offset) lies in the retry topic now.

        `restored` where replay never saw its lease. What was settled meanwhile is not brought back: it is not open.
        """
        to.next = max(to.next, to_offset + 1)
        self.dirty[to] = None
        found = ledger.find(offset)
        if found is None and restored is None:
            return
        if found is not None:
            found.ledger.open.pop(found.offset)
            found.ledger.origins.pop(found.offset, None)
            self._mark(found.ledger, found.offset)
        elif restored is not None:
            found = restored
            self.open_count += 1
            ledger.subscription.ready.append(found)
            self.woken[ledger.subscription] = None
        assert found is not None
        found.ledger, found.offset = to, to_offset
        to.open[to_offset] = found
        to.origins[to_offset] = (ledger, offset)
        ledger.moved[offset] = found
        self._mark(to, to_offset)

    def postpone(self, lease: Lease, due_ms: int) -> None:
        """Renewal, or the end of one: due at another time, the handles stay valid."""
        lease.due_ms = due_ms
        self._set_timer(lease)

    def disown(self, lease: Lease, group: str) -> None:
        """The server does not renew it any more."""
        if lease.client:
            mine = self.by_client.get((group, lease.client), {})
            mine.pop(lease.key, None)
            if not mine:
                self.by_client.pop((group, lease.client), None)
            lease.client = ""

    def drop_topic(self, topic: str) -> None:
        """Every group's place in a topic goes."""
        for group in list(self.by_topic.get(topic, ())):
            self._drop(group, topic)

    def drop_group(self, group: str) -> None:
        """A group's places in every topic go."""
        for topic in list(self.by_group.get(group, ())):
            self._drop(group, topic)

    def rearm(self, due_ms: Callable[[Lease], int]) -> None:
        """After replay: a wheel with just the leases that live, `ready` with just what waits to be delivered again."""
        for lease in self.leases.values():
            lease.due_ms = due_ms(lease)
        self._rebuild_wheel()
        for subscription in self.subscriptions.values():
            subscription.ready.clear()
        for ledger in self.ledgers():
            for found in ledger.open.values():
                if found.lease is None:
                    self._home(ledger, found.offset).ready.append(found)

    def restore(self, ledger: Ledger, offset: int, attempt: int, lease: Lease | None) -> None:
        """From a checkpoint; `ready` is filled by `rearm`, when every place is known."""
        if lease is not None:
            lease.held += (self._hold(ledger, offset, attempt, lease),)
        else:
            ledger.open[offset] = Open(ledger, offset, attempt, None)
            self.open_count += 1

    def reopen(self, ledger: Ledger, offsets: Iterable[int], next_offset: int) -> None:
        """In a replay: nobody knows who had these messages before `next_offset`: they are to be delivered again."""
        for offset in offsets:
            if ledger.find(offset) is None:
                self.restore(ledger, offset, 0, None)
                self._mark(ledger, offset)
        ledger.next = max(ledger.next, next_offset)
        self.dirty[ledger] = None

    # -- small parts -------------------------------------------------------------------------------------------------

    def new_lease(self, group: str, sequence: int, taken_ms: int, due_ms: int, client: str) -> Lease:
        """An empty one; `client` not empty: renewed while that client lives."""
        key = sequence
        if key in self.leases:  # one receive's leases part where one of its messages is carried forward
            key, self._next_key = self._next_key, self._next_key - 1
        lease = self.leases[key] = Lease(key, sequence, taken_ms, due_ms, client)
        if client:
            self.by_client.setdefault((group, client), {})[key] = lease
        self._set_timer(lease)
        return lease

    def _set_timer(self, lease: Lease) -> None:
        self.wheel.add(lease.due_ms, lease.key)
        if len(self.wheel) > 2 * len(self.leases) + _DEAD_TIMERS:
            self._rebuild_wheel()

    def _rebuild_wheel(self) -> None:
        self.wheel = Wheel()
        for lease in self.leases.values():
            self.wheel.add(lease.due_ms, lease.key)

    def _hold(self, ledger: Ledger, offset: int, attempt: int, lease: Lease) -> Open:
        found = ledger.find(offset)
        if found is None:
            found = ledger.open[offset] = Open(ledger, offset, attempt, lease)
            self.open_count += 1
        else:
            self._leave_lease(found)
            found.attempt, found.lease = attempt, lease
        lease.live += 1
        self._mark(found.ledger, found.offset)
        return found

    def _leave_lease(self, found: Open) -> None:
        lease = found.lease
        if lease is None:
            return
        lease.live -= 1
        if lease.live == 0:
            self.leases.pop(lease.key, None)
            lease.held = ()
            self.disown(lease, found.ledger.subscription.group)

    def _forget(self, found: Open) -> None:
        ledger, offset = found.ledger, found.offset
        ledger.open.pop(offset, None)
        origin = ledger.origins.pop(offset, None)
        if origin is not None:
            origin[0].moved.pop(origin[1], None)
        self.open_count -= 1
        self._mark(ledger, offset)

    def _home(self, ledger: Ledger, offset: int) -> Subscription:
        """The subscription that delivers it: where it came from, for a carried one."""
        origin = ledger.origins.get(offset)
        return (origin[0] if origin else ledger).subscription

    def _mark(self, ledger: Ledger, offset: int) -> None:
        ledger.dirty.add(offset >> CHUNK_BITS)
        self.dirty[ledger] = None

    def _drop(self, group: str, topic: str) -> None:
        subscription = self.subscriptions.pop((group, topic))
        for index, key, name in ((self.by_topic, topic, group), (self.by_group, group, topic)):
            del index[key][name]
            if not index[key]:
                del index[key]
        for ledger in subscription.ledgers.values():
            for found in [*ledger.open.values(), *ledger.moved.values()]:
                self._leave_lease(found)
                found.lease = None
                self._forget(found)
            self.dirty.pop(ledger, None)

    def ledgers(self) -> Iterator[Ledger]:
        """All of them."""
        for subscription in self.subscriptions.values():
            yield from subscription.ledgers.values()
