"""ReceiveMessage: the shapes of its stream, how long it polls, what is delivered, and what if nobody takes it."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import pytest

from rmq.errors import ClientError, Code
from rmq.message import Delivered
from rmq.port import ReceiveRequest
from rmq_proto import v2
from rmq_proxy.validate import RESERVED
from tests.proxy.rig import CLIENT, GROUP, NOW_MS, NOW_S, TOPIC, Rig, a_call, delivered, receiving, subscribing

Change: TypeAlias = Callable[[v2.ReceiveMessageRequest], None]
Run: TypeAlias = Callable[[Awaitable[None]], None]


def asked(rig: Rig) -> ReceiveRequest:
    """What the broker was asked by the one receive."""
    ((request,),) = rig.broker.of("receive")
    assert isinstance(request, ReceiveRequest)
    return request


def shape(stream: Sequence[v2.ReceiveMessageResponse]) -> list[str | None]:
    """What each message of the stream holds."""
    return [response.WhichOneof("content") for response in stream]


def one(rig: Rig, message: Delivered) -> v2.Message:
    """`message` as it reaches the client."""
    rig.broker.messages = [message]
    return rig.receive(receiving())[1].message


def test_messages() -> None:
    """Status OK, the messages in the broker's order, and the time of delivery last."""
    rig = Rig()
    rig.broker.messages = [delivered(handle=f"h{n}") for n in range(3)]
    stream = rig.receive(receiving())
    assert shape(stream) == ["status", "message", "message", "message", "delivery_timestamp"]
    assert (stream[0].status.code, stream[0].status.message) == (20000, "OK")
    assert [r.message.system_properties.receipt_handle for r in stream[1:4]] == ["h0", "h1", "h2"]
    stamp = stream[-1].delivery_timestamp
    assert (stamp.seconds, stamp.nanos) == (NOW_MS // 1000, NOW_MS % 1000 * 1_000_000)


def test_no_messages() -> None:
    """An empty poll is 40401 and the time, never an empty stream."""
    stream = Rig().receive(receiving())
    assert shape(stream) == ["status", "delivery_timestamp"]
    assert (stream[0].status.code, stream[0].status.message) == (40401, "no new message")


def test_refusal() -> None:
    """The broker's refusal is a status and the time."""
    rig = Rig()
    rig.broker.answers["receive"] = ClientError(Code.TOO_MANY_REQUESTS, "polling full")
    stream = rig.receive(receiving())
    assert shape(stream) == ["status", "delivery_timestamp"]
    assert (stream[0].status.code, stream[0].status.message) == (42900, "polling full")


def blank_group(request: v2.ReceiveMessageRequest) -> None:
    """No group."""
    request.group.name = ""


def blank_topic(request: v2.ReceiveMessageRequest) -> None:
    """No topic."""
    request.message_queue.topic.name = ""


def batch(size: int) -> Change:
    """A batch size."""

    def change(request: v2.ReceiveMessageRequest) -> None:
        request.batch_size = size

    return change


def invisible(seconds: int) -> Change:
    """An invisible time without auto_renew."""

    def change(request: v2.ReceiveMessageRequest) -> None:
        request.auto_renew = False
        request.invisible_duration.seconds = seconds

    return change


def no_invisible(request: v2.ReceiveMessageRequest) -> None:
    """Neither invisible time nor auto_renew."""
    request.auto_renew = False


def expression(kind: int, text: str) -> Change:
    """A filter."""

    def change(request: v2.ReceiveMessageRequest) -> None:
        request.filter_expression.type = kind
        request.filter_expression.expression = text

    return change


def polling(seconds: int) -> Change:
    """A polling time."""

    def change(request: v2.ReceiveMessageRequest) -> None:
        request.long_polling_timeout.seconds = seconds

    return change


REFUSED = [
    ("blank group", blank_group, Code.ILLEGAL_CONSUMER_GROUP),
    ("blank topic", blank_topic, Code.ILLEGAL_TOPIC),
    ("batch of 0", batch(0), Code.BAD_REQUEST),
    ("negative batch", batch(-(2**31)), Code.BAD_REQUEST),
    ("invisible for less than 10 s", invisible(9), Code.ILLEGAL_INVISIBLE_TIME),
    ("invisible for more than 12 h", invisible(12 * 3600 + 1), Code.ILLEGAL_INVISIBLE_TIME),
    ("invisible for ever", invisible(2**63 - 1), Code.ILLEGAL_INVISIBLE_TIME),
    ("invisible before now", invisible(-(2**63)), Code.ILLEGAL_INVISIBLE_TIME),
    ("no invisible time", no_invisible, Code.ILLEGAL_INVISIBLE_TIME),
    ("only separators", expression(v2.TAG, " || "), Code.ILLEGAL_FILTER_EXPRESSION),
    ("empty SQL", expression(v2.SQL, " "), Code.ILLEGAL_FILTER_EXPRESSION),
    ("wrong SQL", expression(v2.SQL, "a = "), Code.ILLEGAL_FILTER_EXPRESSION),
    ("SQL without end", expression(v2.SQL, "a = 1 OR " * 1000 + "b = 1"), Code.ILLEGAL_FILTER_EXPRESSION),
    ("a filter type that nobody knows", expression(77, "a"), Code.ILLEGAL_FILTER_EXPRESSION),
    ("a filter without end", expression(v2.TAG, "a||" * 6000), Code.ILLEGAL_FILTER_EXPRESSION),
    ("negative polling time", polling(-1), Code.BAD_REQUEST),
]


@pytest.mark.parametrize(("change", "code"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_limits(change: Change, code: Code) -> None:
    """A receive beyond a limit gets that limit's code, as a status and the time; the broker is not asked."""
    rig = Rig()
    request = receiving()
    change(request)
    stream = rig.receive(request)
    assert shape(stream) == ["status", "delivery_timestamp"]
    assert stream[0].status.code == code.value
    assert not rig.broker.calls


@pytest.mark.parametrize(("version", "code"), [("5.0.2", 40000), ("", 40000), ("5.0.3", 40018), ("5.1.2", 40018)])
def test_code_of_a_bad_polling_time(version: str, code: int) -> None:
    """Clients from 5.0.3 on are told 40018, older ones 40000."""
    request = receiving()
    polling(-1)(request)
    assert Rig().receive(request, a_call(x_mq_client_version=version))[0].status.code == code


def test_what_the_broker_is_asked() -> None:
    """Group, topic, client, filter, batch, invisible time and attempt id reach the broker; 33 messages become 32."""
    rig = Rig()
    request = receiving(batch=33)
    invisible(30)(request)
    expression(v2.TAG, "a || b")(request)
    request.attempt_id = "attempt-7"
    request.message_queue.id = 5
    rig.receive(request)
    got = asked(rig)
    assert (got.group, got.topic, got.client_id, got.batch) == (GROUP, TOPIC, CLIENT, 32)
    assert (got.invisible_ms, got.auto_renew, got.attempt_id) == (30_000, False, "attempt-7")
    assert got.filter.tags == frozenset({"a", "b"})


def test_auto_renew_ignores_the_invisible_time() -> None:
    """With auto_renew the client's invisible time is not looked at: 60 s are the server's."""
    rig = Rig()
    request = receiving()
    request.invisible_duration.seconds = -5
    rig.receive(request)
    assert (asked(rig).auto_renew, asked(rig).invisible_ms) == (True, 60_000)


POLLS = [
    ("no deadline, nothing asked", None, None, 20_000),
    ("no deadline", 7.0, None, 7000),
    ("asked less than 5 s", 1.0, None, 5000),
    ("asked 0", 0.0, None, 5000),
    ("asked more than 20 s, as Rust does", 40.0, 40.0, 20_000),
    ("as Java asks", 20.0, 23.0, 20_000),
    ("the deadline is nearer", 20.0, 12.0, 11_950),
    ("the deadline is nearer than 5 s", 20.0, 3.0, 2950),
    ("the deadline is now", 20.0, 0.0, 0),
    ("the deadline is over", 20.0, -9.0, 0),
    ("nothing asked, as Go does", None, 18.0, 16_500),
    ("a deadline in ten years", None, 3650 * 86_400.0, 20_000),
]


@pytest.mark.parametrize(("asked_s", "left_s", "poll_ms"), [p[1:] for p in POLLS], ids=[p[0] for p in POLLS])
def test_polling_time(asked_s: float | None, left_s: float | None, poll_ms: int) -> None:
    """A poll takes what was asked within 5 to 20 s, and ends 50 ms before the client gives up."""
    rig = Rig()
    request = receiving()
    if asked_s is not None:
        polling(int(asked_s))(request)
    rig.receive(request, a_call(deadline_s=None if left_s is None else NOW_S + left_s))
    assert asked(rig).poll_ms == poll_ms


def test_polling_time_by_the_settings() -> None:
    """A client that asks for no time polls for its deadline less half its own request timeout."""
    rig = Rig()
    settings = subscribing(TOPIC, client_type=v2.SIMPLE_CONSUMER)
    settings.request_timeout.seconds = 8
    rig.tell(settings)
    rig.receive(receiving(), a_call(deadline_s=NOW_S + 18))
    assert asked(rig).poll_ms == 14_000


def test_delivered_fields() -> None:
    """Every stored property comes back as its field; the rest are the user's."""
    rig = Rig()
    message = one(
        rig,
        delivered(
            body=b"\x00\xff",
            TAGS="tag",
            KEYS="k1 k2",
            __SHARDINGKEY="group",
            TRACE_CONTEXT="trace",
            __BORNHOST="host-1",
            BORN_TIMESTAMP="5",
            CHECK_IMMUNITY_TIME_IN_SECONDS="30",
            TIMER_DELIVER_MS="1700000001500",
            __LITE_TOPIC="lite",
            _SYS_MSG_PRIORITY_="4",
            DLQ_ORIGIN_TOPIC="origin",
            DLQ_ORIGIN_MESSAGE_ID="01B",
            RMQ_ORIGIN="77@g",
            colour="blau",
        ),
    )
    got = message.system_properties
    assert (message.topic.name, message.topic.resource_namespace, message.body) == (TOPIC, "", b"\x00\xff")
    assert dict(message.user_properties) == {"colour": "blau"}
    assert (got.tag, list(got.keys), got.message_id) == ("tag", ["k1", "k2"], "01A")
    assert (got.message_group, got.trace_context, got.lite_topic, got.priority) == ("group", "trace", "lite", 4)
    assert (got.born_host, got.store_host) == ("host-1", "10.0.0.1:10911")
    assert (got.born_timestamp.seconds, got.born_timestamp.nanos) == (1_700_000_000, 1_000_000)
    assert (got.store_timestamp.seconds, got.store_timestamp.nanos) == (1_700_000_000, 456_000_000)
    assert (got.delivery_timestamp.seconds, got.delivery_timestamp.nanos) == (1_700_000_001, 500_000_000)
    assert got.orphaned_transaction_recovery_duration.seconds == 30
    assert (got.queue_id, got.queue_offset, got.delivery_attempt, got.receipt_handle) == (3, 42, 1, "handle-1")
    assert (got.dead_letter_queue.topic, got.dead_letter_queue.message_id) == ("origin", "01B")
    assert not got.HasField("invisible_duration")


def test_bare_delivery() -> None:
    """A message without extras has digest, encoding and type all the same, its peer as born host, and nothing else."""
    got = one(Rig(), delivered()).system_properties
    assert got.body_digest.type == v2.MD5
    assert got.body_digest.checksum == hashlib.md5(b"hello", usedforsecurity=False).hexdigest().upper()
    assert (got.body_encoding, got.message_type, got.born_host) == (v2.IDENTITY, v2.NORMAL, "10.0.0.9")
    absent = ("tag", "message_group", "trace_context", "lite_topic", "priority", "delivery_timestamp")
    assert not any(got.HasField(name) for name in (*absent, "dead_letter_queue"))


def test_compressed_body() -> None:
    """A compressed body is delivered as stored, labelled GZIP, its digest over the compressed bytes."""
    stored = delivered(body=b"\x1f\x8bzip")
    stored.sys_flag = 1
    message = one(Rig(), stored)
    assert (message.body, message.system_properties.body_encoding) == (b"\x1f\x8bzip", v2.GZIP)
    digest = hashlib.md5(b"\x1f\x8bzip", usedforsecurity=False).hexdigest().upper()
    assert message.system_properties.body_digest.checksum == digest


TYPES = [
    ({"__SHARDINGKEY": "g"}, v2.FIFO),
    ({"TIMER_DELIVER_MS": "5"}, v2.DELAY),
    ({"TRAN_MSG": "true"}, v2.TRANSACTION),
    ({"__LITE_TOPIC": "l"}, v2.LITE),
    ({"_SYS_MSG_PRIORITY_": "1"}, v2.PRIORITY),
]


@pytest.mark.parametrize(("properties", "kind"), TYPES)
def test_delivered_type(properties: dict[str, str], kind: int) -> None:
    """The type is derived from what is stored."""
    assert one(Rig(), delivered(properties=properties)).system_properties.message_type == kind


@pytest.mark.parametrize("value", ["", "x", "-1", "9" * 40, "\u0663"])
def test_numbers_that_are_none(value: str) -> None:
    """A number property that came over Remoting and holds no sensible number leaves the field unset."""
    got = one(Rig(), delivered(TIMER_DELIVER_MS=value, _SYS_MSG_PRIORITY_=value)).system_properties
    assert not got.HasField("delivery_timestamp")
    assert not got.HasField("priority")


def test_reserved_properties_are_hidden() -> None:
    """No system property shows among the user's."""
    everything = dict.fromkeys(RESERVED, "1") | {"mine": "yes"}
    assert dict(one(Rig(), delivered(properties=everything)).user_properties) == {"mine": "yes"}


NAMESPACES = [
    ("in the request", "ns", "", "", "ns%orders"),
    ("in the header", "", "head", "", "head%orders"),
    ("in the settings", "", "", "sett", "sett%orders"),
    ("in the request before all", "ns", "head", "sett", "ns%orders"),
    ("in the header before the settings", "", "head", "sett", "head%orders"),
    ("nowhere", "", "", "", "orders"),
]


@pytest.mark.parametrize(
    ("in_request", "in_header", "in_settings", "stored"), [n[1:] for n in NAMESPACES], ids=[n[0] for n in NAMESPACES]
)
def test_namespaces(in_request: str, in_header: str, in_settings: str, stored: str) -> None:
    """A name belongs to the request's namespace, else the header's, else that of the settings; messages say which."""
    rig = Rig()
    if in_settings:
        settings = subscribing(TOPIC)
        settings.subscription.group.resource_namespace = in_settings
        rig.tell(settings)
    request = receiving()
    request.message_queue.topic.resource_namespace = in_request
    request.group.resource_namespace = in_request
    rig.broker.messages = [delivered(stored, DLQ_ORIGIN_TOPIC=stored, DLQ_ORIGIN_MESSAGE_ID="x")]
    stream = rig.receive(request, a_call(x_mq_namespace=in_header))
    topic = stream[1].message.topic
    assert asked(rig).topic == stored
    assert asked(rig).group == stored.replace(TOPIC, GROUP)
    assert (topic.resource_namespace, topic.name) == (stored.removesuffix("orders").rstrip("%"), "orders")
    assert stream[1].message.system_properties.dead_letter_queue.topic == "orders"


def test_dead_letters_of_a_namespace() -> None:
    """A dead letter topic keeps its prefix in front of the namespace, as 4.x stores it."""
    rig = Rig()
    request = receiving("%DLQ%billing")
    request.message_queue.topic.resource_namespace = "ns"
    rig.broker.messages = [delivered("%DLQ%ns%billing"), delivered("ns%orders"), delivered("foreign")]
    stream = rig.receive(request)
    assert asked(rig).topic == "%DLQ%ns%billing"
    topics = [(r.message.topic.resource_namespace, r.message.topic.name) for r in stream[1:4]]
    assert topics == [("ns", "%DLQ%billing"), ("ns", "orders"), ("", "foreign")]
