"""The Telemetry stream: what settings are answered for each kind of client, and what is refused."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

import pytest

from rmq.errors import ClientError, Code
from rmq.port import GroupView
from rmq.retry import RETRY_STEPS_MS, RetryPolicy
from rmq_proto import v2
from rmq_proxy.rpc import GrpcCode, RpcError, Unary
from rmq_proxy.telemetry import METRIC_SINK
from rmq_proxy.validate import Limits
from tests.proxy.rig import (
    TOPIC,
    Rig,
    a_call,
    publishing,
    settings_command,
    subscribing,
)

Run: TypeAlias = Callable[[Awaitable[None]], None]
CONSUMERS = [v2.PUSH_CONSUMER, v2.SIMPLE_CONSUMER, v2.PULL_CONSUMER, v2.LITE_PUSH_CONSUMER, v2.LITE_SIMPLE_CONSUMER]


def full(settings: v2.Settings) -> v2.Settings:
    """With all that clients add of their own."""
    settings.access_point.scheme = v2.IPv4
    address = settings.access_point.addresses.add()
    address.host, address.port = "127.0.0.1", 8091
    settings.request_timeout.seconds = 3
    settings.user_agent.language, settings.user_agent.version = v2.JAVA, "5.2.1"
    settings.client_properties["team"] = "billing"
    settings.backoff_policy.max_attempts = 99
    settings.backoff_policy.customized_backoff.next.add().seconds = 77
    settings.metric.on = True
    return settings


def test_producer_settings() -> None:
    """A producer gets its own words back, an exponential back-off of 3 attempts, the largest body, and metrics off."""
    sent = full(publishing(TOPIC, "other"))
    reply = Rig().tell(sent)
    assert (reply.status.code, reply.status.message) == (20000, "OK")
    got = reply.settings
    assert got.access_point == sent.access_point
    assert got.request_timeout == sent.request_timeout
    assert got.user_agent == sent.user_agent
    assert got.client_properties == sent.client_properties
    assert got.client_type == v2.PRODUCER
    assert [t.name for t in got.publishing.topics] == [TOPIC, "other"]
    assert (got.publishing.max_body_size, got.publishing.validate_message_type) == (4_194_304, True)
    policy = got.backoff_policy
    assert (policy.max_attempts, policy.WhichOneof("strategy")) == (3, "exponential_backoff")
    backoff = policy.exponential_backoff
    assert (backoff.initial.nanos, backoff.max.seconds, backoff.multiplier) == (10_000_000, 1, 2.0)
    assert got.HasField("metric")
    assert not got.metric.on


@pytest.mark.parametrize("client_type", CONSUMERS)
def test_consumer_settings(client_type: int) -> None:
    """Every kind of consumer gets its own words back, 17 attempts in the group's steps, batch size and polling time."""
    sent = full(subscribing(TOPIC, client_type=client_type))
    sent.subscription.group.resource_namespace = "ns"
    reply = Rig().tell(sent)
    got = reply.settings
    assert reply.status.code == Code.OK.value
    assert got.client_type == client_type
    assert got.subscription.group == sent.subscription.group
    assert got.subscription.subscriptions == sent.subscription.subscriptions
    assert got.access_point == sent.access_point
    policy = got.backoff_policy
    assert (policy.max_attempts, policy.WhichOneof("strategy")) == (17, "customized_backoff")
    assert [step.seconds * 1000 for step in policy.customized_backoff.next] == list(RETRY_STEPS_MS)
    subscription = got.subscription
    assert (subscription.fifo, subscription.HasField("fifo")) == (False, True)
    assert (subscription.receive_batch_size, subscription.long_polling_timeout.seconds) == (32, 20)
    assert got.HasField("metric")
    assert not got.metric.on
    lite = client_type in (v2.LITE_PUSH_CONSUMER, v2.LITE_SIMPLE_CONSUMER)
    assert (subscription.lite_subscription_quota, subscription.max_lite_topic_size) == ((2000, 64) if lite else (0, 0))


def test_settings_of_the_group() -> None:
    """FIFO, attempts and an exponential policy come from the group."""
    rig = Rig()
    rig.broker.view = GroupView(fifo=True, attempts_max=3, retry=RetryPolicy(steps_ms=()))
    got = rig.tell(subscribing(TOPIC)).settings
    assert got.subscription.fifo
    policy = got.backoff_policy
    assert (policy.max_attempts, policy.WhichOneof("strategy")) == (3, "exponential_backoff")
    backoff = policy.exponential_backoff
    assert (backoff.initial.seconds, backoff.max.seconds, backoff.multiplier) == (5, 7200, 2.0)


@pytest.mark.parametrize(
    ("language", "fifo", "client_type", "strategy"),
    [
        ("HTTP", True, v2.PUSH_CONSUMER, "exponential_backoff"),
        ("HTTP", False, v2.PUSH_CONSUMER, "customized_backoff"),
        ("HTTP", False, v2.LITE_PUSH_CONSUMER, "exponential_backoff"),
        ("JAVA", True, v2.PUSH_CONSUMER, "customized_backoff"),
        ("JAVA", False, v2.LITE_PUSH_CONSUMER, "customized_backoff"),
    ],
)
def test_node_is_told_an_exponential_policy_for_what_comes_in_order(
    language: str, fifo: bool, client_type: int, strategy: str
) -> None:
    """It ignores any other, and would then give a message up that was refused once: of lite topics, too."""
    rig = Rig()
    rig.broker.view = GroupView(fifo=fifo, attempts_max=3, retry=RetryPolicy(steps_ms=(1_000, 9_000)))
    sent = subscribing(TOPIC, client_type=client_type)
    policy = rig.tell(sent, a_call(x_mq_language=language)).settings.backoff_policy
    assert (policy.max_attempts, policy.WhichOneof("strategy")) == (3, strategy)
    backoff = policy.exponential_backoff
    if strategy == "exponential_backoff":
        assert (backoff.initial.seconds, backoff.max.seconds, backoff.multiplier) == (1, 9, 2.0)


METRICS = [
    ("PYTHON", "5.0.9", v2.PUSH_CONSUMER, True),
    ("PYTHON", "5.1.0", v2.PUSH_CONSUMER, True),
    ("PYTHON", "5.1.0", v2.LITE_PUSH_CONSUMER, True),
    ("PYTHON", "5.1.1", v2.PUSH_CONSUMER, False),
    ("PYTHON", "5.1.2", v2.PUSH_CONSUMER, False),
    ("PYTHON", "5.10.0", v2.PUSH_CONSUMER, False),
    ("PYTHON", "x", v2.PUSH_CONSUMER, False),
    ("PYTHON", "", v2.PUSH_CONSUMER, False),
    ("PYTHON", "5.1.0", v2.SIMPLE_CONSUMER, False),
    ("JAVA", "5.0.0", v2.PUSH_CONSUMER, False),
    ("", "5.0.0", v2.PUSH_CONSUMER, False),
]


@pytest.mark.parametrize(("language", "version", "client_type", "on"), METRICS)
def test_metric(language: str, version: str, client_type: int, on: bool) -> None:
    """Metrics are off, but on for Python's push consumers up to 5.1.0, which hang without; they then come to us."""
    sent = full(subscribing(TOPIC, client_type=client_type))
    metric = Rig().tell(sent, a_call(x_mq_language=language, x_mq_client_version=version)).settings.metric
    assert metric.on is on
    assert metric.HasField("endpoints") is on
    if on:
        assert metric.endpoints == sent.access_point


def test_metrics_are_taken_and_forgotten() -> None:
    """The export of such a client is answered with an empty message, which means that all was taken."""
    assert cast("Unary", METRIC_SINK.handler)(a_call(), b"whatever") == b""
    assert METRIC_SINK.path in Rig().rows


def wrong_topic() -> v2.Settings:
    """A topic that is the system's."""
    return publishing("SCHEDULE_TOPIC_XXXX")


def wrong_group() -> v2.Settings:
    """A group with a dot."""
    return subscribing(TOPIC, group="a.b")


def wrong_filter() -> v2.Settings:
    """A filter without a tag."""
    return subscribing(TOPIC, expression="||")


def wrong_sql() -> v2.Settings:
    """A SQL92 filter that ends too early."""
    settings = subscribing(TOPIC, expression="a >")
    settings.subscription.subscriptions[0].expression.type = v2.SQL
    return settings


def much_sql() -> v2.Settings:
    """Nine filters, each of the greatest length."""
    settings = subscribing(*(f"topic-{n}" for n in range(9)), expression="a = 1".ljust(4096))
    for entry in settings.subscription.subscriptions:
        entry.expression.type = v2.SQL
    return settings


def nothing() -> v2.Settings:
    """Neither side of the oneof."""
    return v2.Settings()


def endless() -> v2.Settings:
    """300 KB of topics."""
    return publishing(*(f"{n:0100}" for n in range(3000)))


def with_properties(*pairs: tuple[str, str]) -> Callable[[], v2.Settings]:
    """A producer's settings with client properties."""

    def make() -> v2.Settings:
        settings = publishing(TOPIC)
        for key, value in pairs:
            settings.client_properties[key] = value
        return settings

    return make


REFUSED = [
    ("a system topic", wrong_topic, Code.ILLEGAL_TOPIC),
    ("a bad group", wrong_group, Code.ILLEGAL_CONSUMER_GROUP),
    ("a bad filter", wrong_filter, Code.ILLEGAL_FILTER_EXPRESSION),
    ("a bad SQL92 filter", wrong_sql, Code.ILLEGAL_FILTER_EXPRESSION),
    ("SQL92 filters without end", much_sql, Code.ILLEGAL_FILTER_EXPRESSION),
    ("neither publishing nor subscription", nothing, Code.BAD_REQUEST),
    ("more than 256 KiB", endless, Code.BAD_REQUEST),
    ("33 properties", with_properties(*((f"k{n}", "") for n in range(33))), Code.INVALID_CLIENT_PROPERTIES),
    ("a key that starts with a digit", with_properties(("1a", "")), Code.INVALID_CLIENT_PROPERTIES),
    ("an empty key", with_properties(("", "")), Code.INVALID_CLIENT_PROPERTIES),
    ("a key of 65 characters", with_properties(("k" * 65, "")), Code.INVALID_CLIENT_PROPERTIES),
    ("a key with a blank", with_properties(("a b", "")), Code.INVALID_CLIENT_PROPERTIES),
    ("a reserved key", with_properties(("rocketmq.x", "")), Code.INVALID_CLIENT_PROPERTIES),
    ("a value of 257 characters", with_properties(("a", "v" * 257)), Code.INVALID_CLIENT_PROPERTIES),
    ("over 4096 bytes", with_properties(*((f"k{n}", "v" * 256) for n in range(17))), Code.INVALID_CLIENT_PROPERTIES),
]


@pytest.mark.parametrize(("make", "code"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused_settings(make: Callable[[], v2.Settings], code: Code) -> None:
    """Bad settings end the stream with INVALID_ARGUMENT, RocketMQ's code in the text; nothing is remembered."""
    rig = Rig()
    inlet, outlet = rig.stream()
    with pytest.raises(RpcError, match=f"{code.name} {code.value}: ") as caught:
        inlet.message(settings_command(make()))
    assert caught.value.code is GrpcCode.INVALID_ARGUMENT
    assert not outlet.written
    assert not len(rig.sessions)


def test_largest_client_properties() -> None:
    """32 entries, a key of 64 characters and a value of 256 are fine."""
    settings = publishing(TOPIC)
    settings.client_properties["k" * 64] = "v" * 256
    for number in range(31):
        settings.client_properties[f"a.b-c_{number}"] = ""
    assert Rig().tell(settings).status.code == Code.OK.value


BROKER_ERRORS = [
    (ClientError(Code.CONSUMER_GROUP_NOT_FOUND, "create it"), GrpcCode.INVALID_ARGUMENT, "40403: create it"),
    (ClientError(Code.TOO_MANY_REQUESTS, "too many groups"), GrpcCode.RESOURCE_EXHAUSTED, "42900"),
    (ClientError(Code.INTERNAL_ERROR, "disk"), GrpcCode.INTERNAL, "50000"),
]


@pytest.mark.parametrize(("error", "code", "text"), BROKER_ERRORS)
def test_settings_that_the_broker_refuses(error: ClientError, code: GrpcCode, text: str) -> None:
    """The gRPC status says whose fault it is, the text what to do."""
    rig = Rig()
    rig.broker.answers["online"] = error
    with pytest.raises(RpcError, match=text) as caught:
        rig.tell(subscribing(TOPIC))
    assert caught.value.code is code


def test_too_many_clients() -> None:
    """Beyond `clients_max` a new client is refused; a known one goes on."""
    rig = Rig(limits=Limits(clients_max=1))
    rig.tell(publishing(TOPIC))
    with pytest.raises(RpcError, match="42900") as caught:
        rig.tell(publishing(TOPIC), a_call(client_id="second"))
    assert caught.value.code is GrpcCode.RESOURCE_EXHAUSTED
    assert rig.tell(publishing(TOPIC)).status.code == Code.OK.value


def test_settings_from_afar(run: Run) -> None:
    """Where the broker takes its time the reply follows; a late refusal ends the stream."""

    async def scenario() -> None:
        rig = Rig()
        for refusal in (None, ClientError(Code.CONSUMER_GROUP_NOT_FOUND, "create it")):
            known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            rig.broker.answers["online"] = known
            inlet, outlet = rig.stream()
            inlet.message(settings_command(subscribing(TOPIC)))
            assert not outlet.written
            if refusal is None:
                known.set_result(None)
            else:
                known.set_exception(refusal)
            for _ in range(10):  # turns of the loop, more than the chain is long
                await asyncio.sleep(0)
            assert len(outlet.written) == (0 if refusal else 1)
            expected = (GrpcCode.INVALID_ARGUMENT, "CONSUMER_GROUP_NOT_FOUND 40403: create it") if refusal else None
            assert outlet.ended == expected

    run(scenario())


def test_no_client_id() -> None:
    """Without a client id the stream gets one status, 40017, and ends."""
    inlet, outlet = Rig().stream(a_call(client_id=""))
    inlet.message(settings_command(publishing(TOPIC)))
    (command,) = outlet.commands()
    assert (command.status.code, command.WhichOneof("command")) == (40017, None)
    assert outlet.ended == (GrpcCode.OK, "")
    inlet.closed()


def test_garbage() -> None:
    """Bytes that are no protobuf end the stream with INVALID_ARGUMENT."""
    inlet, _ = Rig().stream()
    with pytest.raises(RpcError) as caught:
        inlet.message(b"\xff\xff")
    assert caught.value.code is GrpcCode.INVALID_ARGUMENT


def test_end_of_a_stream() -> None:
    """When the client half-closes, so do we; that is no goodbye."""
    rig = Rig()
    inlet, outlet = rig.stream()
    inlet.message(settings_command(subscribing(TOPIC)))
    inlet.half_closed()
    inlet.closed()
    assert outlet.ended == (GrpcCode.OK, "")
    assert not rig.broker.of("offline")
    assert len(rig.sessions) == 1


def test_other_commands() -> None:
    """A command that only servers send, or one with a status alone, is ignored."""
    inlet, outlet = Rig().stream()
    command = v2.TelemetryCommand()
    command.status.code = 20000
    inlet.message(command.SerializeToString())
    command.print_thread_stack_trace_command.nonce = "1"
    inlet.message(command.SerializeToString())
    assert (outlet.written, outlet.ended) == ([], None)
