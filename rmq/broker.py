"""The broker: RocketMQ's verbs over the store, in this process. Implements rmq.port.BrokerPort.

Owns the order of things in a verb and the one agenda; what a verb decides lives in topics, groups and pop. Nothing here
awaits: a verb changes state at once and answers with a value, or with a Future that resolves when the value is safe.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from rmq import message as m
from rmq.admin import Admin
from rmq.alarm import Alarm
from rmq.brokermetrics import DISK, MEMORY, BrokerMetrics
from rmq.clock import Clock
from rmq.config import Config
from rmq.delay import DELAY, Delay
from rmq.errors import ClientError, Code, ConfigError
from rmq.filter import Filter
from rmq.groups import Groups
from rmq.message import Delivered, MessageType, Outgoing, SendResult
from rmq.pop import SCAN_MAX, Pop
from rmq.port import Answer, BrokerQueues, ClientPort, GroupView, ReceiveRequest
from rmq.topics import Topics
from rmq.traffic import Traffic
from rmq.transaction import TRANSACTION, Transactions
from rmq.waiters import Waiters
from rmq_store import record
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Mode
from rmq_store.leases import Subscription
from rmq_store.record import PROPERTIES_BYTES_MAX, Draft
from rmq_store.retention import Retention
from rmq_store.state import Topic
from rmq_store.store import Settings, Store

log_ = logging.getLogger("rmq.broker")
_TICK_LEASES = 500  # leases ended in one turn: a few milliseconds
_TICK_TIMERS = 100  # delayed messages delivered in one turn: as long
_TICK_CHECKS = 50  # producers asked about transactions in one turn: as long
_POLLS_A_TURN = 32  # waiting polls answered in one turn, of at most receive_batch_max messages each
_RETENTION_S = 10.0  # Apache: cleanResourceInterval
_MEMORY_RETENTION_S = 1.0  # how long the ring may overshoot memory_bytes_max
_MEMORY_SEGMENTS = 8
_ORIGIN = m.RMQ_ORIGIN.encode()
_ORIGIN_BYTES = 1024  # what a dead letter or a carried message adds to its properties, at most


class Broker:
    """One broker over one store. `failed` resolves with the error that ends it."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        open_store: Callable[..., Store] = Store,
    ) -> None:
        """Opens the store. Raises StoreError, and ConfigError where a topic or group can't be made.

        `open_store`: Store, perhaps with another disk, checkpoint or executor.
        """
        self._config = config
        self._clock = clock
        self._loop = loop
        self._own_properties = record.encode_properties({m.CLUSTER: config.cluster_name})
        self.failed: asyncio.Future[StoreError] = loop.create_future()
        mode = Mode(config.flush)
        self._store = open_store(
            None if mode is Mode.MEMORY else Path(config.data),
            _settings(config, mode),
            loop,
            now_ms=clock.wall_ms,
            on_visible=self._visible,
            on_failure=self._fail,
        )
        self.topics = Topics(self._store, config)
        self.groups = Groups(self._store, config)
        self._traffic = Traffic()
        self._pop = Pop(self._store, self.topics, self.groups, clock, config, self._traffic)
        self._delay = Delay(self._store, self.topics, clock, config)
        self._transactions = Transactions(self._store, self.topics, clock, config, self._traffic)
        self._waiters = Waiters(loop, polls_max=config.polls_max, per_group_max=config.polls_per_group_max)
        self.admin = Admin(
            self._store,
            self.topics,
            self.groups,
            self._waiters,
            clock,
            config,
            loop,
            traffic=self._traffic,
            delay=self._delay,
            transactions=self._transactions,
            online=self._pop.online,
            subscribe=self._subscription,
            tick=self.tick,
            catch_up=self.catch_up,
        )
        self._to_serve: dict[Subscription, None] = {}
        self._serving = False  # _serve is on its way
        self._lease_alarm = Alarm(loop, clock.lease_ms, self.tick)
        self._timer_alarm = Alarm(loop, clock.wall_ms, self.tick)
        self._ending = self._closed = False
        self.recovered_clients = self._pop.rearm()
        self._declare()
        memory = mode is Mode.MEMORY
        self._retention = Retention(
            self._store,
            age_ms=config.retention_hours * 3_600_000,
            bytes_max=config.memory_bytes_max if memory else config.log_bytes_max,
        )
        self._retention_s = _MEMORY_RETENTION_S if memory else _RETENTION_S
        self._cleaning = loop.call_later(self._retention_s, self._clean)
        self.metrics = BrokerMetrics(
            self._store,
            self._waiters,
            self.admin.views,
            self._traffic,
            clock,
            medium=MEMORY if memory else DISK,
            series_max=config.metrics_series_max,
        )
        self._arm()

    def _declare(self) -> None:
        """Topics and groups that the configuration wants."""
        try:
            self.admin.declare()
        except ClientError as error:
            self._store.close()
            raise ConfigError(f"cannot make what topics: and groups: list: {error.text}") from None

    def settled(self) -> Answer[None]:
        """There once all that was done so far is safe, what the configuration wants included."""
        return self._store.when_safe(None)

    # -- routes and groups -------------------------------------------------------------------------------------------

    def route(self, topic: str) -> Sequence[BrokerQueues]:
        """See BrokerPort."""
        return [self.topics.route(topic)]

    def assignment(self, group: str, topic: str) -> Sequence[BrokerQueues]:
        """See BrokerPort."""
        del group
        return [self.topics.route(topic)]

    def group(self, group: str) -> GroupView:
        """See BrokerPort."""
        return self.groups.view(group)

    def message_type(self, topic: str) -> MessageType:
        """See BrokerPort."""
        return self.topics.kind(topic)

    def online(self, group: str, client_id: str, subscriptions: Mapping[str, Filter]) -> None:
        """See BrokerPort."""
        self.groups.require(group)
        for name in subscriptions:
            self._subscription(group, name)
        self._pop.online.add((group, client_id))

    def _subscription(self, group: str, name: str) -> Subscription:
        try:
            return self._pop.subscription(group, self.topics.require(name))
        except StoreFull as error:
            raise _unavailable(error) from None

    def offline(self, group: str, client_id: str) -> None:
        """See BrokerPort."""
        self._pop.gone(group, client_id)
        self._arm()

    # -- send --------------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Outgoing]) -> Answer[Sequence[SendResult]]:
        """See BrokerPort. One queue a call, so a batch stays together. Raises INTERNAL_SERVER_ERROR on a full disk."""
        try:
            topic = self._admit(messages)
            queue = self.topics.next_queue(topic)
            queue_id, name = queue.queue_id, topic.name_bytes
            drafts = [(self._draft(name, queue_id, message), record.tags_code(message.tag)) for message in messages]
            results = self._append(queue, messages, drafts)
        except StoreFull as error:
            raise _unavailable(error) from None
        self._traffic.sent(topic, messages, sum([draft.size for draft, _ in drafts]))
        return self._store.when_safe(results)

    def _append(
        self, queue: ConsumeQueue, messages: Sequence[Outgoing], drafts: Sequence[tuple[Draft, int]]
    ) -> Sequence[SendResult]:
        for message in messages:
            if message.type is DELAY:
                results = self._delay.send(queue, messages, drafts)
                self._arm()
                return results
            if message.type is TRANSACTION:
                results = self._transactions.send(queue, messages, drafts)
                self._arm()
                return results
        first = self._store.append_all(queue, drafts)
        return [SendResult(queue.queue_id, first + place) for place in range(len(messages))]

    def recall(self, topic: str, handle: str) -> Answer[str]:
        """See BrokerPort."""
        self.topics.must_take(topic, DELAY)
        return self._delay.recall(topic, handle)

    def end_transaction(self, topic: str, transaction_id: str, commit: bool | None) -> Answer[None]:
        """See BrokerPort. Raises INTERNAL_SERVER_ERROR on a full disk."""
        try:
            return self._transactions.end(topic, transaction_id, commit)
        except StoreFull as error:
            raise _unavailable(error) from None

    def producing(self, topics: Collection[str]) -> None:
        """See BrokerPort."""
        self._transactions.producing(topics)
        self._arm()

    def asks(self, clients: ClientPort) -> None:
        """Whom the broker asks what only clients know. Nobody is asked before."""
        self._transactions.clients = clients

    def _admit(self, messages: Sequence[Outgoing]) -> Topic:
        name, kind = messages[0].topic, messages[0].type
        for message in messages:
            if message.type is not kind:
                return self.topics.admit(name, {message.type for message in messages})
        return self.topics.known(name, kind) or self.topics.admit(name, {kind})

    def _draft(self, topic: bytes, queue_id: int, message: Outgoing) -> Draft:
        """The record to be; it leaves room for what a dead letter or a carried message says of its origin."""
        properties = message.properties
        if _ORIGIN in properties and record.property_bytes(properties, _ORIGIN):
            # a replay would take it for ours, and settle what it names
            raise ClientError(Code.ILLEGAL_MESSAGE_PROPERTY_KEY, f"property {m.RMQ_ORIGIN} is the server's own")
        properties += self._own_properties
        if len(properties) > PROPERTIES_BYTES_MAX - _ORIGIN_BYTES:
            raise ClientError(
                Code.MESSAGE_PROPERTIES_TOO_LARGE,
                f"all properties take {len(properties)} bytes, at most {PROPERTIES_BYTES_MAX - _ORIGIN_BYTES}",
            )
        host = record.host_bytes(message.born_host)
        draft = Draft(
            topic, queue_id, message.body, properties, message.sys_flag, message.born_ms, host, message.born_port
        )
        bytes_max = self._store.log.segment_bytes - record.BLANK_BYTES - _ORIGIN_BYTES
        if draft.size > bytes_max:
            raise ClientError(
                Code.MESSAGE_BODY_TOO_LARGE,
                f"the message takes {draft.size} bytes, a segment of this store holds at most {bytes_max}",
            )
        return draft

    # -- receive -----------------------------------------------------------------------------------------------------

    def receive(self, request: ReceiveRequest) -> Answer[Sequence[Delivered]]:
        """See BrokerPort."""
        self.groups.require(request.group)
        subscription = self._subscription(request.group, request.topic)
        if request.auto_renew:
            self._pop.online.add((request.group, request.client_id))
        if self._serving and not request.filter.is_all and request.poll_ms > 0 and not self._ending:
            waiting = self._waiters.add(subscription, request)  # a turn's scans are bounded in all, see _serve
            self._serve_later(subscription)
            return waiting
        messages = self._pop.take(subscription, request, self._waiters.others(subscription, request.filter))
        if messages or request.poll_ms <= 0 or self._ending:
            self._arm()
            return messages
        waiting = self._waiters.add(subscription, request)
        if self._pop.has_more(subscription):
            self._serve_later(subscription)
        return waiting

    def _visible(self, queue: ConsumeQueue) -> None:
        self.admin.visible(queue.topic)
        for subscription in self._store.state.leases.by_topic.get(queue.topic, {}).values():
            subscription.pending[queue.queue_id] = None
            if self._waiters.any(subscription):
                self._serve_later(subscription)

    def _serve_later(self, subscription: Subscription) -> None:
        self._to_serve[subscription] = None
        if not self._serving:
            self._serving = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Waiting polls of subscriptions that may have something now; who has more lines up behind the rest. A turn is
        over when it looked at SCAN_MAX queue entries, however many groups have a filter and a long backlog.
        """
        self._serving = False
        left = _POLLS_A_TURN
        looked_max = self._pop.looked + SCAN_MAX
        for subscription in list(self._to_serve):
            if left <= 0 or self._pop.looked >= looked_max:
                break
            del self._to_serve[subscription]
            left -= self._serve_line(subscription, left, looked_max)
            if self._pop.has_more(subscription) and self._waiters.any(subscription):
                self._to_serve[subscription] = None
        for subscription in list(self._to_serve)[:1]:
            self._serve_later(subscription)
        self._arm()

    def _serve_line(self, subscription: Subscription, limit: int, looked_max: int) -> int:
        """Polls in order of arrival; returns how many are answered. One in vain speaks for all with its filter."""
        answered = 0
        in_vain: set[Filter] = set()
        for waiter in self._waiters.in_line(subscription):
            if answered >= limit or self._pop.looked >= looked_max or not self._pop.has_more(subscription):
                break
            wanted = waiter.request.filter
            if wanted in in_vain:
                continue
            try:
                messages = self._pop.take(subscription, waiter.request, self._waiters.others(subscription, wanted))
            except (ClientError, OSError) as error:
                waiter.set_exception(error)
                answered += 1
                continue
            if messages:
                waiter.set_result(messages)
                answered += 1
            else:
                in_vain.add(wanted)
        return answered

    def ack(self, group: str, topic: str, handles: Sequence[str]) -> Answer[Sequence[ClientError | None]]:
        """See BrokerPort."""
        return self._pop.ack(group, topic, handles)

    def change_invisible(self, group: str, topic: str, handle: str, invisible_ms: int, *, suspend: bool) -> Answer[str]:
        """See BrokerPort."""
        answer = self._pop.change_invisible(group, topic, handle, invisible_ms, suspend=suspend)
        self._serve_woken()
        self._arm()
        return answer

    def dead_letter(self, group: str, topic: str, handle: str) -> Answer[None]:
        """See BrokerPort."""
        try:
            return self._pop.dead_letter(group, topic, handle)
        except StoreFull as error:
            raise _unavailable(error) from None

    def _serve_woken(self) -> None:
        woken = self._store.state.leases.woken
        for subscription in woken:
            if self._waiters.any(subscription):
                self._serve_later(subscription)
        woken.clear()

    # -- agenda ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Does what is due. Called by the agenda's timer, and by whoever moved a ManualClock."""
        self._disarm()  # it was set by a clock that may have been moved since
        self._delay.tick(_TICK_TIMERS)
        self._transactions.tick(_TICK_CHECKS)
        self._pop.tick(self._clock.lease_ms(), _TICK_LEASES)
        self._serve_woken()
        self._arm()

    def catch_up(self) -> None:
        """Does all that is due, however much, and what retention wants by now: somebody moved a ManualClock."""
        self._transactions.hurry()
        while self._is_due():
            self.tick()
            self._transactions.hurry()
        self._cleaning.cancel()
        self._clean(all_of_it=True)

    def _is_due(self) -> bool:
        lease_ms, timer_ms = self._next_lease_ms(), self._delay.next_due_ms()
        return (lease_ms is not None and lease_ms <= self._clock.lease_ms()) or (
            timer_ms is not None and timer_ms <= self._clock.wall_ms()
        )

    def _next_lease_ms(self) -> int | None:
        """When a lease is due, or a check of a transaction."""
        found = self._store.state.leases.wheel.next_due_ms(), self._transactions.next_due_ms()
        return min((due_ms for due_ms in found if due_ms is not None), default=None)

    def _arm(self) -> None:
        if not self._closed:
            self._lease_alarm.set(self._next_lease_ms())
            self._timer_alarm.set(self._delay.next_due_ms())

    def _disarm(self) -> None:
        self._lease_alarm.cancel()
        self._timer_alarm.cancel()

    def _clean(self, *, all_of_it: bool = False) -> None:
        more = False
        try:
            more = self._retention.step(self._clock.wall_ms())
            while more and all_of_it:
                more = self._retention.step(self._clock.wall_ms())
        except StoreError:
            return  # the store has failed, and `failed` tells of it
        except OSError as error:
            log_.warning("old segments can't be deleted now (%s); trying again", error)
        self._cleaning = self._loop.call_later(0.01 if more else self._retention_s, self._clean)

    # -- end ---------------------------------------------------------------------------------------------------------

    def _fail(self, error: StoreError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    def end_polls(self) -> None:
        """Every waiting receive is answered, with no message, and none waits any more."""
        self._ending = True
        self._waiters.close()

    def close(self) -> None:
        """Saves everything. Raises StoreError."""
        self.end_polls()
        self._closed = True
        self._cleaning.cancel()
        self._disarm()
        self._store.close()


def _unavailable(error: StoreFull) -> ClientError:
    return ClientError(
        Code.INTERNAL_SERVER_ERROR,
        f"service not available now, {error}: nothing new is stored until there is space, consuming goes on",
    )


def _settings(config: Config, mode: Mode) -> Settings:
    memory = mode is Mode.MEMORY
    host = record.host_bytes(config.advertise.rpartition(":")[0])
    return Settings(
        mode=mode,
        segment_bytes=max(config.memory_bytes_max // _MEMORY_SEGMENTS, 1 << 20) if memory else config.segment_bytes,
        reserve_bytes=config.reserve_bytes,
        free_min_bytes=0 if memory else config.disk_free_min_bytes,
        flush_interval_ms=config.flush_interval_ms,
        checkpoint_interval_ms=config.checkpoint_interval_ms,
        checkpoint_records=config.checkpoint_records,
        queue_files_open_max=config.queue_files_open_max,
        store_host=host if len(host) == 4 and any(host) else b"\x7f\x00\x00\x01",
        store_port=config.broker_port,
    )
