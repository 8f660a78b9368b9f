"""The calls that RocketMQ clients live by, against a whole `rmq serve`, with each transport and each stack."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rmq_proto import v2
from rmq_proxy.admin_client import AdminClient
from rmq_proxy.rpc import GrpcCode
from tests.clients.harness import eventually
from tests.proxy.rig import a_message, receiving, sending, settings_command, subscribing
from tests.proxy.stacks import Channel, Stack
from tests.proxy.transports import TRANSPORTS, Run
from tests.serving import Server

SERVICE = "/apache.rocketmq.v2.MessagingService/"
WITHIN_S = 10


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Server]]:
    """One of each transport, for all stacks."""
    with ExitStack() as running:
        yield {
            name: running.enter_context(Server(env={"RMQ_TRANSPORT": name, "RMQ_FLUSH": "memory"}))
            for name in TRANSPORTS
        }


@pytest.fixture(params=list(TRANSPORTS))
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    """Each in turn."""
    return servers[request.param]


def said_by(stack: Stack, number: int = 1) -> tuple[tuple[str, str], ...]:
    """Metadata of a client."""
    return (
        ("x-mq-client-id", f"{stack.name}@{number}"),
        ("x-mq-client-version", "5.0.0"),
        ("x-mq-language", "JAVA"),
        ("x-mq-protocol", "v2"),
    )


def polling(topic: str) -> bytes:
    """A receive that waits for 20 s."""
    request = receiving(topic)
    request.long_polling_timeout.seconds = 20
    return request.SerializeToString()


def pulling(topic: str, offset: int) -> bytes:
    """A pull of queue 0 that waits for 20 s."""
    request = v2.PullMessageRequest(offset=offset, batch_size=32)
    request.group.name = "billing"
    request.message_queue.topic.name = topic
    request.long_polling_timeout.seconds = 20
    return request.SerializeToString()


async def make_topic(channel: Channel, stack: Stack, topic: str) -> None:
    """By asking for its route, as clients do."""
    request = v2.QueryRouteRequest()
    request.topic.name = topic
    answer = await channel.unary(SERVICE + "QueryRoute", request.SerializeToString(), said_by(stack))
    assert v2.QueryRouteResponse.FromString(answer).status.code == v2.OK


@pytest.mark.parametrize("method", ["ReceiveMessage", "PullMessage"])
@pytest.mark.parametrize("how", ["cancel", "disconnect"])
def test_a_poll_given_up_waits_no_more(run: "Run[None]", server: Server, stack: Stack, how: str, method: str) -> None:
    """The broker forgets a long poll whose client cancels it or goes away."""
    request = polling("polled") if method == "ReceiveMessage" else pulling("polled", 0)

    async def scenario() -> None:
        channel = await stack.connect(server.endpoint)
        await make_topic(channel, stack, "polled")
        poll = await channel.open(SERVICE + method, request, said_by(stack))
        with AdminClient(server.endpoint) as admin:
            await asyncio.to_thread(eventually, lambda: admin.describe().waiting_polls == 1, WITHIN_S, "a poll")
            await (poll.cancel() if how == "cancel" else channel.close())
            await asyncio.to_thread(eventually, lambda: admin.describe().waiting_polls == 0, WITHIN_S, "no poll")
        await channel.close()

    run(scenario())


def test_telemetry_stays_open(run: "Run[None]", server: Server, stack: Stack) -> None:
    """Headers come before either side has spoken; settings are answered, again and again."""

    async def scenario() -> None:
        channel = await stack.connect(server.endpoint)
        telemetry = await channel.open(SERVICE + "Telemetry", metadata=said_by(stack))
        await telemetry.headers()
        settings = settings_command(subscribing("told", client_type=v2.SIMPLE_CONSUMER))
        for _ in range(2):
            await telemetry.write(settings)
            answer = await telemetry.read()
            assert answer is not None
            assert v2.TelemetryCommand.FromString(answer).HasField("settings")
            await make_topic(channel, stack, "told")
        await telemetry.half_close()
        assert await telemetry.end() == (GrpcCode.OK, "")
        await channel.close()

    run(scenario())


def test_the_streams_of_a_client_that_leaves_end(run: "Run[None]", server: Server, stack: Stack) -> None:
    """Java's: one that is open at its goodbye, and one that it opens afterwards, without an answer to its settings."""
    said = said_by(stack, 2)
    settings = settings_command(subscribing("left", client_type=v2.SIMPLE_CONSUMER))

    async def scenario() -> None:
        channel = await stack.connect(server.endpoint)
        await make_topic(channel, stack, "left")
        before = await channel.open(SERVICE + "Telemetry", metadata=said)
        await before.write(settings)
        assert await before.read() is not None
        goodbye = v2.NotifyClientTerminationRequest().SerializeToString()
        answer = await channel.unary(SERVICE + "NotifyClientTermination", goodbye, said)
        assert v2.NotifyClientTerminationResponse.FromString(answer).status.code == v2.OK
        late = await channel.open(SERVICE + "Telemetry", metadata=said)
        await late.write(settings)
        for stream in (before, late):
            assert await stream.read() is None
            assert await stream.end() == (GrpcCode.OK, "")
        await channel.close()

    run(scenario())


async def pull_all(channel: Channel, stack: Stack, topic: str, offset: int) -> list[v2.PullMessageResponse]:
    """The whole stream."""
    call = await channel.open(SERVICE + "PullMessage", pulling(topic, offset), said_by(stack))
    answers = []
    while (data := await call.read()) is not None:
        answers.append(v2.PullMessageResponse.FromString(data))
    assert await call.end() == (GrpcCode.OK, "")
    return answers


def test_a_pull_is_a_stream_that_ends(run: "Run[None]", server: Server, stack: Stack) -> None:
    """Status, messages, next offset; it waits for a message that comes later; an offset outside says where to go on."""
    topic = f"pulled-{stack.name}"

    async def scenario() -> None:
        channel = await stack.connect(server.endpoint)
        await make_topic(channel, stack, topic)
        waiting = asyncio.create_task(pull_all(channel, stack, topic, 0))
        with AdminClient(server.endpoint) as admin:
            await asyncio.to_thread(eventually, lambda: admin.describe().waiting_polls == 1, WITHIN_S, "a poll")
        await channel.unary(SERVICE + "SendMessage", sending(a_message(topic)).SerializeToString(), said_by(stack))
        status, message, next_offset = await waiting
        assert (status.status.code, message.message.body, next_offset.next_offset) == (v2.OK, b"hello", 1)
        status, next_offset = await pull_all(channel, stack, topic, 7)
        assert (status.status.code, next_offset.next_offset) == (v2.ILLEGAL_OFFSET, 1)
        await channel.close()

    run(scenario())


def syncing(action: int, *names: str) -> bytes:
    """What one client of the group subscribes."""
    request = v2.SyncLiteSubscriptionRequest(action=action, lite_topic_set=names)
    request.topic.name, request.group.name = "parent", "billing"
    return request.SerializeToString()


def test_lite_topics(run: "Run[None]", server: Server, stack: Stack) -> None:
    """A client subscribes some, receives of these, and of none once it has unsubscribed all."""

    async def scenario() -> None:
        channel = await stack.connect(server.endpoint)
        client = said_by(stack)

        async def sync(action: int, *names: str) -> None:
            answer = await channel.unary(SERVICE + "SyncLiteSubscription", syncing(action, *names), client)
            assert v2.SyncLiteSubscriptionResponse.FromString(answer).status.code == v2.OK

        async def send(name: str) -> None:
            message = a_message("parent", body=name.encode())
            message.system_properties.lite_topic = name
            answer = await channel.unary(SERVICE + "SendMessage", sending(message).SerializeToString(), client)
            assert v2.SendMessageResponse.FromString(answer).status.code == v2.OK

        async def receive() -> list[str]:
            call = await channel.open(SERVICE + "ReceiveMessage", receiving("parent").SerializeToString(), client)
            found = []
            while (data := await call.read()) is not None:
                answer = v2.ReceiveMessageResponse.FromString(data)
                found += [answer.message.body.decode()] if answer.HasField("message") else []
            return sorted(found)

        names = [f"{stack.name}-{name}" for name in "abc"]
        await sync(v2.COMPLETE_ADD, *names[:2])
        for name in names:
            await send(name)
        assert await receive() == names[:2]
        await sync(v2.COMPLETE_REMOVE)
        await channel.close()

    run(scenario())
