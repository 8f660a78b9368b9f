"""SendMessage with what no client should send: the right code, and nothing is stored."""

from collections.abc import Callable

import grpc
import pytest

from rmq_proto import v2
from tests.process import wire
from tests.process.client import Client, Refused

MIB = 1 << 20
BODY_MAX = 4 * MIB
PROPERTIES_MAX = 16_384
SECONDS_MAX = 2**63 - 1
YEAR_9999_S = 253_402_300_799

Change = Callable[[v2.Message], object]


def with_property(key: str, value: str) -> Change:
    """One user property."""
    return lambda message: message.user_properties.update({key: value})


def properties(number: int) -> Change:
    """That many of them."""
    return lambda message: message.user_properties.update({f"k{i}": "v" for i in range(number)})


def tag(text: str) -> Change:
    """A tag."""
    return lambda message: setattr(message.system_properties, "tag", text)


def keys(*texts: str) -> Change:
    """Keys."""
    return lambda message: message.system_properties.keys.extend(texts)


def system(name: str, value: object) -> Change:
    """Any plain field of the system properties."""
    return lambda message: setattr(message.system_properties, name, value)


def time(name: str, seconds: int, nanos: int = 0) -> Change:
    """A Timestamp or Duration field of the system properties."""

    def change(message: v2.Message) -> None:
        field = getattr(message.system_properties, name)
        field.seconds, field.nanos = seconds, nanos

    return change


def all_of(*changes: Change) -> Change:
    """One after the other."""
    return lambda message: [change(message) for change in changes]


BAD: dict[str, tuple[Change, int]] = {
    "empty body": (lambda m: setattr(m, "body", b""), 41302),
    "body of 4 MiB + 1": (lambda m: setattr(m, "body", bytes(BODY_MAX + 1)), 41301),
    "129 properties": (properties(129), 43101),
    "a reserved property": (with_property("KEYS", "x"), 40007),
    "a property of ours": (with_property("RMQ_ORIGIN", "1,2,3"), 40007),
    "a property without a name": (with_property("", "x"), 40007),
    "a separator in a property's name": (with_property("a\x01b", "x"), 40007),
    "a separator in a property's value": (with_property("a", "x\x02b"), 40007),
    "a C1 control in a property's value": (with_property("a", "x\x85"), 40007),
    "properties of 16 KiB + 1": (with_property("a", "x" * PROPERTIES_MAX), 43101),
    "properties of 16 KiB + 1 in UTF-8": (with_property("aa", "é" * (PROPERTIES_MAX // 2)), 43101),
    "properties, tag and keys of 16 KiB + 1": (all_of(with_property("a", "x" * 16_000), tag("t" * 384)), 43101),
    "keys of 16 KiB + 1": (keys(*["k" * 1024] * 16, "k"), 43101),
    "blank tag": (tag("  "), 40004),
    "two tags": (tag("a||b"), 40004),
    "a control character in the tag": (tag("a\x00"), 40004),
    "blank key": (keys("a", " "), 40005),
    "a control character in a key": (keys("a\x7f"), 40005),
    "no message id": (system("message_id", ""), 40009),
    "blank message id": (system("message_id", "\u3000 "), 40009),
    "a separator in the message id": (system("message_id", "a\x01"), 40009),
    "a message id too long to store": (system("message_id", "x" * 40_000), 43101),
    "a message group of 64 bytes": (system("message_group", "g" * 64), 40006),
    "blank message group": (system("message_group", " "), 40006),
    "a separator in the trace context": (system("trace_context", "a\x02b"), 40007),
    "a trace context too long to store": (system("trace_context", "x" * 40_000), 43101),
    "negative priority": (system("priority", -1), 40000),
    "blank lite topic": (system("lite_topic", " "), 40020),
    "lite topic of 65": (system("lite_topic", "l" * 65), 40020),
    "born before 1970": (time("born_timestamp", -1), 40000),
    "born in the year 10000": (time("born_timestamp", YEAR_9999_S + 1), 40000),
    "born at the end of time": (time("born_timestamp", SECONDS_MAX, 2**31 - 1), 40000),
    "born at its beginning": (time("born_timestamp", -(2**63), -(2**31)), 40000),
    "delivery in the year 9999": (time("delivery_timestamp", YEAR_9999_S), 40012),
    "delivery at the end of time": (time("delivery_timestamp", SECONDS_MAX), 40012),
    "delivery a nanosecond before 1970": (time("delivery_timestamp", 0, -1), 40012),
    "a check after an hour and a second": (
        all_of(system("message_type", v2.TRANSACTION), time("orphaned_transaction_recovery_duration", 3601)),
        40000,
    ),
    "a check before now": (
        all_of(system("message_type", v2.TRANSACTION), time("orphaned_transaction_recovery_duration", -1)),
        40000,
    ),
}


@pytest.mark.parametrize(("change", "code"), BAD.values(), ids=BAD.keys())
def test_a_bad_message_is_refused(dev: Client, topic: str, change: Change, code: int) -> None:
    """The status says why, there are no entries, and no message is stored: neither it nor the good one before it."""
    good, bad = wire.message(topic), wire.message(topic, message_id="id-2")
    change(bad)
    response = dev.send(good, bad)
    assert response.status.code == code, response.status.message
    assert response.status.message not in ("", v2.Code.Name(code))
    assert not response.entries
    assert dev.receive(wire.receive(topic, "g")).code == 40401


GOOD: dict[str, Change] = {
    "body of 4 MiB": lambda m: setattr(m, "body", bytes(BODY_MAX)),
    "128 properties": properties(128),
    "properties of 16 KiB": with_property("a", "x" * (PROPERTIES_MAX - 1)),
    "a property that is no identifier": with_property(" =,;:% ключ", "=,;🐢"),
    "a message id of any shape": system("message_id", "not 34 hex digits, and 🐢"),
    "message type from the future": system("message_type", 99),
    "encoding from the future": system("body_encoding", 77),
    "digest from the future": lambda m: setattr(m.system_properties.body_digest, "type", 77),
    "a wrong digest": lambda m: setattr(m.system_properties.body_digest, "checksum", "no"),
    "a queue that is not there": system("queue_id", -5),
    "a queue offset of its own": system("queue_offset", 2**63 - 1),
    "a delivery attempt below zero": system("delivery_attempt", -(2**31)),
    "a huge delivery attempt": system("delivery_attempt", 2**31 - 1),
    "a handle": system("receipt_handle", "x" * MIB),
    "a born host that is none": system("born_host", "\x01" * 500),
    "a store host that is none": system("store_host", "x" * 100_000),
    "born in the year 9999": time("born_timestamp", YEAR_9999_S, 999_999_999),
    "born with nanos beyond a second": time("born_timestamp", 5, 2**31 - 1),
    "invisible for ever": time("invisible_duration", SECONDS_MAX),
    "stored before its time": time("store_timestamp", -(2**63)),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_an_odd_message_is_kept(dev: Client, topic: str, change: Change) -> None:
    """What is at a limit, or none of the server's business, is stored and delivered with its body, on attempt 1."""
    message = wire.message(topic)
    change(message)
    response = dev.send(message)
    assert response.status.code == 20000, response.status.message
    received = dev.receive(wire.receive(topic, "g", poll_ms=2000))
    assert received.bodies == [message.body]
    [delivered] = received.messages
    assert dict(delivered.user_properties) == dict(message.user_properties)
    assert delivered.system_properties.message_id == message.system_properties.message_id
    assert delivered.system_properties.delivery_attempt == 1


TOPICS = {
    "none": "",
    "blank": "  ",
    "a space": "a b",
    "a slash": "a/b",
    "beyond ASCII": "tópico",
    "a newline at the end": "a\n",
    "a separator": "a\x01b",
    "128 characters": "x" * 128,
    "a megabyte": "x" * MIB,
    "the template of 4.x": "TBW102",
    "the schedule": "SCHEDULE_TOPIC_XXXX",
    "half messages": "RMQ_SYS_TRANS_HALF_TOPIC",
    "our journal": "rmq_sys_rmq_journal",
}


@pytest.mark.parametrize("name", TOPICS.values(), ids=TOPICS.keys())
def test_a_bad_topic_is_refused(dev: Client, name: str) -> None:
    """Of every call that names a topic."""
    handle = "x"
    statuses = [
        dev.send(wire.message(name)).status,
        dev.ask("QueryRoute", wire.route(name), v2.QueryRouteResponse.FromString).status,
        dev.ack(name, "g", handle).status,
        dev.ask(
            "ChangeInvisibleDuration", wire.change(name, "g", handle), v2.ChangeInvisibleDurationResponse.FromString
        ).status,
        dev.ask(
            "ForwardMessageToDeadLetterQueue",
            wire.dead_letter(name, "g", handle),
            v2.ForwardMessageToDeadLetterQueueResponse.FromString,
        ).status,
    ]
    assert [status.code for status in statuses] == [40002] * 5
    assert dev.receive(wire.receive(name, "g")).code == 40002


@pytest.mark.parametrize(
    ("namespace", "name"), [("a b", "t"), ("a%b", "t"), ("\x01", "t"), ("n" * 64, "t" * 64), ("rmq_sys_", "t")]
)
def test_a_bad_namespace_is_refused(dev: Client, namespace: str, name: str) -> None:
    """Together with its topic it is one stored name of at most 127 characters."""
    message = wire.message(name)
    message.topic.resource_namespace = namespace
    response = dev.send(message)
    assert response.status.code == 40002, response.status.message


def test_a_topic_of_127_characters_is_fine(dev: Client) -> None:
    """The longest name."""
    name = "x" * 127
    assert dev.send(wire.message(name)).status.code == 20000
    assert dev.receive(wire.receive(name, "g", poll_ms=2000)).bodies == [b"hello"]


def test_a_call_without_messages_is_refused(dev: Client) -> None:
    """There is nothing to send."""
    assert dev.send().status.code == 40016


def test_a_call_for_two_topics_is_refused(dev: Client, topic: str) -> None:
    """And nothing of it is stored."""
    assert dev.send(wire.message(topic), wire.message(topic + "-b")).status.code == 40016
    assert dev.receive(wire.receive(topic, "g")).code == 40401


def test_a_thousand_messages_a_call_are_fine(dev: Client, topic: str) -> None:
    """One entry each."""
    response = dev.send(*(wire.message(topic, message_id=str(i)) for i in range(1000)))
    assert [entry.message_id for entry in response.entries] == [str(i) for i in range(1000)]


def test_a_request_over_the_limit_is_refused_by_grpc(dev: Client, topic: str) -> None:
    """RESOURCE_EXHAUSTED, before it is parsed; a request below it goes through."""
    three = [wire.message(topic, bytes(3 * MIB), str(i)) for i in range(3)]
    with pytest.raises(Refused) as refused:
        dev.send(*three)
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dev.send(*three[:2]).status.code == 20000
