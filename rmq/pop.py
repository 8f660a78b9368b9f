"""Pop consumption, first half: who gets which message next. A topic's queues all at once.

    never delivered --take--> leased --ack--> settled
                               | ^ |--change invisible: leased until then, under a new handle
                               v | |--due, attempts left: ready, taken again with attempt + 1
                           renewed |--due, no attempts left: dead letter

What becomes of a delivery afterwards: settle.py (what clients say), expiry.py (what time does). A receive's leases are
journaled before its answer but the answer does not wait for the disk: a lost lease is only a redelivery. Time here is
lease time (rmq/clock.py).
"""

from collections.abc import Iterator, Sequence

from rmq.clock import Clock
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.filter import Filter, reading_cost
from rmq.handle import Handle, HandleMakers
from rmq.message import Delivered
from rmq.port import ReceiveRequest
from rmq.topics import Topics
from rmq_store import record
from rmq_store.consumequeue import ConsumeQueue, Entry
from rmq_store.journal import Acked, Cursors, Leased, lease_part
from rmq_store.leases import Ledger, Open, Subscription
from rmq_store.record import Record
from rmq_store.state import Topic
from rmq_store.store import Store

SCAN_MAX = 800  # queue entries that one take looks at, a record read in vain counts more: 4 ms (Apache: 800)
_READ_AHEAD = 64  # queue entries read at once for a filter: a match may be the next one


class Take:
    """One receive being filled: messages, and what the journal needs to know of each queue.

    `room` in messages, `bytes` in record bytes; the last message may be larger than what is left. `others`: filters of
    polls that wait, what they want is left to them.
    """

    __slots__ = ("budget", "bytes", "messages", "nexts", "offsets", "others", "popped", "room", "settled", "wanted")

    def __init__(self, room: int, bytes_max: int, wanted: Filter, others: Sequence[Filter]) -> None:
        self.room = room
        self.bytes = bytes_max
        self.budget = SCAN_MAX
        self.wanted = wanted
        self.others = others
        self.popped: list[Open] = []  # out of `ready`, not leased yet
        self.messages: list[tuple[Ledger, int, int, Record, dict[str, str]]] = []  # ledger, offset, attempt, ...
        self.nexts: dict[Ledger, int] = {}
        self.offsets: dict[Ledger, list[tuple[int, int]]] = {}  # offset and attempt of what is leased
        self.settled: dict[Ledger, list[int]] = {}

    def add(self, ledger: Ledger, offset: int, attempt: int, found: Record, properties: dict[str, str]) -> None:
        """One message for the answer."""
        self.messages.append((ledger, offset, attempt, found, properties))
        self.offsets.setdefault(ledger, []).append((offset, attempt))
        self.room -= 1
        self.bytes -= found.size

    @property
    def goes_on(self) -> bool:
        """There is room for one more message, and leave to look for it."""
        return self.room > 0 and self.bytes > 0 and self.budget > 0

    def spares(self, properties: dict[str, str]) -> bool:
        """A message that is not wanted here is wanted by another."""
        return any(other.matches(properties) for other in self.others)


class Pop:
    """Receives. `online`: (group, client) pairs that live."""

    def __init__(
        self,
        store: Store,
        topics: Topics,
        makers: HandleMakers,
        clock: Clock,
        config: Config,
        *,
        online: set[tuple[str, str]],
    ) -> None:
        self._store = store
        self._leases = store.state.leases
        self._topics = topics
        self._makers = makers
        self._clock = clock
        self._config = config
        self._online = online
        self.looked = 0  # queue entries that all takes looked at, as SCAN_MAX counts them

    def subscription(self, group: str, topic: Topic) -> Subscription:
        """The group's places in a topic; a new group starts at 0 where nothing was deleted from the queue, else at the
        end.
        """
        subscription = self._leases.subscription(group, topic.name)
        known = len(subscription.ledgers)
        if known < len(topic.queues):
            fresh = [q for q in topic.queues if q.queue_id not in subscription.ledgers]
            starts = [(q.queue_id, q.visible if not known and q.min_offset else q.min_offset) for q in fresh]
            self._store.apply(Cursors(group, topic.name, starts))
        return subscription

    def take(
        self, subscription: Subscription, request: ReceiveRequest, others: Sequence[Filter] = ()
    ) -> list[Delivered]:
        """Leases up to `request.batch` messages: those to be delivered again first. Bounded work; may find none and
        leave some. `others`: filters whose messages stay. Raises TOO_MANY_REQUESTS at leases_max.
        """
        topic = self._topics.find(subscription.topic)
        if topic is None or self._leases.subscriptions.get((subscription.group, subscription.topic)) != subscription:
            subscription.ready.clear()  # the topic or the group was dropped: nothing comes any more
            subscription.pending.clear()
        if topic is None or not self.has_more(subscription):
            return []
        free = self._config.leases_max - self._leases.open_count  # what is ready is counted in already
        if free <= 0 and not subscription.ready:
            self._refuse_new(subscription, topic)
            return []
        room = min(request.batch, self._config.receive_batch_max)
        take = Take(room, self._config.receive_bytes_max, request.filter, others)
        try:
            self._take_ready(take, subscription)
            take.room = min(take.room, free)
            self._take_pending(take, self.subscription(subscription.group, topic), topic)
        except OSError:
            subscription.ready.extendleft(reversed(take.popped))
            raise
        self.looked += SCAN_MAX - take.budget
        return self._lease(take, subscription, request)

    def _refuse_new(self, subscription: Subscription, topic: Topic) -> None:
        for queue_id in list(subscription.pending):
            if topic.queues[queue_id].visible > subscription.ledger(queue_id).next:
                raise ClientError(
                    Code.TOO_MANY_REQUESTS,
                    f"leases_max = {self._config.leases_max} messages are un-acknowledged: ack some first",
                )
            del subscription.pending[queue_id]

    def has_more(self, subscription: Subscription) -> bool:
        """A take that found nothing may find something in its next turn."""
        return bool(subscription.ready or subscription.pending)

    def _take_ready(self, take: Take, subscription: Subscription) -> None:
        spared = []
        while subscription.ready and take.goes_on:
            found = subscription.ready.popleft()
            ledger, offset = found.ledger, found.offset
            if ledger.open.get(offset) is not found or found.lease is not None:
                continue
            take.budget -= 1
            take.popped.append(found)
            name, name_offset = ledger.origins.get(offset, (ledger, offset))
            kept = self._store.read_message(ledger.subscription.topic, ledger.queue_id, offset)
            properties = kept.decode_properties() if kept else {}
            if kept is not None and take.wanted.matches(properties):
                take.add(name, name_offset, found.attempt + 1, kept, properties)
                continue
            take.budget -= reading_cost(kept.size) if kept else 0
            if kept is not None and take.spares(properties):
                spared.append(found)
            else:
                take.settled.setdefault(name, []).append(name_offset)
        subscription.ready.extendleft(reversed(spared))

    def _take_pending(self, take: Take, subscription: Subscription, topic: Topic) -> None:
        for queue_id in list(subscription.pending):
            if not take.goes_on:
                break
            queue, ledger = topic.queues[queue_id], subscription.ledgers[queue_id]
            start = max(ledger.next, queue.min_offset)
            offset = self._take_queue(take, ledger, queue, start)
            if offset != ledger.next:
                take.nexts[ledger] = offset
            del subscription.pending[queue_id]
            if offset < queue.visible:
                subscription.pending[queue_id] = None  # the next receive begins with another queue

    def _take_queue(self, take: Take, ledger: Ledger, queue: ConsumeQueue, offset: int) -> int:
        """Passes over new entries from an offset on; returns the offset behind the last one."""
        for at, entry in _entries(take, queue, offset):
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
            take.add(ledger, offset, 1, found, properties)
            return True
        take.budget -= reading_cost(found.size)
        return not take.spares(properties)

    def _lease(self, take: Take, subscription: Subscription, request: ReceiveRequest) -> list[Delivered]:
        group, topic = subscription.group, subscription.topic
        if take.settled:
            self._store.apply(Acked(group, topic, [(ledger.queue_id, done) for ledger, done in take.settled.items()]))
        if not take.messages:
            if take.nexts:
                self._store.apply(Cursors(group, topic, [(ledger.queue_id, n) for ledger, n in take.nexts.items()]))
            return []
        now_ms = self._clock.lease_ms()
        due_ms = now_ms + (self._config.auto_renew_ms if request.auto_renew else request.invisible_ms)
        renewed = request.auto_renew and (group, request.client_id) in self._online  # it may have gone while it polled
        until_ms = now_ms + self._config.renew_total_ms_max if renewed else due_ms
        client = request.client_id if renewed else ""
        sequence = self._store.next_sequence()
        ledgers = {**take.nexts, **take.offsets}
        parts = [lease_part(q.queue_id, take.nexts.get(q, q.next), take.offsets.get(q, [])) for q in ledgers]
        self._store.apply(Leased(group, topic, sequence, now_ms, due_ms, client, parts))
        maker = self._makers.of(group, topic)
        return [
            _delivered(
                topic, ledger.queue_id, offset, attempt, found, properties,
                maker.text(Handle(ledger.queue_id, offset, sequence, until_ms)),
            )
            for ledger, offset, attempt, found, properties in take.messages
        ]  # fmt: skip


def _entries(take: Take, queue: ConsumeQueue, offset: int) -> Iterator[tuple[int, Entry]]:
    """Visible entries from an offset on, as long as the take goes on."""
    while take.goes_on and offset < queue.visible:
        count = take.room if take.wanted.is_all else _READ_AHEAD
        entries = queue.read(offset, min(count, take.budget, queue.visible - offset))
        if not entries:
            raise OSError(f"the index of {queue.topic} queue {queue.queue_id} ends before offset {offset}")
        for entry in entries:
            if not take.goes_on:
                return
            yield offset, entry
            offset += 1


def _delivered(
    topic: str, queue_id: int, offset: int, attempt: int, found: Record, properties: dict[str, str], handle: str
) -> Delivered:
    return Delivered(
        topic, queue_id, offset, found.body, properties, found.sys_flag, found.born_ms,
        record.host_text(found.born_host), found.store_ms,
        f"{record.host_text(found.store_host)}:{found.store_port}", attempt, handle,
    )  # fmt: skip
