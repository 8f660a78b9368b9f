"""Calls that are broken as such: no client id, no protobuf, numbers from the future, rubbish on streams and sockets."""

import os
import random
import re
import socket
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message as Request

from rmq_proto import v2
from tests.process import wire
from tests.process.client import Client, Refused
from tests.process.conftest import Bystander

GARBAGE = b"\xff" * 64
BAD_UTF8 = b"\x0a\x04\x12\x02\xff\xfe"  # field 1, a Resource, its name not UTF-8
PARSED = [
    "QueryRoute",
    "QueryAssignment",
    "SendMessage",
    "AckMessage",
    "ChangeInvisibleDuration",
    "ForwardMessageToDeadLetterQueue",
    "Heartbeat",
    "NotifyClientTermination",
]


def heartbeat(client_type: int, group: str) -> v2.HeartbeatRequest:
    """Of a client of any type, of today or not."""
    request = v2.HeartbeatRequest()
    setattr(request, "client_type", client_type)  # noqa: B010  # a number that the enum's type does not admit
    request.group.name = group
    return request


def subscribing(group: str, *topics: str, kind: int = v2.TAG, expression: str = "*") -> v2.Settings:
    """A consumer's settings."""
    settings = v2.Settings()
    settings.client_type = v2.SIMPLE_CONSUMER
    settings.subscription.group.name = group
    for topic in topics:
        entry = settings.subscription.subscriptions.add()
        entry.topic.name = topic
        setattr(entry.expression, "type", kind)  # noqa: B010
        entry.expression.expression = expression
    return settings


def publishing(*topics: str) -> v2.Settings:
    """A producer's settings."""
    settings = v2.Settings()
    settings.client_type = v2.PRODUCER
    settings.publishing.SetInParent()
    for topic in topics:
        settings.publishing.topics.add().name = topic
    return settings


def outcome(client: Client, method: str, data: bytes) -> grpc.StatusCode | int:
    """What gRPC says, or else the code in the answer: every answer has its status in field 1."""
    try:
        return v2.HeartbeatResponse.FromString(client.unary(method, data)).status.code
    except Refused as refused:
        return refused.code


def command(settings: v2.Settings) -> bytes:
    """As it goes on the stream."""
    made = v2.TelemetryCommand()
    made.settings.CopyFrom(settings)
    return made.SerializeToString()


@pytest.mark.parametrize("data", [GARBAGE, BAD_UTF8], ids=["garbage", "bad UTF-8"])
@pytest.mark.parametrize("method", PARSED)
def test_what_is_no_protobuf_is_refused_by_grpc(dev: Client, method: str, data: bytes) -> None:
    """INVALID_ARGUMENT: the caller is at fault."""
    with pytest.raises(Refused) as refused:
        dev.unary(method, data)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_receive_that_is_no_protobuf_is_refused_by_grpc(dev: Client) -> None:
    """The same on a list of answers."""
    with pytest.raises(Refused) as refused:
        dev.listing("ReceiveMessage", GARBAGE)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_bytes_from_a_seed_never_find_a_fault_of_ours(dev: Client) -> None:
    """Whatever arrives, the answer is a code for the caller."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        code = outcome(dev, rng.choice(PARSED), rng.randbytes(rng.choice((1, 5, 20, 200))))
        assert code is grpc.StatusCode.INVALID_ARGUMENT or code in range(20000, 50000)


def test_an_unknown_method_is_unimplemented(dev: Client) -> None:
    """As in every gRPC server."""
    with pytest.raises(Refused) as refused:
        dev.unary("SendMassage", b"")
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED


REQUESTS: dict[str, Request] = {
    "SendMessage": wire.send(wire.message("t")),
    "AckMessage": wire.ack("t", "g", ["x"]),
    "ChangeInvisibleDuration": wire.change("t", "g", "x"),
    "ForwardMessageToDeadLetterQueue": wire.dead_letter("t", "g", "x"),
    "QueryRoute": wire.route("t"),
    "Heartbeat": heartbeat(v2.PRODUCER, "g"),
    "NotifyClientTermination": v2.NotifyClientTerminationRequest(),
}


@pytest.mark.parametrize(
    ("client_id", "code"), [(None, 40017), ("", 40017), ("  ", 40017), ("x" * 256, 40000)],
    ids=["none", "empty", "blank", "256 characters"],
)  # fmt: skip
def test_a_call_without_a_client_id_is_refused(dev: Client, client_id: str | None, code: int) -> None:
    """By every method, a receive and a Telemetry stream too."""
    dev.metadata = () if client_id is None else (("x-mq-client-id", client_id),)
    for method, request in REQUESTS.items():
        answer = dev.ask(method, request, v2.HeartbeatResponse.FromString)  # all have their status in field 1
        assert answer.status.code == code, method
    assert dev.receive(wire.receive("t", "g")).code == code
    [told] = dev.telemetry([command(publishing("t"))])
    assert told.status.code == code


def test_headers_that_no_client_sends_change_nothing(dev: Client, topic: str) -> None:
    """A language of the future, a version that is none, an id at its limit."""
    dev.metadata = (
        ("x-mq-client-id", "x" * 255),
        ("x-mq-language", "COBOL"),
        ("x-mq-client-version", "~" * 300),
        ("authorization", "Basic nonsense"),
        ("x-mq-date-time", "yesterday"),
        ("x-mq-rpc-name", "SomethingElse"),
    )
    assert dev.send(wire.message(topic)).status.code == 20000


def test_a_heartbeat_of_a_type_from_the_future_is_refused(dev: Client) -> None:
    """What it says of itself means nothing to us, and nothing else is known of it."""
    dev.metadata = (("x-mq-client-id", "future"),)
    answer = dev.ask("Heartbeat", heartbeat(77, "g"), v2.HeartbeatResponse.FromString)
    assert answer.status.code == 40015


EMPTY: dict[str, Request] = {
    "EndTransaction": v2.EndTransactionRequest(),
    "SyncLiteSubscription": v2.SyncLiteSubscriptionRequest(),
}


@pytest.mark.parametrize("method", EMPTY)
def test_a_request_without_a_topic_is_refused(dev: Client, method: str) -> None:
    """In the status, not by a gRPC error."""
    assert dev.ask(method, EMPTY[method], v2.HeartbeatResponse.FromString).status.code == 40002


BAD_STREAMS = {
    "garbage": GARBAGE,
    "settings of neither kind": command(v2.Settings()),
    "a bad topic": command(publishing("a b")),
    "a system topic": command(publishing("TBW102")),
    "a bad group": command(subscribing("a b")),
    "a bad subscription": command(subscribing("g", "a b")),
    "a bad filter": command(subscribing("g", "t", expression="||")),
    "a bad SQL filter": command(subscribing("g", "t", kind=v2.SQL, expression="a >")),
    "a filter type from the future": command(subscribing("g", "t", kind=77)),
    "too many settings": command(publishing(*(f"topic-{i:0100}" for i in range(3000)))),
}


@pytest.mark.parametrize("data", BAD_STREAMS.values(), ids=BAD_STREAMS.keys())
def test_rubbish_on_a_stream_ends_it(dev: Client, data: bytes) -> None:
    """With INVALID_ARGUMENT and a text that names the code."""
    with pytest.raises(Refused) as refused:
        dev.telemetry([data])
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.text


def test_rubbish_after_good_settings_ends_the_stream(dev: Client, topic: str) -> None:
    """What was said before it stays said: the client goes on with other calls."""
    with pytest.raises(Refused):
        dev.telemetry([command(publishing(topic)), GARBAGE])
    assert dev.send(wire.message(topic)).status.code == 20000


def test_what_nobody_asked_for_is_passed_over(dev: Client, topic: str) -> None:
    """Answers to no question, an empty command, and a command that only servers send: the stream goes on."""
    unasked = v2.TelemetryCommand()
    unasked.verify_message_result.nonce = "1"
    turned = v2.TelemetryCommand()
    turned.recover_orphaned_transaction_command.transaction_id = "x" * 100_000
    answers = dev.telemetry([unasked.SerializeToString(), b"", turned.SerializeToString(), command(publishing(topic))])
    assert [answer.status.code for answer in answers] == [20000]


def test_a_thousand_settings_have_a_thousand_answers(dev: Client, topic: str) -> None:
    """On one stream, each with the last word."""
    answers = dev.telemetry(command(publishing(topic)) for _ in range(1000))
    assert [answer.status.code for answer in answers] == [20000] * 1000


def test_a_stream_that_breaks_off_is_no_harm(dev: Client, topic: str) -> None:
    """The client vanishes in the middle."""

    def broken() -> Iterator[bytes]:
        yield command(subscribing("g", topic))
        dev.close()

    with pytest.raises(Refused):
        dev.telemetry(broken())


SOCKETS = {
    "nothing": b"",
    "random bytes": random.Random(7).randbytes(5000),
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a frame of 16 MB announced": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x04\0\0\0\0\0",
    "a Remoting frame": b"\0\0\0\x10\0\0\0\x0c{}" + bytes(10),
}


@pytest.mark.parametrize("data", SOCKETS.values(), ids=SOCKETS.keys())
def test_rubbish_on_the_socket_is_no_harm(dev: Client, dev_bystander: Bystander, data: bytes) -> None:
    """Whatever speaks no gRPC; that others are served is seen after each test."""
    del dev
    host, port = dev_bystander.server.endpoint.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        try:
            while connection.recv(65536):
                pass
        except ConnectionResetError:
            pass


def test_strict_knows_no_topic_that_nobody_made(strict: Client) -> None:
    """And says how to make it."""
    answers = [
        strict.ask("QueryRoute", wire.route("none"), v2.QueryRouteResponse.FromString).status,
        strict.send(wire.message("none")).status,
    ]
    received = strict.receive(wire.receive("none", "bystander"))
    assert [answer.code for answer in answers] + [received.code] == [40402] * 3
    for text in [answer.message for answer in answers] + [received.text]:
        assert re.search(r"\bnone\b.*rmq topic create none --type NORMAL", text), text


def test_strict_knows_no_group_that_nobody_made(strict: Client) -> None:
    """And says how to make it; a stream's settings are refused by its end."""
    received = strict.receive(wire.receive("bystander", "none"))
    beat = strict.ask("Heartbeat", heartbeat(v2.SIMPLE_CONSUMER, "none"), v2.HeartbeatResponse.FromString)
    assert (received.code, beat.status.code) == (40403, 40403)
    for text in (received.text, beat.status.message):
        assert re.search(r"\bnone\b.*rmq group create none", text), text
    with pytest.raises(Refused) as refused:
        strict.telemetry([command(subscribing("none", "bystander"))])
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "40403" in refused.value.text


def test_strict_refuses_handles_of_what_is_not_there(strict: Client) -> None:
    """As any other handle that is none of ours."""
    assert strict.ack("none", "none", "x").status.code == 40013
    assert strict.ack("bystander", "bystander", os.urandom(8).hex()).status.code == 40013
