"""A client of RocketMQ's own verbs, for tools of ours that send and receive: one connection, one topic, one group.

Says at its start what every client says (route, settings, heartbeat), so that it works with any RocketMQ 5 server.
Promises that every wait is bounded and that what goes wrong is a CallFailed. Does not retry, follow routes to other
servers, renew, or use TLS.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar, cast

import grpc
import grpc.aio

from rmq_proto import v2

R = TypeVar("R")
SERVICE = "/apache.rocketmq.v2.MessagingService/"
CLIENT_VERSION = "5.1.2"
CALL_S = 10.0
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
]
EXPLAINED = {
    grpc.StatusCode.UNAVAILABLE: "no server answers at {endpoint}; `rmq serve` starts one",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer from {endpoint} in time",
    grpc.StatusCode.UNIMPLEMENTED: "what answers at {endpoint} is no RocketMQ 5 server",
}
READABLE = (v2.READ, v2.READ_WRITE)
OK_OR_NOTHING = (v2.OK, v2.MESSAGE_NOT_FOUND)


class CallFailed(Exception):  # noqa: N818  # it is the call that failed, not the program
    """The text is one line that says what to do, where that is known."""


class Received(NamedTuple):
    """One delivery."""

    body: bytes
    handle: str


class _Telemetry(Protocol):
    """The settings stream, as far as it is used here."""

    async def write(self, request: bytes) -> None: ...

    async def read(self) -> object: ...

    def cancel(self) -> bool: ...


class MessageClient:
    """Made in a running loop; `start` first, `close` last. Methods raise CallFailed."""

    def __init__(self, endpoint: str, topic: str, group: str, client_id: str) -> None:
        self._endpoint, self._topic, self._group, self._client_id = endpoint, topic, group, client_id
        self._metadata = (
            ("x-mq-client-id", client_id),
            ("x-mq-client-version", CLIENT_VERSION),
            ("x-mq-language", "PYTHON"),
            ("x-mq-protocol", "v2"),
        )
        self._channel = grpc.aio.insecure_channel(endpoint, OPTIONS)
        self._telemetry: _Telemetry | None = None
        self._queues: list[v2.MessageQueue] = []
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Asks for the route, shows settings, and says hello."""
        route = v2.QueryRouteRequest()
        route.topic.name = self._topic
        _fill_endpoints(route.endpoints, self._endpoint)
        answer = await self._unary("QueryRoute", route.SerializeToString(), v2.QueryRouteResponse.FromString)
        self._check(answer.status)
        self._queues = [queue for queue in answer.message_queues if queue.permission in READABLE]
        await self._settle_settings()
        hello = v2.HeartbeatRequest()
        hello.group.name = self._group
        hello.client_type = v2.SIMPLE_CONSUMER
        self._check((await self._unary("Heartbeat", hello.SerializeToString(), v2.HeartbeatResponse.FromString)).status)

    async def send(self, bodies: Sequence[bytes]) -> None:
        """All in one call."""
        request = v2.SendMessageRequest()
        for body in bodies:
            message = request.messages.add()
            message.topic.name = self._topic
            message.body = body
            message.system_properties.message_id = f"{self._client_id}-{next(self._numbers)}"
            message.system_properties.message_type = v2.NORMAL
        answer = await self._unary("SendMessage", request.SerializeToString(), v2.SendMessageResponse.FromString)
        self._check(answer.status)
        for entry in answer.entries:
            self._check(entry.status)

    async def receive(self, batch: int, poll_s: float, invisible_s: int) -> list[Received]:
        """Waits up to `poll_s` (the server may raise that to its own least); nothing is an empty list."""
        if not self._queues:
            raise CallFailed(f"{self._endpoint} has no readable queue for topic {self._topic}")
        request = v2.ReceiveMessageRequest()
        request.group.name = self._group
        request.message_queue.CopyFrom(self._queues[next(self._numbers) % len(self._queues)])
        request.filter_expression.type = v2.TAG
        request.filter_expression.expression = "*"
        request.batch_size = batch
        request.invisible_duration.seconds = invisible_s
        request.long_polling_timeout.nanos = round(poll_s % 1 * 1e9)
        request.long_polling_timeout.seconds = int(poll_s)
        received = []
        for data in await self._listing("ReceiveMessage", request.SerializeToString(), poll_s + CALL_S):
            answer = v2.ReceiveMessageResponse.FromString(data)
            if answer.HasField("status"):
                self._check(answer.status, OK_OR_NOTHING)
            elif answer.HasField("message"):
                received.append(Received(answer.message.body, answer.message.system_properties.receipt_handle))
        return received

    async def ack(self, handles: Sequence[str]) -> None:
        """All in one call."""
        request = v2.AckMessageRequest()
        request.topic.name, request.group.name = self._topic, self._group
        for handle in handles:
            request.entries.add().receipt_handle = handle
        answer = await self._unary("AckMessage", request.SerializeToString(), v2.AckMessageResponse.FromString)
        self._check(answer.status)

    async def close(self) -> None:
        """Ends every call that is left."""
        if self._telemetry is not None:
            self._telemetry.cancel()
        await self._channel.close()

    async def _settle_settings(self) -> None:
        command = v2.TelemetryCommand()
        settings = command.settings
        settings.client_type = v2.SIMPLE_CONSUMER
        settings.user_agent.language, settings.user_agent.version = v2.PYTHON, CLIENT_VERSION
        _fill_endpoints(settings.access_point, self._endpoint)
        settings.subscription.group.name = self._group
        entry = settings.subscription.subscriptions.add()
        entry.topic.name = self._topic
        entry.expression.type, entry.expression.expression = v2.TAG, "*"
        method = cast("Callable[..., _Telemetry]", self._channel.stream_stream(SERVICE + "Telemetry"))
        self._telemetry = method(metadata=self._metadata)
        await self._explained(self._exchange(self._telemetry, command.SerializeToString()))

    @staticmethod
    async def _exchange(stream: _Telemetry, data: bytes) -> None:
        await stream.write(data)
        await asyncio.wait_for(stream.read(), CALL_S)

    async def _unary(self, name: str, data: bytes, decode: Callable[[bytes], R]) -> R:
        method = cast("Callable[..., Awaitable[bytes]]", self._channel.unary_unary(SERVICE + name))
        return decode(await self._explained(method(data, timeout=CALL_S, metadata=self._metadata)))

    async def _listing(self, name: str, data: bytes, within_s: float) -> list[bytes]:
        method = cast("Callable[..., AsyncIterator[bytes]]", self._channel.unary_stream(SERVICE + name))
        return await self._explained(_collect(method(data, timeout=within_s, metadata=self._metadata)))

    async def _explained(self, answer: Awaitable[R]) -> R:
        """The errors of gRPC in our words."""
        try:
            return await answer
        except grpc.aio.AioRpcError as error:
            text = EXPLAINED.get(error.code(), "{endpoint} answers " + f"{error.code().name}: {error.details()}")
            raise CallFailed(text.format(endpoint=self._endpoint)) from None
        except TimeoutError:
            raise CallFailed(EXPLAINED[grpc.StatusCode.DEADLINE_EXCEEDED].format(endpoint=self._endpoint)) from None

    def _check(self, status: v2.Status, allowed: Sequence[int] = (v2.OK,)) -> None:
        if status.code not in allowed:
            raise CallFailed(f"{self._endpoint} answers {v2.Code.Name(status.code)}: {status.message}")


async def _collect(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [data async for data in stream]


def _fill_endpoints(endpoints: v2.Endpoints, endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    endpoints.scheme = v2.DOMAIN_NAME
    address = endpoints.addresses.add()
    address.host, address.port = host.strip("[]"), int(port)
