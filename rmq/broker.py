"""The broker: RocketMQ's verbs over the store, in this process. Implements rmq.port.BrokerPort.

Owns the order of things in a verb and the one agenda; what a verb decides lives in topics, groups and pop. Nothing here
awaits: a verb changes state at once and answers with a value, or with a Future that resolves when the value is safe.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from rmq import message as m
from rmq.clock import Clock
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.filter import Filter
from rmq.groups import Groups
from rmq.message import Delivered, MessageType, Outgoing, SendResult
from rmq.pop import Pop
from rmq.port import Answer, BrokerQueues, GroupView, ReceiveRequest
from rmq.retry import RetryPolicy
from rmq.topics import Topics
from rmq.waiters import Waiters
from rmq_store import record
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Mode
from rmq_store.leases import Subscription
from rmq_store.record import PROPERTIES_BYTES_MAX, Draft
from rmq_store.retention import Retention
from rmq_store.store import Settings, Store

_TICK_LEASES = 500  # leases ended in one turn: a few milliseconds
_RETENTION_S = 10.0  # Apache: cleanResourceInterval
_MEMORY_SEGMENTS = 8


class Broker:
    """One broker over one store. `failed` resolves with the error that ends it."""

    def __init__(self, config: Config, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        """Opens the store. Raises StoreError."""
        self._config = config
        self._clock = clock
        self._loop = loop
        self.failed: asyncio.Future[StoreError] = loop.create_future()
        mode = Mode(config.flush)
        self._store = Store(
            None if mode is Mode.MEMORY else Path(config.data),
            _settings(config, mode),
            loop,
            now_ms=clock.wall_ms,
            on_visible=self._visible,
            on_failure=self._fail,
        )
        self.topics = Topics(self._store, config)
        self.groups = Groups(self._store, config)
        self._pop = Pop(self._store, self.topics, self.groups, clock, config)
        self._waiters = Waiters(loop, polls_max=config.polls_max, per_group_max=config.polls_per_group_max)
        memory = mode is Mode.MEMORY
        self._retention = Retention(
            self._store,
            age_ms=config.retention_hours * 3_600_000,
            bytes_max=config.memory_bytes_max if memory else config.log_bytes_max,
        )
        self._to_serve: dict[Subscription, None] = {}
        self._agenda: asyncio.TimerHandle | None = None
        self._agenda_ms = 0
        self._ending = False
        self._cleaning = loop.call_later(_RETENTION_S, self._clean)
        self.recovered_clients = self._pop.rearm()
        self._declare()
        self._arm()

    def _declare(self) -> None:
        """Topics and groups that the configuration wants."""
        for name, topic in self._config.topics.items():
            self.topics.make(name, topic.type, topic.queues)
        for name, group in self._config.groups.items():
            retry = RetryPolicy(group.retry_ms) if group.retry_ms else RetryPolicy()
            self.groups.make(name, group.attempts_max, retry)

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
            self._pop.subscription(group, self.topics.require(name))
        self._pop.online.add((group, client_id))

    def offline(self, group: str, client_id: str) -> None:
        """See BrokerPort."""
        self._pop.gone(group, client_id)
        self._arm()

    # -- send --------------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Outgoing]) -> Answer[Sequence[SendResult]]:
        """See BrokerPort. One queue a call, so a batch stays together. Raises INTERNAL_SERVER_ERROR on a full disk."""
        topic = self.topics.require(messages[0].topic)
        for message in messages:
            self.topics.admit(topic, m.type_of(message.properties))
        queue = self.topics.next_queue(topic)
        drafts = [self._draft(topic.name_bytes, queue.queue_id, message) for message in messages]
        try:
            self._store.log.make_room(sum(draft.size_bytes() for draft in drafts))
            results = [
                SendResult(queue.queue_id, self._store.append(topic, queue, draft, _tags_code(message)))
                for draft, message in zip(drafts, messages, strict=True)
            ]
        except StoreFull as error:
            raise ClientError(
                Code.INTERNAL_SERVER_ERROR,
                f"service not available now, {error}: sends are refused until there is space, consuming goes on",
            ) from None
        return self._store.when_safe(results)

    def _draft(self, topic: bytes, queue_id: int, message: Outgoing) -> Draft:
        properties = record.encode_properties({**message.properties, m.CLUSTER: self._config.cluster_name})
        if len(properties) > PROPERTIES_BYTES_MAX:
            raise ClientError(
                Code.MESSAGE_PROPERTIES_TOO_LARGE, f"all properties take {len(properties)} bytes, at most {PROPERTIES_BYTES_MAX}"
            )
        host = record.host_bytes(message.born_host)
        return Draft(topic, queue_id, message.body, properties, message.sys_flag, message.born_ms, host, message.born_port)

    # -- receive -----------------------------------------------------------------------------------------------------

    def receive(self, request: ReceiveRequest) -> Answer[Sequence[Delivered]]:
        """See BrokerPort."""
        self.groups.require(request.group)
        subscription = self._pop.subscription(request.group, self.topics.require(request.topic))
        if request.auto_renew:
            self._pop.online.add((request.group, request.client_id))
        messages = self._pop.take(subscription, request)
        if messages or request.poll_ms <= 0 or self._ending:
            self._arm()
            return messages
        waiting = self._waiters.add(subscription, request)
        if self._pop.has_more(subscription):
            self._serve_later(subscription)
        return waiting

    def _visible(self, queue: ConsumeQueue) -> None:
        for subscription in self._store.state.leases.by_topic.get(queue.topic, {}).values():
            subscription.pending[queue.queue_id] = None
            self._serve_later(subscription)

    def _serve_later(self, subscription: Subscription) -> None:
        if not self._to_serve:
            self._loop.call_soon(self._serve)
        self._to_serve[subscription] = None

    def _serve(self) -> None:
        """Waiting polls of subscriptions that may have something now, in order of arrival."""
        subscriptions, self._to_serve = self._to_serve, {}
        for subscription in subscriptions:
            for waiter in self._waiters.in_line(subscription):
                if not self._pop.has_more(subscription):
                    break
                try:
                    messages = self._pop.take(subscription, waiter.request)
                except ClientError as error:
                    waiter.future.set_exception(error)
                    continue
                if messages:
                    waiter.future.set_result(messages)
            if self._pop.has_more(subscription) and self._waiters.first(subscription):
                self._serve_later(subscription)
        self._arm()

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
            raise ClientError(Code.INTERNAL_SERVER_ERROR, f"service not available now, {error}") from None

    def _serve_woken(self) -> None:
        woken = self._store.state.leases.woken
        for subscription in woken:
            if self._waiters.first(subscription):
                self._serve_later(subscription)
        woken.clear()

    # -- agenda ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Does what is due. Called by the agenda's timer, and by whoever moved a ManualClock."""
        self._pop.tick(self._clock.lease_ms(), _TICK_LEASES)
        self._serve_woken()
        self._arm()

    def _arm(self) -> None:
        due_ms = self._store.state.leases.wheel.next_due_ms()
        if due_ms is None or (self._agenda is not None and self._agenda_ms <= due_ms):
            return
        if self._agenda is not None:
            self._agenda.cancel()
        self._agenda_ms = due_ms
        self._agenda = self._loop.call_later(max(due_ms - self._clock.lease_ms(), 0) / 1000, self._on_agenda)

    def _on_agenda(self) -> None:
        self._agenda = None
        self.tick()

    def _clean(self) -> None:
        more = self._retention.step(self._clock.wall_ms())
        self._cleaning = self._loop.call_later(0.01 if more else _RETENTION_S, self._clean)

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
        self._cleaning.cancel()
        if self._agenda is not None:
            self._agenda.cancel()
        self._store.close()


def _tags_code(message: Outgoing) -> int:
    tags = message.properties.get(m.TAGS)
    return record.tags_code(tags) if tags else 0


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
