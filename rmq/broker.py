"""The broker: RocketMQ's verbs over the store, in this process. Implements rmq.port.BrokerPort.

Owns the order of things in a verb and the one agenda; what a verb decides lives in topics, groups and pop. Nothing here
awaits: a verb changes state at once and answers with a value, or with a Future that resolves when the value is safe.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from rmq.admin import Admin
from rmq.alarm import Alarm
from rmq.brokermetrics import DISK, MEMORY, BrokerMetrics
from rmq.burial import Burial
from rmq.clock import Clock
from rmq.config import Config
from rmq.delay import DELAY, Delay
from rmq.drafts import Drafts
from rmq.errors import ClientError, Code, ConfigError
from rmq.expiry import Expiry
from rmq.filter import Filter
from rmq.groups import Groups
from rmq.handle import HandleMakers
from rmq.lite import LiteTopics
from rmq.litereaders import LiteReaders
from rmq.message import Delivered, MessageType, Outgoing, SendResult
from rmq.offsets import Offsets, require_queue
from rmq.pop import Pop
from rmq.port import Answer, BrokerQueues, ClientPort, GroupView, LiteSync, Pulled, PullRequest, ReceiveRequest
from rmq.pull import Pulls
from rmq.serving import Serving
from rmq.settle import Settling
from rmq.storesettings import store_settings
from rmq.topics import Topics
from rmq.traffic import Traffic
from rmq.transaction import TRANSACTION, Transactions
from rmq.waiters import Waiters
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Mode
from rmq_store.ledger import Subscription
from rmq_store.record import Draft
from rmq_store.retention import Retention
from rmq_store.state import Topic
from rmq_store.store import Store

log_ = logging.getLogger("rmq.broker")
NORMAL = MessageType.NORMAL
_TICK_LEASES = 500  # leases ended in one turn: a few milliseconds
_TICK_TIMERS = 100  # delayed messages delivered in one turn: as long
_TICK_CHECKS = 50  # producers asked about transactions in one turn: as long
_TICK_LITES = 500  # lite topics looked at, whether they end, in one turn: as long
_RETENTION_S = 10.0  # Apache: cleanResourceInterval
_MEMORY_RETENTION_S = 1.0  # how long the ring may overshoot memory_bytes_max


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
        self.failed: asyncio.Future[StoreError] = loop.create_future()
        mode = Mode(config.flush)
        self._store = open_store(
            None if mode is Mode.MEMORY else Path(config.data),
            store_settings(config),
            loop,
            now_ms=clock.wall_ms,
            on_visible=self._visible,
            on_failure=self._fail,
        )
        self.topics = Topics(self._store, config)
        self.groups = Groups(self._store, config)
        self._traffic = traffic = Traffic()
        makers = HandleMakers(self._store.state.leases)
        online: set[tuple[str, str]] = set()
        self._online = online
        self._pop = Pop(self._store, self.topics, makers, clock, config, traffic, online=online)
        burial = Burial(self._store, self.topics, traffic)
        self._expiry = Expiry(self._store, self.groups, burial, clock, config, online=online)
        self._settling = Settling(self._store, makers, burial, self._expiry, clock, traffic)
        self._delay = Delay(self._store, self.topics, clock, config)
        self._transactions = Transactions(self._store, self.topics, clock, config, traffic)
        self._readers = LiteReaders(self._store, self.topics, self._pop, config)
        self._lites = LiteTopics(self._store, self.topics, self._pop, self._readers, clock, config)
        self._drafts = Drafts(self._store.log, self._lites, config)
        self._waiters = Waiters(loop, polls_max=config.polls_max, per_group_max=config.polls_per_group_max)
        self._serving = Serving(
            self._pop,
            self._readers,
            self._waiters,
            self._store.state.leases,
            loop,
            write=self._store.flusher.write,
            done=self._arm,
        )
        self._pulls = Pulls(self._store, self._waiters, self._traffic, config, loop)
        self._offsets = Offsets(self._store, self.topics, self.groups)
        self.admin = Admin(
            self._store,
            self.topics,
            self.groups,
            self._waiters,
            clock,
            config,
            loop,
            traffic=traffic,
            delay=self._delay,
            transactions=self._transactions,
            online=online,
            subscribe=self._subscription,
            tick=self.tick,
            catch_up=self.catch_up,
        )
        self._lease_alarm = Alarm(loop, clock.lease_ms, self.tick)
        self._timer_alarm = Alarm(loop, clock.wall_ms, self.tick)
        renewed = self._expiry.rearm(crashed=self._store.report.records > 0)  # a stop in order leaves none to replay
        self.recovered_clients = list(dict.fromkeys([*renewed, *self._lites.subscribers()]))
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

    def group(self, group: str, topics: Collection[str] = ()) -> GroupView:
        """See BrokerPort."""
        view = self.groups.view(group)
        if topics and all(self.topics.kind(topic) is MessageType.FIFO for topic in topics):
            return msgspec.structs.replace(view, fifo=True)
        return view

    def message_type(self, topic: str) -> MessageType:
        """See BrokerPort."""
        return self.topics.kind(topic)

    def online(self, group: str, client_id: str, subscriptions: Mapping[str, Filter]) -> None:
        """See BrokerPort."""
        self.groups.require(group)
        for name in subscriptions:
            self._subscription(group, name)
        self._online.add((group, client_id))

    def _subscription(self, group: str, name: str) -> Subscription:
        try:
            return self._pop.subscription(group, self.topics.require(name))
        except StoreFull as error:
            raise _unavailable(error) from None

    def offline(self, group: str, client_id: str) -> None:
        """See BrokerPort."""
        self._expiry.gone(group, client_id)
        self._lites.gone(group, client_id)
        self._arm()

    # -- send --------------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Outgoing]) -> Answer[Sequence[SendResult]]:
        """See BrokerPort. One queue a call, so a batch stays together; but each message group has its own. Raises
        INTERNAL_SERVER_ERROR on a full disk.
        """
        try:
            topic = self._admit(messages)
            shared = self.topics.next_queue(topic)
            drafts = self._drafts.of(topic, shared.queue_id, messages)
            results = self._append(topic, shared, messages, drafts)
        except StoreFull as error:
            raise _unavailable(error) from None
        self._traffic.sent(topic, messages, sum([draft.size for draft, _ in drafts]))
        return self._store.when_safe(results)

    def _append(
        self, topic: Topic, shared: ConsumeQueue, messages: Sequence[Outgoing], drafts: Sequence[tuple[Draft, int]]
    ) -> Sequence[SendResult]:
        for message in messages:
            if message.type is not NORMAL:
                return self._append_each(topic, messages, drafts)
        first = self._store.append_all(shared, drafts)
        return [SendResult(shared.queue_id, first + place) for place in range(len(messages))]

    def _append_each(
        self, topic: Topic, messages: Sequence[Outgoing], drafts: Sequence[tuple[Draft, int]]
    ) -> Sequence[SendResult]:
        if messages[0].type is TRANSACTION:  # and so are the others
            results = self._transactions.send(topic.name, messages, drafts)
            self._lease_alarm.set(self._transactions.next_due_ms())
            return results
        if DELAY in [message.type for message in messages]:
            results = self._delay.send(topic, messages, drafts)
            self._timer_alarm.set(self._delay.next_due_ms())
            return results
        self._store.log.make_room(sum([draft.size for draft, _ in drafts]))
        append = self._store.append
        return [SendResult(d.queue_id, append(topic, topic.queues[d.queue_id], d, code)) for d, code in drafts]

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
        self._lites.clients = clients

    def _admit(self, messages: Sequence[Outgoing]) -> Topic:
        name, kind = messages[0].topic, messages[0].type
        for message in messages:
            if message.type is not kind:
                return self.topics.admit(name, {message.type for message in messages})
        return self.topics.known(name, kind) or self.topics.admit(name, {kind})

    # -- receive -----------------------------------------------------------------------------------------------------

    def receive(self, request: ReceiveRequest) -> Answer[Sequence[Delivered]]:
        """See BrokerPort."""
        self.groups.require(request.group)
        subscription = self._subscription(request.group, request.topic)
        if request.auto_renew:
            self._online.add((request.group, request.client_id))
        if again := self._pop.again(subscription, request):
            self._store.flusher.write()  # as Serving does with what it takes
            self._arm()
            return again
        line = self._readers.of(subscription, request.client_id) if request.lite or subscription.lite else subscription
        return self._serving.receive(line, request)

    def sync_lite(self, sync: LiteSync) -> Answer[None]:
        """See BrokerPort."""
        self.groups.require(sync.group)
        try:
            answer = self._lites.sync(sync)
        except StoreFull as error:
            raise _unavailable(error) from None
        self._serving.go_on()
        self._arm()
        return answer

    def _visible(self, queue: ConsumeQueue) -> None:
        self.admin.visible(queue.topic)
        self._readers.visible(queue)
        self._pulls.visible(queue)
        self._serving.go_on()
        for subscription in self._store.state.leases.by_topic.get(queue.topic, {}).values():
            subscription.pending[queue.queue_id] = None
            self._serving.wake(subscription)

    def ack(self, group: str, topic: str, handles: Sequence[str]) -> Answer[Sequence[ClientError | None]]:
        """See BrokerPort."""
        answer = self._settling.ack(group, topic, handles)
        self._serving.go_on()
        return answer

    def change_invisible(self, group: str, topic: str, handle: str, invisible_ms: int, *, suspend: bool) -> Answer[str]:
        """See BrokerPort."""
        answer = self._settling.change_invisible(group, topic, handle, invisible_ms, suspend=suspend)
        self._serving.go_on()
        self._arm()
        return answer

    def dead_letter(self, group: str, topic: str, handle: str) -> Answer[None]:
        """See BrokerPort."""
        try:
            answer = self._settling.dead_letter(group, topic, handle)
        except StoreFull as error:
            raise _unavailable(error) from None
        self._serving.go_on()
        return answer

    # -- pull --------------------------------------------------------------------------------------------------------

    def pull(self, request: PullRequest) -> Answer[Pulled]:
        """See BrokerPort."""
        self.groups.require(request.group)
        try:
            topic = self.topics.require(request.topic)
        except StoreFull as error:
            raise _unavailable(error) from None
        queue = require_queue(topic, request.queue_id)
        subscription = self._store.state.leases.subscription(request.group, topic.name)
        return self._pulls.pull(subscription, queue, request, wait=not self._serving.ending)

    def update_offset(self, group: str, topic: str, queue_id: int, offset: int) -> Answer[None]:
        """See BrokerPort."""
        self._offsets.update(group, topic, queue_id, offset)
        self._serving.go_on()
        self._arm()
        return self._store.when_safe(None)

    def committed_offset(self, group: str, topic: str, queue_id: int) -> int:
        """See BrokerPort."""
        return self._offsets.committed(group, topic, queue_id)

    def query_offset(self, topic: str, queue_id: int, *, end: bool = False, time_ms: int | None = None) -> int:
        """See BrokerPort."""
        return self._offsets.query(topic, queue_id, end=end, time_ms=time_ms)

    # -- agenda ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Does what is due. Called by the agenda's timer, and by whoever moved a ManualClock."""
        self._lease_alarm.cancel()  # it was set by a clock that may have been moved since
        self._timer_alarm.cancel()
        self._delay.tick(_TICK_TIMERS)
        self._transactions.tick(_TICK_CHECKS)
        self._lites.tick(_TICK_LITES)
        self._expiry.tick(self._clock.lease_ms(), _TICK_LEASES)
        self._serving.go_on()
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
        lease_ms, timer_ms = self._next_lease_ms(), self._next_timer_ms()
        return (lease_ms is not None and lease_ms <= self._clock.lease_ms()) or (
            timer_ms is not None and timer_ms <= self._clock.wall_ms()
        )

    def _next_lease_ms(self) -> int | None:
        """When a lease is due, or a check of a transaction."""
        found = self._store.state.leases.wheel.next_due_ms(), self._transactions.next_due_ms()
        return min((due_ms for due_ms in found if due_ms is not None), default=None)

    def _next_timer_ms(self) -> int | None:
        """When a delayed message is due, or a lite topic is to be looked at."""
        found = self._delay.next_due_ms(), self._lites.next_due_ms()
        return min((due_ms for due_ms in found if due_ms is not None), default=None)

    def _arm(self) -> None:
        self._lease_alarm.set(self._next_lease_ms())
        self._timer_alarm.set(self._next_timer_ms())

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
        self._serving.ending = True
        self._waiters.close()

    def close(self) -> None:
        """Saves everything. Raises StoreError."""
        self.end_polls()
        self._cleaning.cancel()
        self._lease_alarm.close()
        self._timer_alarm.close()
        self._store.close()


def _unavailable(error: StoreFull) -> ClientError:
    return ClientError(
        Code.INTERNAL_SERVER_ERROR,
        f"service not available now, {error}: nothing new is stored until there is space, consuming goes on",
    )
