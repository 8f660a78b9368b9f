"""Pop consumption, first half: who gets which message next. A topic's queues all at once; order.py and priority.py have
a say.

    never delivered --take--> leased --ack--> settled
                               | ^ |--change invisible: leased until then, under a new handle
                               v | |--due, attempts left: ready, taken again with attempt + 1
                           renewed |--due, no attempts left: dead letter

What becomes of a delivery afterwards: settle.py (what clients say), expiry.py (what time does). A receive's leases are
journaled before its answer but the answer does not wait for the disk: a lost lease is only a redelivery. Time here is
lease time (rmq/clock.py).
"""

from collections.abc import Callable, Sequence
from functools import partial

from rmq.clock import Clock
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.filter import Filter, reading_cost
from rmq.handle import Handle, HandleMakers
from rmq.message import SHARDING_KEY, Delivered, MessageType
from rmq.order import Order
from rmq.port import ReceiveRequest
from rmq.priority import Turns
from rmq.scan import SCAN_MAX
from rmq.take import Take, Taken, delivered
from rmq.topics import Topics
from rmq.traffic import Traffic
from rmq_store.bands import Bands
from rmq_store.consumequeue import ConsumeQueue, Entry
from rmq_store.journal import Acked, Cursors, Grouped, Leased, lease_part, steps
from rmq_store.ledger import Ledger, Open, Subscription
from rmq_store.lines import WHOLE_QUEUE, key_of
from rmq_store.state import Topic
from rmq_store.store import Store

_ORDERED = (MessageType.FIFO.value, MessageType.MIXED.value)  # topics whose message groups have a say
_PRIORITY = MessageType.PRIORITY.value


class Pop:
    """Receives. `online`: (group, client) pairs that live."""

    def __init__(
        self,
        store: Store,
        topics: Topics,
        makers: HandleMakers,
        clock: Clock,
        config: Config,
        traffic: Traffic,
        *,
        online: set[tuple[str, str]],
    ) -> None:
        self._store = store
        self._traffic = traffic
        self._leases = store.state.leases
        self._topics = topics
        self._makers = makers
        self._clock = clock
        self._config = config
        self._online = online
        self.order = Order(store, config.parked_max)
        self.looked = 0  # queue entries that all takes looked at, as SCAN_MAX counts them
        for topic in store.state.topics.values():
            for subscription in self._leases.by_topic.get(topic.name, {}).values():
                self._go_by(subscription, topic)

    def subscription(self, group: str, topic: Topic) -> Subscription:
        """The group's places in a topic; a new group starts at 0 where nothing was deleted from the queue, else at the
        end.
        """
        subscription = self._leases.subscription(group, topic.name)
        self._go_by(subscription, topic)
        known = len(subscription.ledgers)
        if known < len(topic.queues):
            fresh = [q for q in topic.queues if q.queue_id not in subscription.ledgers]
            starts = [(q.queue_id, q.visible if not known and q.min_offset else q.min_offset) for q in fresh]
            self._store.apply(Cursors(group, topic.name, starts))
        return subscription

    def _is_orderly(self, group: str) -> bool:
        known = self._store.state.groups.get(group)
        return known is not None and known.orderly

    def _go_by(self, subscription: Subscription, topic: Topic) -> None:
        self._leases.go_by_queue(subscription, wanted=topic.type == _PRIORITY and not subscription.lite)

    def take(
        self, subscription: Subscription, request: ReceiveRequest, others: Sequence[Filter] = ()
    ) -> list[Delivered]:
        """Leases up to `request.batch` messages: those to be delivered again first. Bounded work; may find none and
        leave some. `others`: filters whose messages stay. Raises TOO_MANY_REQUESTS at leases_max.
        """
        topic = self._topics.find(subscription.topic)
        if topic is None or self._leases.subscriptions.get((subscription.group, subscription.topic)) != subscription:
            subscription.forget_ready()  # the topic or the group was dropped: nothing comes any more
            subscription.pending.clear()
        if topic is None or not self.has_more(subscription):
            return []
        free = self._config.leases_max - self._leases.open_count  # what is ready is counted in already
        if free <= 0 and not subscription.has_ready and not subscription.lines:
            self._refuse_new(subscription, topic)
            return []
        room = min(request.batch, self._config.receive_batch_max)
        take = Take(
            room, self._config.receive_bytes_max, free, request.filter, others,
            ordered=topic.type in _ORDERED, fifo=request.fifo, orderly=self._is_orderly(request.group),
        )  # fmt: skip
        self.subscription(subscription.group, topic)  # with queues and type that the topic has by now
        bands = subscription.bands
        try:
            if bands is None:
                self.take_ready(take, subscription)
                self.order.take_lines(take, subscription)
                self._take_pending(take, subscription, topic)
            else:
                self.order.take_lines(take, subscription)
                self._take_by_priority(take, subscription, topic, bands)
        except OSError:
            self._leases.put_back(subscription, take.popped)
            subscription.lines.extendleft(reversed(take.places))
            raise
        if take.free <= 0 and subscription.lines and not take.messages and not take.settled:
            raise self.too_many()
        self.looked += SCAN_MAX - take.budget
        return self.lease(take, subscription, request)

    def _refuse_new(self, subscription: Subscription, topic: Topic) -> None:
        for queue_id in list(subscription.pending):
            if topic.queues[queue_id].visible > subscription.ledger(queue_id).next:
                raise self.too_many()
            del subscription.pending[queue_id]

    def too_many(self) -> ClientError:
        """At leases_max."""
        text = f"leases_max = {self._config.leases_max} messages are un-acknowledged: ack some first"
        return ClientError(Code.TOO_MANY_REQUESTS, text)

    def has_more(self, subscription: Subscription) -> bool:
        """A take that found nothing may find something in its next turn."""
        return bool(subscription.has_ready or subscription.lines or subscription.pending)

    def take_ready(self, take: Take, subscription: Subscription) -> None:
        """What was delivered, and is to be again, but has no message group."""
        self._take_ready(take, subscription, partial(self._next_ready, subscription))

    def _take_by_priority(self, take: Take, subscription: Subscription, topic: Topic, bands: Bands) -> None:
        turns = Turns(bands, self._waiting(take, subscription, topic, bands), self._config.lower_priority_nth)
        while take.goes_on and (turn := turns.next()) is not None:
            queue_id, limit = turn
            room, before = take.room, len(take.messages)
            take.room = wanted = min(room, limit or room)
            self._take_ready(take, subscription, partial(self._leases.pop_ready, subscription, bands, queue_id))
            take.room = min(take.room, max(take.free, 0))
            if queue_id in subscription.pending:
                self._take_new(take, subscription, topic, queue_id)
            count = len(take.messages) - before
            take.room = room - count
            more = queue_id in subscription.pending or queue_id in bands
            turns.took(queue_id, count, ended=count < wanted or not more)

    def _waiting(self, take: Take, subscription: Subscription, topic: Topic, bands: Bands) -> set[int]:
        """Queues that hold something for the group. What retention deleted does not wait: it is passed over."""
        for queue_id in list(subscription.pending):
            queue = topic.queues[queue_id]
            if queue.visible <= subscription.ledgers[queue_id].next:
                del subscription.pending[queue_id]
            elif queue.visible <= queue.min_offset:
                self._take_new(take, subscription, topic, queue_id)
        return {*subscription.pending, *bands}

    @staticmethod
    def _next_ready(subscription: Subscription) -> Open | None:
        while subscription.ready:
            found = subscription.ready.popleft()
            if found.ledger.open.get(found.offset) is found and found.lease is None:
                return found
        return None

    def _take_ready(self, take: Take, subscription: Subscription, next_one: Callable[[], Open | None]) -> None:
        spared: list[Open] = []
        while take.goes_on and (found := next_one()) is not None:
            ledger, offset = found.ledger, found.offset
            take.budget -= 1
            take.popped.append(found)
            name, name_offset = self._leases.name(found)
            kept = self._store.read_message(ledger.subscription.topic, ledger.queue_id, offset)
            properties = kept.decode_properties() if kept else {}
            if kept is not None and take.wanted.matches(properties):
                take.add(name, name_offset, found.attempt + 1, kept, properties, again=True)
                continue
            take.budget -= reading_cost(kept.size) if kept else 0
            if kept is not None and take.spares(properties):
                spared.append(found)
            else:
                take.settle(name, name_offset)
        if spared:
            self._leases.put_back(subscription, spared)
            kept_back = set(spared)
            take.popped = [found for found in take.popped if found not in kept_back]

    def _take_pending(self, take: Take, subscription: Subscription, topic: Topic) -> None:
        take.room = min(take.room, max(take.free, 0))
        for queue_id in list(subscription.pending):
            if not take.goes_on:
                break
            self._take_new(take, subscription, topic, queue_id)

    def _take_new(self, take: Take, subscription: Subscription, topic: Topic, queue_id: int) -> None:
        queue, ledger = topic.queues[queue_id], subscription.ledgers[queue_id]
        start = max(take.nexts.get(ledger, ledger.next), queue.min_offset)
        offset = self._take_queue(take, ledger, queue, start)
        if offset != ledger.next:
            take.nexts[ledger] = offset
        del subscription.pending[queue_id]
        if take.stalled:
            self.order.stall(take, ledger)
        elif offset < queue.visible:
            subscription.pending[queue_id] = None  # the next receive begins with another queue

    def _take_queue(self, take: Take, ledger: Ledger, queue: ConsumeQueue, offset: int) -> int:
        """Passes over new entries from an offset on; returns the offset behind the last one."""
        for at, entry in take.entries(queue, offset):
            take.budget -= 1
            if not self._pass(take, ledger, queue, at, entry):
                break
            offset = at + 1
        return offset

    def _pass(self, take: Take, ledger: Ledger, queue: ConsumeQueue, offset: int, entry: Entry) -> bool:
        """Takes the message if it is wanted; False where it has to stay for another poll."""
        if not take.others and not take.wanted.may_match(entry.tags_code):
            return True
        found = self._store.read(queue, offset, entry)
        if found is None:
            return True
        properties = found.decode_properties()
        if take.wanted.matches(properties):
            if take.ordered and (message_group := properties.get(SHARDING_KEY)):
                return self.order.admit(take, ledger, offset, key_of(message_group), found, properties)
            if take.orderly:
                return self.order.admit(take, ledger, offset, WHOLE_QUEUE, found, properties)
            take.add(ledger, offset, 1, found, properties)
            return True
        take.budget -= reading_cost(found.size)
        return not take.spares(properties)

    def lease(self, take: Take, subscription: Subscription, request: ReceiveRequest) -> list[Delivered]:
        """What was taken is with the client, and the journal knows."""
        group, topic = subscription.group, subscription.topic
        if take.settled:
            self._store.apply(Acked(group, topic, [(ledger.queue_id, done) for ledger, done in take.settled.items()]))
        if take.grouped:
            self._store.apply(Grouped(group, topic, [_grouped(ledger, rows) for ledger, rows in take.grouped.items()]))
        if not take.messages:
            if take.nexts:
                self._store.apply(Cursors(group, topic, [(ledger.queue_id, n) for ledger, n in take.nexts.items()]))
            return []
        ledgers = {**take.nexts, **take.offsets}
        parts = [lease_part(q.queue_id, take.nexts.get(q, q.next), take.offsets.get(q, [])) for q in ledgers]
        asked = _asked(request) if take.lines and request.attempt_id else 0
        self._traffic.of(subscription).took(*take.count())
        return self._hand_out(request, self._store.next_sequence(), parts, asked, take.messages)

    def again(self, subscription: Subscription, request: ReceiveRequest) -> list[Delivered]:
        """What the same client was given for the same attempt id, if its message groups are in order and all of it is
        with it still: the same deliveries, from now on. Else nothing.
        """
        lease = self._leases.by_asked.get(_asked(request)) if request.attempt_id and self._leases.by_asked else None
        if lease is None or lease.live != len(lease.held) or lease.due_ms <= self._clock.lease_ms():
            return []
        rows: dict[Ledger, list[tuple[int, int]]] = {}
        messages = []
        for found in lease.held:
            kept = self._store.read_message(found.ledger.subscription.topic, found.ledger.queue_id, found.offset)
            properties = kept.decode_properties() if kept else {}
            if kept is None or not request.filter.matches(properties):
                return []
            name, offset = self._leases.name(found)
            rows.setdefault(name, []).append((offset, found.attempt))
            messages.append((name, offset, found.attempt, kept, properties))
        parts = [lease_part(ledger.queue_id, ledger.next, of) for ledger, of in rows.items()]
        taken = len(messages), sum(kept.size for _, _, _, kept, _ in messages)
        self._traffic.of(subscription).took(taken, taken)
        return self._hand_out(request, lease.sequence, parts, lease.asked, messages)

    def _hand_out(
        self,
        request: ReceiveRequest,
        sequence: int,
        parts: list[tuple[int, int, list[int], list[int]]],
        asked: int,
        messages: Sequence[Taken],
    ) -> list[Delivered]:
        group, topic = request.group, request.topic
        now_ms = self._clock.lease_ms()
        due_ms = now_ms + (self._config.auto_renew_ms if request.auto_renew else request.invisible_ms)
        renewed = request.auto_renew and (group, request.client_id) in self._online  # it may have gone while it polled
        until_ms = now_ms + self._config.renew_total_ms_max if renewed else due_ms
        client = request.client_id if renewed else ""
        self._store.apply(Leased(group, topic, sequence, now_ms, due_ms, client, parts, asked))
        maker = self._makers.of(group, topic)
        return [
            delivered(
                topic, ledger.queue_id, offset, attempt, found, properties,
                maker.text(Handle(ledger.queue_id, offset, sequence, until_ms)),
            )
            for ledger, offset, attempt, found, properties in messages
        ]  # fmt: skip


def _grouped(ledger: Ledger, rows: list[tuple[int, int]]) -> tuple[int, list[int], list[int]]:
    """A part of Grouped; rows are (offset, key)."""
    rows = sorted(rows)
    return ledger.queue_id, steps([offset for offset, _ in rows]), [key for _, key in rows]


def _asked(request: ReceiveRequest) -> int:
    return key_of(request.group, request.topic, request.client_id, request.attempt_id)
