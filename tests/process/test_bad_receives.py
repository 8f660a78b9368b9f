"""What no consumer should ask: numbers, filters, groups and handles that are wrong, each with its code."""

import base64
from collections.abc import Callable

import pytest

from rmq_proto import v2
from tests.process import wire
from tests.process.client import Client

HOUR_MS = 3_600_000
SECONDS_MAX = 2**63 - 1
Change = Callable[[v2.ReceiveMessageRequest], object]


def batch(size: int) -> Change:
    """Messages asked for."""
    return lambda request: setattr(request, "batch_size", size)


def invisible(seconds: int, nanos: int = 0) -> Change:
    """Of the messages received."""

    def change(request: v2.ReceiveMessageRequest) -> None:
        request.invisible_duration.seconds, request.invisible_duration.nanos = seconds, nanos

    return change


def poll(seconds: int, nanos: int = 0) -> Change:
    """How long to wait."""

    def change(request: v2.ReceiveMessageRequest) -> None:
        request.long_polling_timeout.seconds, request.long_polling_timeout.nanos = seconds, nanos

    return change


def expression(kind: int, text: str) -> Change:
    """A filter."""

    def change(request: v2.ReceiveMessageRequest) -> None:
        setattr(request.filter_expression, "type", kind)  # noqa: B010  # a number that the enum's type does not admit
        request.filter_expression.expression = text

    return change


def group(name: str, namespace: str = "") -> Change:
    """Another group."""

    def change(request: v2.ReceiveMessageRequest) -> None:
        request.group.name, request.group.resource_namespace = name, namespace

    return change


BAD: dict[str, tuple[Change, int]] = {
    "no batch": (batch(0), 40000),
    "a negative batch": (batch(-1), 40000),
    "the least batch": (batch(-(2**31)), 40000),
    "invisible for no time": (invisible(0), 40011),
    "invisible for 1 ms too little": (invisible(9, 999_999_999), 40011),
    "invisible for less than nothing": (invisible(-1), 40011),
    "invisible for negative nanos": (invisible(10, -1), 40011),
    "invisible for 12 h and 1 ms": (invisible(12 * 3600, 1_000_000), 40011),
    "invisible for ever": (invisible(SECONDS_MAX, 2**31 - 1), 40011),
    "invisible for the contrary of ever": (invisible(-(2**63), -(2**31)), 40011),
    "a negative poll": (poll(-1), 40018),
    "a poll of negative nanos": (poll(0, -1), 40018),
    "the least poll": (poll(-(2**63)), 40018),
    "a filter of separators": (expression(v2.TAG, " || "), 40010),
    "an empty SQL filter": (expression(v2.SQL, " "), 40010),
    "a filter type from the future": (expression(77, "a"), 40010),
    "a filter of 16 KiB + 1": (expression(v2.TAG, "a" * 16_385), 40010),
    "a SQL filter that ends too early": (expression(v2.SQL, "a > "), 40010),
    "a SQL filter of 4 KiB + 1": (expression(v2.SQL, "a = 1".ljust(4097)), 40010),
    "no group": (group(""), 40003),
    "a blank group": (group("  "), 40003),
    "a group with a space": (group("a b"), 40003),
    "a group beyond ASCII": (group("größe"), 40003),
    "a group of 121 characters": (group("g" * 121), 40003),
    "a system group": (group("CID_RMQ_SYS_TRANS"), 40003),
    "a bad namespace": (group("g", "a b"), 40003),
    "a group too long with its namespace": (group("g" * 60, "n" * 60), 40003),
}


@pytest.mark.parametrize(("change", "code"), BAD.values(), ids=BAD.keys())
def test_a_bad_receive_is_refused(dev: Client, topic: str, change: Change, code: int) -> None:
    """With a status that says why and the server's time, and no message; the message stays for others."""
    dev.send(wire.message(topic))
    request = wire.receive(topic, "g")
    change(request)
    received = dev.receive(request)
    assert (received.code, received.messages, received.whole) == (code, [], True), received.text
    assert received.text not in ("", v2.Code.Name(code))
    assert dev.receive(wire.receive(topic, "g", poll_ms=2000)).bodies == [b"hello"]


GOOD: dict[str, Change] = {
    "the greatest batch": batch(2**31 - 1),
    "invisible for 12 h": invisible(12 * 3600),
    "a poll for ever": poll(SECONDS_MAX, 2**31 - 1),
    "a queue that is not there": lambda r: setattr(r.message_queue, "id", -7),
    "a permission from the future": lambda r: setattr(r.message_queue, "permission", 77),
    "an attempt id of 100 KB": lambda r: setattr(r, "attempt_id", "x" * 100_000),
    "a group of 120 characters": group("g" * 120),
    "a filter that has more separators than tags": expression(v2.TAG, "|| a ||"),
    "a SQL filter": expression(v2.SQL, "TAGS = 'a'"),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_an_odd_receive_is_served(dev: Client, topic: str, change: Change) -> None:
    """What is at a limit, is lowered to it, or decides nothing."""
    message = wire.message(topic)
    message.system_properties.tag = "a"
    dev.send(message)
    request = wire.receive(topic, "g", poll_ms=2000)
    change(request)
    received = dev.receive(request)
    assert (received.code, received.bodies) == (20000, [b"hello"]), received.text


def test_a_huge_batch_brings_32(dev: Client, topic: str) -> None:
    """Not more, whatever is asked."""
    dev.send(*(wire.message(topic, message_id=str(i)) for i in range(40)))
    assert len(dev.receive(wire.receive(topic, "g", batch=2**31 - 1, poll_ms=2000)).messages) == 32


def test_an_old_client_is_told_of_a_bad_poll_in_its_own_code(dev: Client, topic: str) -> None:
    """40018 is known from 5.0.3 on."""
    dev.metadata = (("x-mq-client-id", wire.CLIENT_ID), ("x-mq-client-version", "5.0.2"))
    assert dev.receive(wire.receive(topic, "g", poll_ms=-1)).code == 40000


@pytest.fixture
def held(dev: Client, topic: str) -> str:
    """The handle of a message that group `g` holds."""
    dev.send(wire.message(topic))
    [handle] = dev.receive(wire.receive(topic, "g", poll_ms=2000)).handles
    return handle


def flipped(handle: str) -> str:
    """One bit is another."""
    data = bytearray(base64.urlsafe_b64decode(handle))
    data[12] ^= 1
    return base64.urlsafe_b64encode(data).decode()


HANDLES: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "garbage": lambda _: "no handle",
    "beyond ASCII": lambda _: "ключ",
    "a megabyte": lambda _: "A" * (1 << 20),
    "base64 of nothing of ours": lambda _: base64.urlsafe_b64encode(b"x" * 33).decode(),
    "Apache's": lambda _: "0 1700000000000 60000 3 0 broker-a 1 5 1234",
    "cut": lambda handle: handle[:-4],
    "with more": lambda handle: handle + handle,
    "one bit is another": flipped,
}


def outcomes(client: Client, topic: str, group_name: str, handle: str) -> list[int]:
    """What each call that takes a handle says to it."""
    ack = client.ack(topic, group_name, handle)
    assert [ack.status.code] == [entry.status.code for entry in ack.entries]
    changed = client.ask(
        "ChangeInvisibleDuration",
        wire.change(topic, group_name, handle),
        v2.ChangeInvisibleDurationResponse.FromString,
    )
    dead = client.ask(
        "ForwardMessageToDeadLetterQueue",
        wire.dead_letter(topic, group_name, handle),
        v2.ForwardMessageToDeadLetterQueueResponse.FromString,
    )
    return [ack.status.code, changed.status.code, dead.status.code]


@pytest.mark.parametrize("spoil", HANDLES.values(), ids=HANDLES.keys())
def test_a_handle_that_is_none_is_refused(dev: Client, topic: str, held: str, spoil: Callable[[str], str]) -> None:
    """By every call that takes one; the true one stays good."""
    assert outcomes(dev, topic, "g", spoil(held)) == [40013] * 3
    assert dev.ack(topic, "g", held).status.code == 20000


def test_another_group_s_handle_is_refused(dev: Client, topic: str, held: str) -> None:
    """Even if that group holds the same message."""
    assert len(dev.receive(wire.receive(topic, "h", poll_ms=2000)).handles) == 1
    assert outcomes(dev, topic, "h", held) == [40013] * 3
    assert dev.ack(topic, "g", held).status.code == 20000


def test_another_topic_s_handle_is_refused(dev: Client, topic: str, held: str) -> None:
    """Even if the group holds the same place there."""
    other = topic + "-other"
    dev.send(wire.message(other))
    assert len(dev.receive(wire.receive(other, "g", poll_ms=2000)).handles) == 1
    assert outcomes(dev, other, "g", held) == [40013] * 3
    assert dev.ack(topic, "g", held).status.code == 20000


def test_a_handle_without_its_namespace_is_refused(dev: Client, topic: str) -> None:
    """The same names in a namespace are another topic and another group."""
    message = wire.message(topic)
    message.topic.resource_namespace = "ns"
    dev.send(message)
    request = wire.receive(topic, "g", poll_ms=2000)
    request.message_queue.topic.resource_namespace = request.group.resource_namespace = "ns"
    [handle] = dev.receive(request).handles
    assert outcomes(dev, topic, "g", handle) == [40013] * 3


def test_a_stale_handle_is_refused(dev: Client, topic: str, held: str) -> None:
    """After its message got another one; and after a dead letter none is good."""
    changed = dev.ask(
        "ChangeInvisibleDuration", wire.change(topic, "g", held, 0), v2.ChangeInvisibleDurationResponse.FromString
    )
    [again] = dev.receive(wire.receive(topic, "g", poll_ms=2000)).handles
    assert outcomes(dev, topic, "g", held) == [40013] * 3
    assert outcomes(dev, topic, "g", changed.receipt_handle) == [40013] * 3
    dead = wire.dead_letter(topic, "g", again)
    answer = v2.ForwardMessageToDeadLetterQueueResponse.FromString
    assert dev.ask("ForwardMessageToDeadLetterQueue", dead, answer).status.code == 20000
    assert outcomes(dev, topic, "g", again)[1:] == [40013] * 2
    assert len(dev.receive(wire.receive("%DLQ%g", "reader-" + topic, poll_ms=2000)).messages) >= 1


def test_an_ack_tells_each_handle_s_fate(dev: Client, topic: str, held: str) -> None:
    """In order, under MULTIPLE_RESULTS; what is good is done."""
    response = dev.ack(topic, "g", "bad", held, "", held)
    assert response.status.code == 30000
    assert [entry.status.code for entry in response.entries] == [40013, 20000, 40013, 20000]
    assert [entry.receipt_handle for entry in response.entries] == ["bad", held, "", held]


def test_an_ack_of_nothing_is_refused(dev: Client, topic: str) -> None:
    """It names no handle."""
    assert dev.ack(topic, "g").status.code == 40000


def test_an_ack_of_ten_thousand_has_as_many_answers(dev: Client, topic: str) -> None:
    """All refused alike."""
    response = dev.ack(topic, "g", *["x"] * 10_000)
    assert (response.status.code, len(response.entries)) == (40013, 10_000)


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(-1, 0), (0, -1), (12 * 3600, 1_000_000), (SECONDS_MAX, 0), (-(2**63), -(2**31))]
)
def test_a_bad_invisible_duration_is_refused(dev: Client, topic: str, held: str, seconds: int, nanos: int) -> None:
    """And the old handle stays good."""
    request = wire.change(topic, "g", held)
    request.invisible_duration.seconds, request.invisible_duration.nanos = seconds, nanos
    response = dev.ask("ChangeInvisibleDuration", request, v2.ChangeInvisibleDurationResponse.FromString)
    assert (response.status.code, response.receipt_handle) == (40011, "")
    assert dev.ack(topic, "g", held).status.code == 20000
