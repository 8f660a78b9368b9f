"""Pop consumption: who gets which message next, and what becomes of it. Normal messages, a topic's queues all at once.

    never delivered --take--> leased --ack--> settled
                               | ^ |--change invisible: leased until then, under a new handle
                               v | |--due, attempts left: ready, taken again with attempt + 1
                           renewed |--due, no attempts left: dead letter

The server renews a lease while the push consumer that took it lives.

A receive's leases are journaled before its answer but the answer does not wait for the disk: a lost lease is only a
redelivery. Acks, extensions and dead letters answer when they are safe. Time here is lease time (rmq/clock.py).
"""

import logging
from collections.abc import Iterator, Sequence

from rmq import message as m
from rmq.clock import Clock
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.filter import Filter, reading_cost
from rmq.groups import Groups
from rmq.handle import Handle, HandleMaker
from rmq.message import Delivered, MessageType
from rmq.port import Answer, ReceiveRequest
from rmq.take import Take
from rmq.topics import Topics
from rmq.traffic import Traffic
from rmq_store import record
from rmq_store.consumequeue import ConsumeQueue, Entry
from rmq_store.errors import StoreFull
from rmq_store.journal import Acked, Cursors, Extended, Leased
from rmq_store.leases import Lease, Ledger, Open, Subscription
from rmq_store.record import Draft, Record
from rmq_store.state import Origin, Topic
from rmq_store.store import Store

log_ = logging.getLogger("rmq.pop")
SCAN_MAX = 800  # queue entries that one take looks at, a record read in vain counts more: 4 ms (Apache: 800)
GONE_INVISIBLE_MS = 1000  # RocketMQ: messages of a vanished push consumer become visible after 1 s
_READ_AHEAD = 64  # queue entries read at once for a filter: a match may be the next one
_FULL_RETRY_MS = 10_000


class Pop:
    """All verbs of pop consumption. `online`: (group, client) pairs that live."""

    def __init__(
        self, store: Store, topics: Topics, groups: Groups, clock: Clock, config: Config, traffic: Traffic
    ) -> None:
        self._store = store
        self._traffic = traffic
        self._leases = store.state.leases
        self._topics = topics
        self._groups = groups
        self._clock = clock
        self._config = config
        self._makers: dict[tuple[str, str], HandleMaker] = {}
        self._quiet_until_ms = 0  # one warning for all dead letters that have to wait
        self.online: set[tuple[str, str]] = set()
        self.looked = 0  # queue entries that all takes looked at, as SCAN_MAX counts them

    # -- take --------------------------------------------------------------------------------------------------------

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
        take = Take(room, self._config.receive_bytes_max, SCAN_MAX, request.filter, others)
        try:
            self._take_ready(take, subscription)
            take.again = take.so_far
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
            kept = self._read(ledger, offset)
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

    def _read(self, ledger: Ledger, offset: int) -> Record | None:
        queue = self._store.state.queue(ledger.subscription.topic, ledger.queue_id)
        entries = queue.read(offset, 1) if queue else []
        return self._store.read(queue, offset, entries[0]) if queue and entries else None

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
        renewed = request.auto_renew and (group, request.client_id) in self.online  # it may have gone while it polled
        until_ms = now_ms + self._config.renew_total_ms_max if renewed else due_ms
        client = request.client_id if renewed else ""
        sequence = self._store.next_sequence()
        ledgers = {**take.nexts, **take.offsets}
        parts = [_part(q, take.nexts.get(q, q.next), take.offsets.get(q, [])) for q in ledgers]
        self._store.apply(Leased(group, topic, sequence, now_ms, due_ms, client, parts))
        self._traffic.of(subscription).took(take.so_far, take.again)
        maker = self._maker(group, topic)
        return [
            _delivered(
                topic, ledger.queue_id, offset, attempt, found, properties,
                maker.text(Handle(ledger.queue_id, offset, sequence, until_ms)),
            )
            for ledger, offset, attempt, found, properties in take.messages
        ]  # fmt: skip

    def _maker(self, group: str, topic: str) -> HandleMaker:
        maker = self._makers.get((group, topic))
        if maker is None:
            maker = HandleMaker(group, topic)
            if (group, topic) in self._leases.subscriptions:  # else a client that makes names up would fill memory
                self._makers[(group, topic)] = maker
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
            self._traffic.of(self._leases.subscriptions[(group, topic)]).acked += sum(map(len, done.values()))
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
        attempt = found.attempt - (suspend and not handle.suspended)
        self._store.apply(Extended(group, topic, handle.queue_id, handle.offset, sequence, now_ms, due_ms, attempt))
        if invisible_ms == 0 and found.lease is not None:
            self.end(found.lease)
        suspended = suspend or handle.suspended
        changed = handle._replace(sequence=sequence, until_ms=due_ms, suspended=suspended)
        return self._store.when_safe(maker.text(changed))

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
        last_ms = lease.taken_ms + self._config.renew_total_ms_max
        if now_ms < last_ms:
            self._leases.postpone(lease, min(now_ms + self._config.auto_renew_ms, last_ms))
            return
        held = [found for found in lease.held if found.lease is lease]
        retry = self._groups.rules(held[0].ledger.subscription.group).retry
        self._give_up(lease, now_ms + retry.delay_ms(max(1, *(found.attempt for found in held))))

    def _give_up(self, lease: Lease, due_ms: int) -> None:
        """Renewed no more, due then; the handles stay valid. Journaled, or a restart would take it up again."""
        rows: dict[Ledger, list[tuple[int, int]]] = {}
        for found in lease.held:
            if found.lease is lease:
                name, offset = found.ledger.origins.get(found.offset, (found.ledger, found.offset))
                rows.setdefault(name, []).append((offset, found.attempt))
        parts = [_part(ledger, ledger.next, messages) for ledger, messages in rows.items()]
        home = next(iter(rows)).subscription
        self._store.apply(Leased(home.group, home.topic, lease.sequence, lease.taken_ms, due_ms, "", parts))

    def end(self, lease: Lease) -> None:
        """The lease is over: each of its messages is ready again, or a dead letter. Where that can't be written now
        (disk full, topics_max) the lease stays, and it is tried again.
        """
        held = [found for found in lease.held if found.lease is lease]
        group = held[0].ledger.subscription.group
        attempts_max = self._groups.rules(group).attempts_max
        for found in held:
            if found.attempt < attempts_max:
                self._leases.release(found)
        try:
            for found in held:
                if found.lease is lease:
                    self._bury(found)
        except (StoreFull, ClientError, OSError) as error:
            self._wait_to_bury(lease, group, error)

    def _wait_to_bury(self, lease: Lease, group: str, error: Exception) -> None:
        now_ms = self._clock.lease_ms()
        self._leases.postpone(lease, now_ms + _FULL_RETRY_MS)
        if now_ms >= self._quiet_until_ms:
            self._quiet_until_ms = now_ms + _FULL_RETRY_MS
            log_.warning("dead letters wait, those of group %s and maybe of others: %s", group, error)

    def _bury(self, found: Open) -> None:
        """One record in %DLQ%group that names its origin: the lease ends with it, so no crash can fall between."""
        ledger = found.ledger
        group = ledger.subscription.group
        name, name_offset = ledger.origins.get(found.offset, (ledger, found.offset))
        kept = self._read(ledger, found.offset)
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
        draft = Draft.make(
            topic.name_bytes, 0, kept.body, record.encode_properties(properties), kept.sys_flag, kept.born_ms,
            kept.born_host, kept.born_port, max(found.attempt - 1, 0),
        )  # fmt: skip
        tags = properties.get(m.TAGS, "")
        self._store.append(topic, topic.queues[0], draft, record.tags_code(tags) if tags else 0, origin)
        self._traffic.of(name.subscription).buried += 1

    # -- clients -----------------------------------------------------------------------------------------------------

    def gone(self, group: str, client: str) -> None:
        """A push consumer vanished: what it holds becomes visible after a second."""
        self.online.discard((group, client))
        due_ms = self._clock.lease_ms() + GONE_INVISIBLE_MS
        for lease in list(self._leases.by_client.get((group, client), {}).values()):
            self._give_up(lease, due_ms)

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


def _part(ledger: Ledger, next_offset: int, rows: list[tuple[int, int]]) -> tuple[int, int, list[int], list[int]]:
    """(queue id, next, offsets as steps, attempts) for the journal; rows are (offset, attempt)."""
    rows = sorted(rows)
    steps, last = [], 0
    for offset, _ in rows:
        steps.append(offset - last)
        last = offset
    attempts = [attempt for _, attempt in rows]
    if all(attempt == 1 for attempt in attempts):
        attempts = []
    return ledger.queue_id, next_offset, steps, attempts


def _delivered(
    topic: str, queue_id: int, offset: int, attempt: int, found: Record, properties: dict[str, str], handle: str
) -> Delivered:
    return Delivered(
        topic, queue_id, offset, found.body, properties, found.sys_flag, found.born_ms,
        record.host_text(found.born_host), found.store_ms,
        f"{record.host_text(found.store_host)}:{found.store_port}", attempt, handle,
    )  # fmt: skip
