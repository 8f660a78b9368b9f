"""Who has which message, until when: the transitions of cursors, open messages, lines and leases (ledger.py, lines.py).

The same ones live and in replay. No clock, no log, no policy. An open message with a lease of its own costs at most
500 bytes, its timer included, one of many in a lease about 200 (tests/store/test_leases.py).
"""

from collections.abc import Callable, Iterable, Iterator

from rmq_store.bands import Bands
from rmq_store.journal import Acked, Cursors, Extended, Grouped, Leased
from rmq_store.ledger import Lease, Ledger, Open, Subscription
from rmq_store.lines import CHUNK_BITS, Lines
from rmq_store.wheel import Wheel

_DEAD_TIMERS = 10_000  # timers of ended leases that the wheel may hold, besides as many as there are leases


class Leases:
    """All groups' places, all leases, and the wheel that says when they end (lease time)."""

    def __init__(self) -> None:
        self.subscriptions: dict[tuple[str, str], Subscription] = {}
        self.by_topic: dict[str, dict[str, Subscription]] = {}
        self.by_group: dict[str, dict[str, Subscription]] = {}
        self.leases: dict[int, Lease] = {}
        self.by_client: dict[tuple[str, str], dict[int, Lease]] = {}  # (group, client) -> renewed leases
        self.by_asked: dict[int, Lease] = {}
        self.wheel = Wheel()
        self.open_count = 0
        self.parked_count = 0
        self.dirty: dict[Ledger, None] = {}
        self.woken: dict[Subscription, None] = {}  # whose `ready` or `lines` grew since the broker last looked
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
            self._unpark_from(ledger, next_offset)

    def apply_grouped(self, change: Grouped) -> None:
        """Messages join their lines."""
        subscription = self.subscription(change.group, change.topic)
        for queue_id, steps, keys in change.parts:
            ledger = subscription.ledger(queue_id)
            offset = 0
            for step, key in zip(steps, keys, strict=True):
                offset += step
                self._join(ledger, offset, key)

    def apply_leased(self, change: Leased) -> Lease:
        """Messages are with a client until due."""
        subscription = self.subscription(change.group, change.topic)
        lease = self.new_lease(
            change.group, change.sequence, change.taken_ms, change.due_ms, change.client, change.asked
        )
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

    def apply_extended(self, change: Extended) -> None:
        """One message's lease gets another end, under a new sequence, or is over."""
        ledger = self.subscription(change.group, change.topic).ledger(change.queue_id)
        if not change.sequence:
            if (found := ledger.find(change.offset)) is not None:
                self._leave_lease(found)
                found.lease = None
                self._mark(found.ledger, found.offset)
            return
        lease = self.new_lease(change.group, change.sequence, change.taken_ms, change.due_ms, "")
        lease.held = (self._hold(ledger, change.offset, change.attempt, lease),)

    def settle(self, ledger: Ledger, offset: int, *, final: bool = False) -> None:
        """The message is done for this group; nothing happens if it was already, or if nobody knows of its delivery.

        Behind others of its message group it is only acked early, unless this is `final`: it lives on elsewhere.
        """
        found = ledger.find(offset)
        key = ledger.key(offset)
        if found is None:
            if key is not None:
                was_front = ledger.is_front(key, offset)
                self._unpark(ledger, offset)
                if was_front:
                    self._go_on(ledger, key)
            return
        if key is not None and not final and not ledger.is_front(key, offset):
            self._ack_early(ledger, offset, found)
            return
        self._end(found)
        if key is not None:
            self._go_on(ledger, key)

    def _ack_early(self, ledger: Ledger, offset: int, found: Open) -> None:
        assert ledger.lines is not None
        if found.lease is not None:
            ledger.lines.early[offset] = found.lease.sequence
        else:
            ledger.lines.early.setdefault(offset, 0)
        self._leave_lease(found)
        found.lease = None
        self._mark(ledger, offset)

    def _go_on(self, ledger: Ledger, key: int) -> None:
        """The front may have left its line: early acks behind it count now."""
        lines = ledger.lines
        assert lines is not None
        while lines.length(key) and (front := lines.at(key, 0)) in lines.early:
            found = ledger.find(front)
            assert found is not None
            self._end(found)
        self._wake(ledger, key)

    def _wake(self, ledger: Ledger, key: int) -> None:
        """The front may be delivered, if there is one that nobody has; of a lite topic, what is behind its line."""
        lines = ledger.lines
        assert lines is not None
        if lines.length(key):
            found = ledger.find(lines.at(key, 0))
            free = found is None or found.lease is None
        else:
            free = ledger.subscription.lite
        if free:
            ledger.subscription.lines.append((ledger, key))
            self.woken[ledger.subscription] = None

    def _end(self, found: Open) -> None:
        self._leave_lease(found)
        found.lease = None
        self._forget(found)

    def release(self, found: Open) -> None:
        """The lease is over: ready to be delivered again, in its turn. The caller has decided that it may, and what
        becomes of early acks behind it.
        """
        self._leave_lease(found)
        found.lease = None
        ledger, offset = self.name(found)
        key = ledger.key(offset)
        if key is None:
            self.make_ready(found)
            self.woken[ledger.subscription] = None
        elif ledger.is_front(key, offset):
            self._wake(ledger, key)
        self._mark(found.ledger, found.offset)

    def make_ready(self, found: Open) -> None:
        """It is among those to be delivered again."""
        ledger, offset = self.name(found)
        bands = ledger.subscription.bands
        if bands is None:
            ledger.subscription.ready.append(found)
        else:
            bands.add(ledger.queue_id, offset)

    def put_back(self, subscription: Subscription, taken: list[Open]) -> None:
        """Out of those to be delivered again, and not delivered: they are the next, in this order."""
        if subscription.bands is None:
            subscription.ready.extendleft(reversed(taken))
            return
        for found in taken:
            self.make_ready(found)

    def go_by_queue(self, subscription: Subscription, *, wanted: bool) -> None:
        """How what is to be delivered again is kept from now on; a look at each of them, if that is new."""
        bands = subscription.bands
        if (bands is not None) == wanted:
            return
        waiting = list(subscription.ready) if bands is None else list(self._in_bands(subscription, bands))
        subscription.ready.clear()
        subscription.bands = Bands() if wanted else None
        for found in waiting:
            self.make_ready(found)

    def _in_bands(self, subscription: Subscription, bands: Bands) -> Iterator[Open]:
        for queue_id in list(bands):
            while (found := self.pop_ready(subscription, bands, queue_id)) is not None:
                yield found

    def pop_ready(self, subscription: Subscription, bands: Bands, queue_id: int) -> Open | None:
        """The oldest one of a queue."""
        while (offset := bands.pop(queue_id)) is not None:
            found = subscription.ledger(queue_id).find(offset)
            if found is not None and found.lease is None:
                return found
        return None

    def name(self, found: Open) -> tuple[Ledger, int]:
        """Where it was delivered from: its place, or the one that it was carried forward from."""
        return found.ledger.origins.get(found.offset, (found.ledger, found.offset))

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
            if ledger.key(offset) is not None:
                self._park(ledger, -1)
            self.woken[ledger.subscription] = None
        assert found is not None
        found.ledger, found.offset = to, to_offset
        to.open[to_offset] = found
        to.origins[to_offset] = (ledger, offset)
        ledger.moved[offset] = found
        self._mark(to, to_offset)
        if found is restored:
            self.make_ready(found)

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
            subscription.forget_ready()
        for ledger in self.ledgers():
            self._unpark_from(ledger, ledger.next)
            for key in ledger.lines.groups() if ledger.lines is not None else ():
                self._wake(ledger, key)
            for found in ledger.open.values():
                name, offset = self.name(found)
                if found.lease is None and name.key(offset) is None:
                    self.make_ready(found)

    def restore_lines(self, ledger: Ledger, chunk: int, entries: list[int], early: list[tuple[int, int]]) -> None:
        """From a checkpoint; `count_parked` follows when every place is known."""
        if ledger.lines is None:
            ledger.lines = Lines()
        ledger.lines.unpack(chunk, entries, early)

    def count_parked(self) -> None:
        """After a checkpoint was restored."""
        for ledger in self.ledgers():
            if ledger.lines is not None:
                self._park(ledger, len(ledger.parked()) - ledger.lines.parked)

    def restore(self, ledger: Ledger, offset: int, attempt: int, lease: Lease | None) -> Open:
        """From a checkpoint; `ready` is filled by `rearm`, when every place is known.

        The lease's `held` is the caller's to set, when it has all: one that holds 100,000 is not to be copied as often.
        """
        if lease is not None:
            return self._hold(ledger, offset, attempt, lease)
        found = ledger.open[offset] = Open(ledger, offset, attempt, None)
        self.open_count += 1
        return found

    def reopen(self, ledger: Ledger, places: Iterable[tuple[int, int | None]], next_offset: int) -> None:
        """In a replay: nobody knows who had these messages before `next_offset`: they are to be delivered again.

        `places`: offset and key of each; the key is None where it has no message group.
        """
        for offset, key in places:
            if key is not None:
                self._join(ledger, offset, key)
            if ledger.find(offset) is None:
                self.restore(ledger, offset, 0, None)
                self._mark(ledger, offset)
                if ledger.key(offset) is not None:
                    self._park(ledger, -1)
        ledger.next = max(ledger.next, next_offset)
        self.dirty[ledger] = None

    # -- small parts -------------------------------------------------------------------------------------------------

    def new_lease(self, group: str, sequence: int, taken_ms: int, due_ms: int, client: str, asked: int = 0) -> Lease:
        """An empty one; `client` not empty: renewed while that client lives."""
        key = sequence
        if key in self.leases:  # one receive's leases part where one of its messages is carried forward
            key, self._next_key = self._next_key, self._next_key - 1
        lease = self.leases[key] = Lease(key, sequence, taken_ms, due_ms, client, asked)
        if client:
            self.by_client.setdefault((group, client), {})[key] = lease
        if asked:
            self.by_asked[asked] = lease
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
            if ledger.lines is not None and ledger.lines.key(offset) is not None:
                self._park(ledger, -1)
        else:
            self._leave_lease(found)
            found.attempt, found.lease = attempt, lease
            if ledger.lines is not None and ledger.lines.early.pop(offset, None) is not None:
                self._mark(ledger, offset)
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
            if self.by_asked.get(lease.asked) is lease:
                del self.by_asked[lease.asked]
            self.disown(lease, found.ledger.subscription.group)

    def _forget(self, found: Open) -> None:
        ledger, offset = found.ledger, found.offset
        ledger.open.pop(offset, None)
        name, name_offset = ledger.origins.pop(offset, (ledger, offset))
        if name is not ledger:
            name.moved.pop(name_offset, None)
        if name.lines is not None:
            name.lines.remove(name_offset)
            self._mark(name, name_offset)
        self.open_count -= 1
        self._mark(ledger, offset)

    def _join(self, ledger: Ledger, offset: int, key: int) -> None:
        if ledger.lines is None:
            ledger.lines = Lines()
        if ledger.lines.add(offset, key):
            self._park(ledger, int(ledger.find(offset) is None))
            self._mark(ledger, offset)

    def _park(self, ledger: Ledger, count: int) -> None:
        assert ledger.lines is not None
        ledger.lines.parked += count
        self.parked_count += count

    def _unpark(self, ledger: Ledger, offset: int) -> None:
        assert ledger.lines is not None
        ledger.lines.remove(offset)
        self._park(ledger, -1)
        self._mark(ledger, offset)

    def _unpark_from(self, ledger: Ledger, offset: int) -> None:
        """The cursor will pass them again."""
        for parked in ledger.lines.since(offset) if ledger.lines is not None else ():
            if ledger.find(parked) is None:
                self._unpark(ledger, parked)

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
            if ledger.lines is not None:
                self._park(ledger, -ledger.lines.parked)
            for found in [*ledger.open.values(), *ledger.moved.values()]:
                first, offset = self.name(found)
                line = first.key(offset)
                self._end(found)
                if line is not None and first.subscription is not subscription:
                    self._go_on(first, line)
            self.dirty.pop(ledger, None)

    def ledgers(self) -> Iterator[Ledger]:
        """All of them."""
        for subscription in self.subscriptions.values():
            yield from subscription.ledgers.values()
