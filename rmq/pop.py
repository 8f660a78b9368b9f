"""Pop consumption: who gets which message next, and what becomes of it. Normal messages; every queue of a topic at once.

    never delivered --take--> leased --ack--> settled
                               | ^  \--change invisible: leased until then, under a new handle
                               v |   \--due, attempts left: ready, taken again with attempt + 1
                          renewed by the server while its push consumer lives     \--due, no attempts left: dead letter

A receive's leases are journaled before its answer but the answer does not wait for the disk: a lost lease is only a
redelivery. Acks, extensions and dead letters answer when they are safe. Time here is lease time (rmq/clock.py).
"""

import logging
from collections.abc import Sequence

from rmq import message as m
from rmq.clock import Clock
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.filter import Filter
from rmq.groups import Groups
from rmq.handle import Handle, HandleMaker
from rmq.message import Delivered, MessageType
from rmq.port import Answer, GroupView, ReceiveRequest
from rmq.topics import Topics
from rmq_store import record
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.errors import StoreFull
from rmq_store.journal import Acked, Cursors, Extended, Leased
from rmq_store.leases import Lease, Ledger, Open, Subscription
from rmq_store.record import Draft, Record
from rmq_store.state import Origin, Topic
from rmq_store.store import Store

log_ = logging.getLogger("rmq.pop")
SCAN_MAX = 800  # queue entries that one take looks at: what bounds a selective filter's turn (Apache: 800)
GONE_INVISIBLE_MS = 1000  # RocketMQ: messages of a vanished push consumer become visible after 1 s
_FULL_RETRY_MS = 10_000


class Take:
    """One receive being filled: messages, and what the journal needs to know of each queue."""

    __slots__ = ("attempts", "budget", "bytes", "messages", "nexts", "offsets", "room", "settled")

    def __init__(self, room: int) -> None:
        self.room = room
        self.budget = SCAN_MAX
        self.bytes = 0
        self.messages: list[tuple[Ledger, int, int, Record, dict[str, str]]] = []  # ledger, offset, attempt, ...
        self.nexts: dict[Ledger, int] = {}
        self.offsets: dict[Ledger, list[tuple[int, int]]] = {}  # offset and attempt of what is leased
        self.settled: dict[Ledger, list[int]] = {}

    def add(self, ledger: Ledger, offset: int, attempt: int, found: Record, properties: dict[str, str]) -> None:
        """One message for the answer."""
        self.messages.append((ledger, offset, attempt, found, properties))
        self.offsets.setdefault(ledger, []).append((offset, attempt))
        self.room -= 1
        self.bytes += found.size


class Pop:
    """All verbs of pop consumption. `online`: (group, client) pairs that live."""

    def __init__(self, store: Store, topics: Topics, groups: Groups, clock: Clock, config: Config) -> None:
        self._store = store
        self._leases = store.state.leases
        self._topics = topics
        self._groups = groups
        self._clock = clock
        self._config = config
        self._makers: dict[tuple[str, str], HandleMaker] = {}
        self.online: set[tuple[str, str]] = set()

    # -- take --------------------------------------------------------------------------------------------------------

    def subscription(self, group: str, topic: Topic) -> Subscription:
        """The group's places in a topic; a new group starts at 0 where nothing was deleted from the queue, else at the end."""
        subscription = self._leases.subscription(group, topic.name)
        known = len(subscription.ledgers)
        if known < len(topic.queues):
            fresh = [q for q in topic.queues if q.queue_id not in subscription.ledgers]
            starts = [(q.queue_id, q.visible if not known and q.min_offset else q.min_offset) for q in fresh]
            self._store.apply(Cursors(group, topic.name, starts))
        return subscription

    def take(self, subscription: Subscription, request: ReceiveRequest) -> list[Delivered]:
        """Leases up to `request.batch` messages: those to be delivered again first. Bounded work; may find none and leave some.

        Raises TOO_MANY_REQUESTS at leases_max.
        """
        if not subscription.ready and not subscription.pending:
            return []
        if self._leases.open_count >= self._config.leases_max:
            raise ClientError(
                Code.TOO_MANY_REQUESTS, f"leases_max = {self._config.leases_max} messages are un-acknowledged: ack some first"
            )
        topic = self._topics.find(subscription.topic)
        if topic is None:
            return []
        take = Take(min(request.batch, self._config.receive_batch_max))
        self._take_ready(take, subscription, request.filter)
        for queue_id in list(subscription.pending):
            if take.room <= 0 or take.budget <= 0 or take.bytes >= self._config.receive_bytes_max:
                break
            self._take_new(take, subscription, topic.queues[queue_id], request.filter)
        return self._lease(take, subscription, request)

    def has_more(self, subscription: Subscription) -> bool:
        """A take that found nothing may find something in its next turn."""
        return bool(subscription.ready or subscription.pending)

    def _take_ready(self, take: Take, subscription: Subscription, wanted: Filter) -> None:
        while subscription.ready and take.room > 0 and take.budget > 0:
            found = subscription.ready.popleft()
            ledger, offset = found.ledger, found.offset
            if ledger.open.get(offset) is not found or found.lease is not None:
                continue
            take.budget -= 1
            name, name_offset = ledger.origins.get(offset, (ledger, offset))
            queue = self._store.state.queue(ledger.subscription.topic, ledger.queue_id)
            entries = queue.read(offset, 1) if queue else []
            kept = self._store.read(queue, offset, entries[0]) if queue and entries else None
            properties = kept.decode_properties() if kept else {}
            if kept is None or not wanted.matches(properties):
                take.settled.setdefault(name, []).append(name_offset)
            else:
                take.add(name, name_offset, found.attempt + 1, kept, properties)

    def _take_new(self, take: Take, subscription: Subscription, queue: ConsumeQueue, wanted: Filter) -> None:
        ledger = subscription.ledgers[queue.queue_id]
        offset = max(ledger.next, queue.min_offset)
        while take.room > 0 and take.budget > 0 and take.bytes < self._config.receive_bytes_max:
            count = min(queue.visible - offset, take.room if wanted.tags is None else take.budget, take.budget)
            entries = queue.read(offset, count) if count > 0 else []
            if not entries:
                subscription.pending.pop(queue.queue_id, None)
                break
            for entry in entries:
                if take.room <= 0 or take.bytes >= self._config.receive_bytes_max:
                    break
                take.budget -= 1
                if wanted.may_match(entry.tags_code) and (found := self._store.read(queue, offset, entry)) is not None:
                    properties = found.decode_properties()
                    if wanted.matches(properties):
                        take.add(ledger, offset, 1, found, properties)
                offset += 1
        else:
            subscription.pending.pop(queue.queue_id, None)
            subscription.pending[queue.queue_id] = None  # the next receive begins with another queue
        if offset != ledger.next:
            take.nexts[ledger] = offset

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
        until_ms = now_ms + self._config.renew_total_ms_max if request.auto_renew else due_ms
        client = request.client_id if request.auto_renew else ""
        sequence = self._store.next_sequence()
        parts = [_part(ledger, take) for ledger in {**take.nexts, **take.offsets}]
        self._store.apply(Leased(group, topic, sequence, now_ms, due_ms, client, parts))
        maker = self._maker(group, topic)
        return [
            _delivered(topic, ledger.queue_id, offset, attempt, found, properties, maker.text(ledger.queue_id, offset, sequence, until_ms))
            for ledger, offset, attempt, found, properties in take.messages
        ]

    def _maker(self, group: str, topic: str) -> HandleMaker:
        maker = self._makers.get((group, topic))
        if maker is None:
            maker = self._makers[(group, topic)] = HandleMaker(group, topic)
        return maker

    # -- answer to a delivery ----------------------------------------------------------------------------------------

    def ack(self, group: str, topic: str, handles: Sequence[str]) -> Answer[Sequence[ClientError | None]]:
        """One entry per handle. Acking the same delivery again is OK until its lease would have ended."""
        results: list[ClientError | None] = []
        answer: Sequence[ClientError | None] = results
        done: dict[int, dict[int, None]] = {}
        for text in handles:
            try:
                handle = self._maker(group, topic).parse(text)
                if self._find(group, topic, handle, settled_ok=True) is not None:
                    done.setdefault(handle.queue_id, {})[handle.offset] = None
                results.append(None)
            except ClientError as error:
                results.append(error)
        if done:
            self._store.apply(Acked(group, topic, [(queue_id, list(offsets)) for queue_id, offsets in done.items()]))
        return self._store.when_safe(answer) if None in results else answer

    def change_invisible(self, group: str, topic: str, text: str, invisible_ms: int, *, suspend: bool) -> Answer[str]:
        """See BrokerPort."""
        maker = self._maker(group, topic)
        handle = maker.parse(text)
        found = self._find(group, topic, handle)
        assert found is not None
        now_ms = self._clock.lease_ms()
        due_ms = now_ms + invisible_ms
        sequence = self._store.next_sequence()
        attempt = max(found.attempt - 1, 0) if suspend else found.attempt
        self._store.apply(Extended(group, topic, handle.queue_id, handle.offset, sequence, now_ms, due_ms, attempt))
        if invisible_ms == 0 and found.lease is not None:
            self.end(found.lease)
        return self._store.when_safe(maker.text(handle.queue_id, handle.offset, sequence, due_ms))

    def dead_letter(self, group: str, topic: str, text: str) -> Answer[None]:
        """See BrokerPort."""
        found = self._find(group, topic, self._maker(group, topic).parse(text))
        assert found is not None
        self._bury(found)
        return self._store.when_safe(None)

    def _find(self, group: str, topic: str, handle: Handle, *, settled_ok: bool = False) -> Open | None:
        """The leased message of a handle; None for one that is settled already. Raises INVALID_RECEIPT_HANDLE."""
        subscription = self._leases.subscriptions.get((group, topic))
        ledger = subscription.ledgers.get(handle.queue_id) if subscription else None
        found = ledger.find(handle.offset) if ledger else None
        if found is not None and found.lease is not None and found.lease.sequence == handle.sequence:
            return found
        if (
            settled_ok
            and found is None
            and ledger is not None
            and handle.offset < ledger.next
            and self._clock.lease_ms() < handle.until_ms
        ):
            return None
        raise ClientError(
            Code.INVALID_RECEIPT_HANDLE, "receipt handle is expired: the message was delivered again, or is settled"
        )

    # -- end of a lease ----------------------------------------------------------------------------------------------

    def tick(self, now_ms: int, limit: int) -> None:
        """Ends the leases that are due, at most `limit` of them."""
        for key in self._leases.wheel.pop_due(now_ms, limit):
            lease = self._leases.leases.get(key)
            if lease is not None and lease.due_ms <= now_ms:
                self._due(lease, now_ms)

    def _due(self, lease: Lease, now_ms: int) -> None:
        if not lease.client:
            self.end(lease)
            return
        group = lease.held[0].ledger.subscription.group
        if (group, lease.client) not in self.online:
            self._leases.disown(lease, group)
            self.end(lease)
        elif now_ms - lease.taken_ms >= self._config.renew_total_ms_max:
            self._leases.disown(lease, group)
            attempt = max(found.attempt for found in lease.held if found.lease is lease)
            self._leases.postpone(lease, now_ms + self._groups.view(group).retry.delay_ms(max(attempt, 1)))
        else:
            self._leases.postpone(lease, now_ms + self._config.auto_renew_ms)

    def end(self, lease: Lease) -> None:
        """The lease is over: each of its messages is ready again, or a dead letter."""
        for found in [f for f in lease.held if f.lease is lease]:
            view = self._view(found)
            if found.attempt < view.attempts_max:
                self._leases.release(found)
                continue
            try:
                self._bury(found)
            except (StoreFull, ClientError) as error:
                log_.warning("dead letter of %s waits: %s", found.ledger.subscription.group, error)
                self._leases.postpone(lease, self._clock.lease_ms() + _FULL_RETRY_MS)

    def _view(self, found: Open) -> GroupView:
        try:
            return self._groups.view(found.ledger.subscription.group)
        except ClientError:  # profile strict, and the group is gone from the table: its leases go with the next start
            return GroupView(False, self._config.attempts_max, self._groups.default_retry)

    def _bury(self, found: Open) -> None:
        """One record in %DLQ%group that names its origin: the lease ends with it, so no crash can fall between."""
        ledger = found.ledger
        group = ledger.subscription.group
        name, name_offset = ledger.origins.get(found.offset, (ledger, found.offset))
        queue = self._store.state.queue(ledger.subscription.topic, ledger.queue_id)
        entries = queue.read(found.offset, 1) if queue else []
        kept = self._store.read(queue, found.offset, entries[0]) if queue and entries else None
        origin_topic = name.subscription.topic
        if kept is None:
            log_.error("a message of %s queue %d cannot be read and is given up", origin_topic, name.queue_id)
            self._store.apply(Acked(group, origin_topic, [(name.queue_id, [name_offset])]))
            return
        topic = self._topics.make(m.DLQ_PREFIX + group, MessageType.MIXED, 1)
        properties = kept.decode_properties()
        origin = Origin(kept.position, origin_topic, name.queue_id, name_offset, group)
        properties |= {
            m.DLQ_ORIGIN_TOPIC: origin_topic,
            m.DLQ_ORIGIN_MESSAGE_ID: properties.get(m.UNIQ_KEY, ""),
            m.RMQ_ORIGIN: origin.text(),
        }
        draft = Draft(
            topic.name_bytes, 0, kept.body, record.encode_properties(properties), kept.sys_flag, kept.born_ms,
            kept.born_host, kept.born_port, max(found.attempt - 1, 0),
        )  # fmt: skip
        tags = properties.get(m.TAGS, "")
        self._store.append(topic, topic.queues[0], draft, record.tags_code(tags) if tags else 0, origin)

    # -- clients -----------------------------------------------------------------------------------------------------

    def gone(self, group: str, client: str) -> None:
        """A push consumer vanished: what it holds becomes visible after a second."""
        self.online.discard((group, client))
        due_ms = self._clock.lease_ms() + GONE_INVISIBLE_MS
        for lease in list(self._leases.by_client.get((group, client), {}).values()):
            self._leases.disown(lease, group)
            self._leases.postpone(lease, due_ms)

    def rearm(self) -> list[tuple[str, str]]:
        """After a start: every lease gets a timer. Returns the (group, client) pairs whose leases are renewed by us."""
        now_ms = self._clock.lease_ms()
        self._leases.rearm(lambda lease: self._due_after_start(lease, now_ms))
        self.online.update(self._leases.by_client)
        return list(self._leases.by_client)

    def _due_after_start(self, lease: Lease, now_ms: int) -> int:
        """Renewed: on, until its client proves silent. Others: as stored, at most the invisible duration from now."""
        if lease.client:
            return now_ms + self._config.auto_renew_ms
        return min(lease.due_ms, now_ms + max(lease.due_ms - lease.taken_ms, 0))


def _part(ledger: Ledger, take: Take) -> tuple[int, int, list[int], list[int]]:
    """(queue id, next, offsets as steps, attempts) for the journal."""
    rows = sorted(take.offsets.get(ledger, ()))
    steps, last = [], 0
    for offset, _ in rows:
        steps.append(offset - last)
        last = offset
    attempts = [attempt for _, attempt in rows]
    return ledger.queue_id, take.nexts.get(ledger, ledger.next), steps, [] if all(a == 1 for a in attempts) else attempts


def _delivered(
    topic: str, queue_id: int, offset: int, attempt: int, found: Record, properties: dict[str, str], handle: str
) -> Delivered:
    return Delivered(
        topic, queue_id, offset, found.body, properties, found.sys_flag, found.born_ms,
        record.host_text(found.born_host), found.store_ms,
        f"{record.host_text(found.store_host)}:{found.store_port}", attempt, handle,
    )  # fmt: skip


