"""Requests with bytes flipped: whatever arrives is answered as the client's fault, never as ours."""

import random
from typing import cast

import pytest
from google.protobuf.message import Message as Request

from rmq_proto import v2
from rmq_proxy.rpc import Call, GrpcCode, Kind, Listing, RpcError, Unary
from tests.proxy.rig import GROUP, TOPIC, Rig, a_call, a_message, acking, receiving, sending, subscribing

ROUNDS = 400
FINE = {20000, 40401, *range(40000, 40022), 41301, 41302, 43101}


def rich_message() -> v2.Message:
    """With every kind of field that a client can send."""
    message = a_message()
    message.user_properties["colour"] = "blau"
    system = message.system_properties
    system.tag, system.message_group, system.trace_context, system.lite_topic = "tag", "group", "trace", "lite"
    system.keys.extend(["k1", "k2"])
    system.born_timestamp.seconds, system.delivery_timestamp.seconds = 1_700_000_000, 1_700_000_000
    system.orphaned_transaction_recovery_duration.seconds, system.priority, system.message_type = 30, 3, v2.TRANSACTION
    return message


def polling() -> v2.ReceiveMessageRequest:
    """With every time that a client can ask for."""
    request = receiving()
    request.invisible_duration.seconds = request.long_polling_timeout.seconds = 15
    request.filter_expression.type, request.filter_expression.expression = v2.TAG, "a || b"
    request.auto_renew, request.attempt_id = False, "attempt"
    return request


def changing() -> v2.ChangeInvisibleDurationRequest:
    """A change."""
    request = v2.ChangeInvisibleDurationRequest()
    request.group.name, request.topic.name, request.receipt_handle = GROUP, TOPIC, "handle"
    request.invisible_duration.seconds, request.invisible_duration.nanos = 30, 5
    return request


def routing() -> v2.QueryRouteRequest:
    """A route by two addresses."""
    request = v2.QueryRouteRequest()
    request.topic.name, request.topic.resource_namespace, request.endpoints.scheme = TOPIC, "ns", v2.IPv4
    for port in (1, 2):
        address = request.endpoints.addresses.add()
        address.host, address.port = "127.0.0.1", port
    return request


def beating() -> v2.HeartbeatRequest:
    """A heartbeat."""
    request = v2.HeartbeatRequest()
    request.group.name, request.client_type = GROUP, v2.PUSH_CONSUMER
    return request


REQUESTS: list[tuple[str, Request]] = [
    ("SendMessage", sending(rich_message(), a_message())),
    ("ReceiveMessage", polling()),
    ("AckMessage", acking("h")),
    ("ChangeInvisibleDuration", changing()),
    ("QueryRoute", routing()),
    ("Heartbeat", beating()),
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three bytes replaced, sometimes the end cut off."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(out[: rng.randint(1, len(out))] if rng.random() < 0.1 else out)


def answer_of(rig: Rig, method: str, call: Call, data: bytes) -> bytes:
    """The answer's first message."""
    row = rig.row(method)
    if row.kind is Kind.LIST:
        return cast("list[bytes]", cast("Listing", row.handler)(call, data))[0]
    return cast("bytes", cast("Unary", row.handler)(call, data))


@pytest.mark.parametrize(("method", "request_"), REQUESTS, ids=[r[0] for r in REQUESTS])
def test_flipped_bytes(method: str, request_: Request) -> None:
    """A damaged request is refused as such, or read as what it says; the server never stumbles over it."""
    rng, rig, refused = random.Random(method), Rig(), 0
    for _ in range(ROUNDS):
        data = mutated(request_.SerializeToString(), rng)
        code: GrpcCode | int
        try:
            answer = answer_of(rig, method, a_call(), data)
            code = v2.HeartbeatResponse.FromString(answer).status.code  # every response has its status in field 1
        except RpcError as error:
            code = error.code
            refused += 1
        assert code is GrpcCode.INVALID_ARGUMENT or code in FINE, (data, code)
    assert 0 < refused < ROUNDS


def test_flipped_settings() -> None:
    """The same for settings on the Telemetry stream: a reply, or the end of the stream by the client's fault."""
    settings = v2.TelemetryCommand()
    settings.settings.CopyFrom(subscribing(TOPIC, "other", expression="a || b"))
    settings.settings.client_properties["team"] = "billing"
    data = settings.SerializeToString()
    rng, rig, replies = random.Random("Telemetry"), Rig(), 0
    for _ in range(ROUNDS):
        inlet, outlet = rig.stream()
        code = GrpcCode.OK
        try:
            inlet.message(mutated(data, rng))
        except RpcError as error:
            code = error.code
        assert code in (GrpcCode.OK, GrpcCode.INVALID_ARGUMENT)
        replies += len(outlet.written)
        inlet.closed()
    assert 0 < replies < ROUNDS
