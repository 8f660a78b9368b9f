"""What surrounds each call: how long it took and how it ended."""

import logging
import time

import pytest

from rmq.errors import Code
from rmq_proto import v2
from rmq_proxy.gate import MeteringGate
from rmq_proxy.messaging import SERVICE
from rmq_proxy.rpc import Call, GrpcCode, Kind, Row
from tests.proxy.rig import Rig, a_call, a_message, receiving, sending
from tests.proxy.transports import ECHO
from tests.scraping import samples, told

SEND = Row(SERVICE + "SendMessage", Kind.UNARY, lambda call, request: request)
RECEIVE = Row(SERVICE + "ReceiveMessage", Kind.LIST, lambda call, request: [request])


class Clock:
    """Seconds that a test moves."""

    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def labels(row: str, code: str, result: str, *, polls: str = "false") -> str:
    """As the gate writes them."""
    return (
        f'protocol_type="grpc",request_code="{row}",response_code="{code}",is_long_polling="{polls}",result="{result}"'
    )


def passed(gate: MeteringGate, clock: Clock, row: Row, code: GrpcCode, told_code: Code | None, took_s: float) -> None:
    """One call through the gate."""
    call = Call("127.0.0.1:5", {})
    gate.begin(call, row)
    clock.now_s += took_s
    call.code = told_code
    gate.end(call, row, code, 10)


def test_calls_are_timed_by_method() -> None:
    """In milliseconds; RocketMQ's methods by their bare names, others by their paths."""
    clock = Clock()
    gate = MeteringGate(clock)
    for took_s in (0.0002, 0.002, 0.002, 100.0):
        passed(gate, clock, SEND, GrpcCode.OK, None, took_s)
    passed(gate, clock, ECHO, GrpcCode.OK, None, 0.01)
    found = samples(told(gate.source))
    sends = labels("SendMessage", "OK", "success")
    counts = [found[f'rocketmq_rpc_latency_bucket{{{sends},le="{le}"}}'] for le in ("0.1", "0.3", "1", "3", "+Inf")]
    assert counts == [0, 1, 1, 3, 4]
    assert found[f"rocketmq_rpc_latency_sum{{{sends}}}"] == pytest.approx(100_004.2)
    assert found[f"rocketmq_rpc_latency_count{{{labels('t.T/Echo', 'OK', 'success')}}}"] == 1


@pytest.mark.parametrize(
    ("row", "code", "answer", "name", "result"),
    [
        (SEND, GrpcCode.OK, Code.TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", "failed"),
        (SEND, GrpcCode.INVALID_ARGUMENT, None, "INVALID_ARGUMENT", "failed"),
        (RECEIVE, GrpcCode.OK, Code.MESSAGE_NOT_FOUND, "MESSAGE_NOT_FOUND", "success"),
        (RECEIVE, GrpcCode.CANCELLED, None, "CANCELLED", "canceled"),
        (RECEIVE, GrpcCode.CANCELLED, Code.MESSAGE_NOT_FOUND, "CANCELLED", "canceled"),
    ],
)
def test_what_did_not_go_well_is_told_apart(
    row: Row, code: GrpcCode, answer: Code | None, name: str, result: str
) -> None:
    """By RocketMQ's code in the answer, or by gRPC's where the call itself was broken."""
    clock = Clock()
    gate = MeteringGate(clock)
    passed(gate, clock, row, code, answer, 0.001)
    passed(gate, clock, row, code, answer, 0.001)
    polls = "true" if row is RECEIVE else "false"
    where = labels(row.path.rpartition("/")[2], name, result, polls=polls)
    assert samples(told(gate.source))[f"rocketmq_rpc_latency_count{{{where}}}"] == 2


def test_the_log_tells_of_each_call_at_level_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Peer, method, how it ended, how much was answered."""
    for level in (logging.INFO, logging.DEBUG):
        caplog.set_level(level, "rmq_proxy.gate")
        gate = MeteringGate(time.monotonic)
        call = Call("127.0.0.1:5", {})
        gate.begin(call, SEND)
        gate.end(call, SEND, GrpcCode.OK, 10)
    assert [record.getMessage() for record in caplog.records] == [f"127.0.0.1:5 {SEND.path}: OK, 10 bytes"]


def test_the_service_tells_its_code_to_the_gate() -> None:
    """Of an answer that is a refusal, and of an empty receive."""
    rig = Rig()
    call = a_call(client_id="")
    rig.unary("SendMessage", sending(a_message()), call)
    assert call.code is Code.CLIENT_ID_REQUIRED
    call = a_call()
    rig.unary("SendMessage", sending(a_message()), call)
    assert call.code is None
    call = a_call()
    rig.listing("ReceiveMessage", receiving(), call)
    assert call.code is Code.MESSAGE_NOT_FOUND
    rig.broker.answers["receive"] = ValueError("a mistake of ours")
    call = a_call()
    rig.listing("ReceiveMessage", receiving(), call)
    assert call.code is Code.INTERNAL_SERVER_ERROR
    rig.broker.answers["route"] = ValueError("another one")
    call = a_call()
    rig.unary("QueryRoute", v2.QueryRouteRequest(topic=v2.Resource(name="orders")), call)
    assert call.code is Code.INTERNAL_SERVER_ERROR
