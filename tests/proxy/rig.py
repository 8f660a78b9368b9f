"""What the service's tests share: the service over a fake broker and a hand-driven clock, called with raw requests."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar, cast

from google.protobuf.message import Message as Request

from rmq.config import Config
from rmq.errors import ClientError
from rmq.filter import Filter, Filters
from rmq.message import Delivered, MessageType, Outgoing, SendResult
from rmq.port import Answer, BrokerQueues, GroupView, LiteSync, Pulled, PullRequest, ReceiveRequest
from rmq.retry import RetryPolicy
from rmq_proto import v2
from rmq_proxy.messaging import SERVICE, Messaging
from rmq_proxy.rates import Rates
from rmq_proxy.rpc import Call, GrpcCode, Inlet, Listing, Open, Row, Unary
from rmq_proxy.sessions import Sessions
from rmq_proxy.telemetry import Telemetry
from rmq_proxy.validate import Limits

NOW_MS = 1_800_000_000_123
NOW_S = 5000.0
HANDLE = "handle-1"
CLIENT = "host@1@0@abc"
TOPIC = "orders"
GROUP = "billing"
ALL_TYPES = (MessageType.NORMAL, MessageType.FIFO, MessageType.DELAY, MessageType.TRANSACTION)

R = TypeVar("R")


class HandClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.now_s = NOW_S

    def wall_ms(self) -> int:
        return self.now_ms

    def lease_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return self.now_s


class FakeBroker:
    """A BrokerPort that remembers what it was asked and answers what a test put there: value, Future or error."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.queues: Sequence[BrokerQueues] = [BrokerQueues("broker-a", 2, 2, True, True, ALL_TYPES)]
        self.view = GroupView(fifo=False, attempts_max=17, retry=RetryPolicy())
        self.stored: list[Outgoing] = []
        self.messages: Answer[Sequence[Delivered]] = []
        self.outcomes: Sequence[ClientError | None] = [None]
        self.answers: dict[str, object] = {}  # verb -> what it answers instead

    def of(self, verb: str) -> list[tuple[object, ...]]:
        """What that verb was called with."""
        return [call[1:] for call in self.calls if call[0] == verb]

    def _answer(self, default: Answer[R], verb: str, *arguments: object) -> Answer[R]:
        self.calls.append((verb, *arguments))
        answer = self.answers.get(verb, default)
        if isinstance(answer, Exception):
            raise answer
        return cast("Answer[R]", answer)

    def route(self, topic: str) -> Answer[Sequence[BrokerQueues]]:
        return self._answer(self.queues, "route", topic)

    def assignment(self, group: str, topic: str) -> Answer[Sequence[BrokerQueues]]:
        return self._answer(self.queues, "assignment", group, topic)

    def group(self, group: str, topics: Collection[str] = ()) -> Answer[GroupView]:
        return self._answer(self.view, "group", group, *topics)

    def message_type(self, topic: str) -> Answer[MessageType]:
        return self._answer(MessageType.MIXED, "message_type", topic)

    def send(self, messages: Sequence[Outgoing]) -> Answer[Sequence[SendResult]]:
        results = [SendResult(i % 2, len(self.stored) + i) for i in range(len(messages))]
        self.stored.extend(messages)
        return self._answer(results, "send", messages)

    def recall(self, topic: str, handle: str) -> Answer[str]:
        return self._answer("ID-1", "recall", topic, handle)

    def end_transaction(self, topic: str, transaction_id: str, commit: bool | None) -> Answer[None]:
        return self._answer(None, "end_transaction", topic, transaction_id, commit)

    def producing(self, topics: Collection[str]) -> None:
        self.calls.append(("producing", set(topics)))

    def sync_lite(self, sync: LiteSync) -> Answer[None]:
        return self._answer(None, "sync_lite", sync)

    def receive(self, request: ReceiveRequest) -> Answer[Sequence[Delivered]]:
        return self._answer(self.messages, "receive", request)

    def ack(self, group: str, topic: str, handles: Sequence[str]) -> Answer[Sequence[ClientError | None]]:
        return self._answer(self.outcomes, "ack", group, topic, list(handles))

    def change_invisible(self, group: str, topic: str, handle: str, invisible_ms: int, *, suspend: bool) -> Answer[str]:
        return self._answer(f"{handle}+", "change_invisible", group, topic, handle, invisible_ms, suspend)

    def dead_letter(self, group: str, topic: str, handle: str) -> Answer[None]:
        return self._answer(None, "dead_letter", group, topic, handle)

    def pull(self, request: PullRequest) -> Answer[Pulled]:
        return self._answer(Pulled([], request.offset), "pull", request)

    def update_offset(self, group: str, topic: str, queue_id: int, offset: int) -> Answer[None]:
        return self._answer(None, "update_offset", group, topic, queue_id, offset)

    def committed_offset(self, group: str, topic: str, queue_id: int) -> Answer[int]:
        return self._answer(7, "committed_offset", group, topic, queue_id)

    def query_offset(self, topic: str, queue_id: int, *, end: bool = False, time_ms: int | None = None) -> Answer[int]:
        return self._answer(3, "query_offset", topic, queue_id, end, time_ms)

    def online(self, group: str, client_id: str, subscriptions: Mapping[str, Filter]) -> Answer[None]:
        return self._answer(None, "online", group, client_id, dict(subscriptions))

    def offline(self, group: str, client_id: str) -> Answer[None]:
        return self._answer(None, "offline", group, client_id)


class RecordingOutlet:
    """The server's half of a stream, as a list."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ended: tuple[GrpcCode, str] | None = None

    def write(self, message: bytes) -> None:
        self.written.append(message)

    def finish(self, code: GrpcCode = GrpcCode.OK, text: str = "") -> None:
        self.ended = (code, text)

    def commands(self) -> list[v2.TelemetryCommand]:
        return [v2.TelemetryCommand.FromString(data) for data in self.written]


class Rig:
    """The service, and a client that calls it."""

    def __init__(
        self, *, limits: Limits | None = None, advertise: str | None = None, config: Config | None = None
    ) -> None:
        limits = limits or Limits()
        self.broker = FakeBroker()
        self.clock = HandClock()
        self.sessions = Sessions(self.broker, limits, self.clock)
        self.filters = filters = Filters(Config())
        self.telemetry = Telemetry(self.broker, self.sessions, limits, filters)
        rates = Rates(config or Config(), self.clock.monotonic_s)
        self.messaging = Messaging(
            self.broker, self.sessions, self.telemetry, limits, advertise, self.clock, filters, rates
        )
        self.rows: dict[str, Row] = {row.path: row for row in self.messaging.rows()}

    def row(self, method: str) -> Row:
        return self.rows[SERVICE + method]

    def unary(self, method: str, request: Request, call: Call | None = None) -> "bytes | asyncio.Future[bytes]":
        return self.raw(method, request.SerializeToString(), call)

    def raw(self, method: str, data: bytes, call: Call | None = None) -> "bytes | asyncio.Future[bytes]":
        return cast("Unary", self.row(method).handler)(call or a_call(), data)

    def listing(
        self, method: str, request: Request, call: Call | None = None
    ) -> "Sequence[bytes] | asyncio.Future[Sequence[bytes]]":
        return cast("Listing", self.row(method).handler)(call or a_call(), request.SerializeToString())

    def ask(self, response: Callable[[bytes], R], method: str, request: Request, call: Call | None = None) -> R:
        """A unary call that is answered at once; `response` is the answer's FromString."""
        answer = self.unary(method, request, call)
        assert isinstance(answer, bytes)
        return response(answer)

    def receive(self, request: v2.ReceiveMessageRequest, call: Call | None = None) -> list[v2.ReceiveMessageResponse]:
        """A receive that is answered at once."""
        answer = self.listing("ReceiveMessage", request, call)
        assert not isinstance(answer, asyncio.Future)
        return [v2.ReceiveMessageResponse.FromString(data) for data in answer]

    def stream(self, call: Call | None = None) -> tuple[Inlet, RecordingOutlet]:
        """An open Telemetry stream."""
        outlet = RecordingOutlet()
        return cast("Open", self.row("Telemetry").handler)(call or a_call(), outlet), outlet

    def tell(self, settings: v2.Settings, call: Call | None = None) -> v2.TelemetryCommand:
        """Settings on a new stream; the one reply."""
        inlet, outlet = self.stream(call)
        inlet.message(settings_command(settings))
        (reply,) = outlet.commands()
        return reply


def a_call(
    *,
    client_id: str = CLIENT,
    authority: str = "broker.example:8081",
    deadline_s: float | None = None,
    tls: bool = False,
    headers: Mapping[str, str] | None = None,
    **more: str,
) -> Call:
    """A call of one client; headers are spelled with underscores."""
    metadata = {name.replace("_", "-"): value for name, value in {**(headers or {}), **more}.items()}
    if client_id:
        metadata["x-mq-client-id"] = client_id
    return Call("10.1.2.3:5555", metadata, authority=authority, deadline_s=deadline_s, tls=tls)


def a_message(topic: str = TOPIC, message_id: str = "01A", body: bytes = b"hello") -> v2.Message:
    """A message with all that must be there."""
    message = v2.Message()
    message.topic.name = topic
    message.body = body
    message.system_properties.message_id = message_id
    return message


def sending(*messages: v2.Message) -> v2.SendMessageRequest:
    """A send of these messages."""
    request = v2.SendMessageRequest()
    request.messages.extend(messages)
    return request


def receiving(topic: str = TOPIC, group: str = GROUP, *, batch: int = 32) -> v2.ReceiveMessageRequest:
    """As a push consumer asks."""
    request = v2.ReceiveMessageRequest()
    request.group.name = group
    request.message_queue.topic.name = topic
    request.batch_size = batch
    request.auto_renew = True
    return request


def acking(*handles: str) -> v2.AckMessageRequest:
    """An ack of these handles, with the ids id-0, id-1 and so on."""
    request = v2.AckMessageRequest()
    request.group.name = GROUP
    request.topic.name = TOPIC
    for number, handle in enumerate(handles):
        entry = request.entries.add()
        entry.message_id = f"id-{number}"
        entry.receipt_handle = handle
    return request


def delivered(
    topic: str = TOPIC,
    *,
    handle: str = HANDLE,
    body: bytes = b"hello",
    properties: Mapping[str, str] | None = None,
    **more: str,
) -> Delivered:
    """A stored message as the broker hands it out."""
    return Delivered(
        topic=topic,
        queue_id=3,
        queue_offset=42,
        body=body,
        properties={"UNIQ_KEY": "01A", **(properties or {}), **more},
        sys_flag=0,
        born_ms=1_700_000_000_001,
        born_host="10.0.0.9",
        store_ms=1_700_000_000_456,
        store_host="10.0.0.1:10911",
        attempt=1,
        handle=handle,
    )


def publishing(*topics: str, client_type: int = v2.PRODUCER) -> v2.Settings:
    """A producer's settings."""
    settings = v2.Settings()
    settings.client_type = client_type
    settings.publishing.SetInParent()
    for topic in topics:
        settings.publishing.topics.add().name = topic
    return settings


def subscribing(
    *topics: str, group: str = GROUP, client_type: int = v2.PUSH_CONSUMER, expression: str = "*"
) -> v2.Settings:
    """A consumer's settings."""
    settings = v2.Settings()
    settings.client_type = client_type
    settings.subscription.group.name = group
    for topic in topics:
        entry = settings.subscription.subscriptions.add()
        entry.topic.name = topic
        entry.expression.type = v2.TAG
        entry.expression.expression = expression
    return settings


def settings_command(settings: v2.Settings) -> bytes:
    """Settings as they travel."""
    command = v2.TelemetryCommand()
    command.settings.CopyFrom(settings)
    return command.SerializeToString()
