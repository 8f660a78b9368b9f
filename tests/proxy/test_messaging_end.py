"""EndTransaction: what a producer says of its transaction reaches the broker, and the broker's word the producer."""

import asyncio

import pytest

from rmq.errors import ClientError, Code
from rmq_proto import v2
from tests.proxy.rig import TOPIC, Rig, a_call

RESOLUTIONS = [(v2.COMMIT, True), (v2.ROLLBACK, False), (v2.TRANSACTION_RESOLUTION_UNSPECIFIED, None)]


def ending(resolution: int, source: int = v2.SOURCE_CLIENT) -> v2.EndTransactionRequest:
    """As a client ends transaction tx-1."""
    request = v2.EndTransactionRequest(message_id="01A", transaction_id="tx-1", resolution=resolution, source=source)
    request.topic.name = TOPIC
    return request


def end(rig: Rig, request: v2.EndTransactionRequest) -> v2.Status:
    """The answer's status."""
    return rig.ask(v2.EndTransactionResponse.FromString, "EndTransaction", request).status


@pytest.mark.parametrize("source", [v2.SOURCE_UNSPECIFIED, v2.SOURCE_CLIENT, v2.SOURCE_SERVER_CHECK])
@pytest.mark.parametrize(("resolution", "commit"), RESOLUTIONS)
def test_an_end_reaches_the_broker(source: int, resolution: int, commit: bool | None) -> None:
    """Whoever it comes from (Go says nothing of it)."""
    rig = Rig()
    assert end(rig, ending(resolution, source)).code == Code.OK.value
    assert rig.broker.of("end_transaction") == [(TOPIC, "tx-1", commit)]


def test_a_namespace_is_part_of_the_topic() -> None:
    """The stored name, as when it was sent."""
    rig = Rig()
    request = ending(v2.COMMIT)
    request.topic.resource_namespace = "ns"
    end(rig, request)
    assert rig.broker.of("end_transaction") == [(f"ns%{TOPIC}", "tx-1", True)]


def test_a_resolution_that_is_none_is_refused() -> None:
    """Nothing is done then."""
    rig = Rig()
    assert end(rig, ending(7)).code == Code.BAD_REQUEST.value
    assert not rig.broker.of("end_transaction")


def test_a_topic_that_cannot_be_is_refused() -> None:
    """As in a send."""
    request = ending(v2.COMMIT)
    request.topic.name = "RMQ_SYS_TRANS_HALF_TOPIC"
    assert end(Rig(), request).code == Code.ILLEGAL_TOPIC.value


@pytest.mark.parametrize("code", [Code.INVALID_TRANSACTION_ID, Code.PRECONDITION_FAILED])
def test_the_broker_s_refusal_is_the_answer(code: Code) -> None:
    """With its text."""
    rig = Rig()
    rig.broker.answers["end_transaction"] = ClientError(code, "why")
    status = end(rig, ending(v2.COMMIT))
    assert (status.code, status.message) == (code.value, "why")


def test_the_answer_waits_until_the_end_is_safe() -> None:
    """And says so where it never became safe."""

    async def scenario() -> None:
        rig = Rig()
        for error, code in (
            (None, Code.OK),
            (ClientError(Code.INTERNAL_SERVER_ERROR, "no"), Code.INTERNAL_SERVER_ERROR),
        ):
            safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            rig.broker.answers["end_transaction"] = safe
            answer = rig.unary("EndTransaction", ending(v2.COMMIT), a_call())
            assert isinstance(answer, asyncio.Future)
            assert not answer.done()
            safe.set_exception(error) if error else safe.set_result(None)
            assert v2.EndTransactionResponse.FromString(await answer).status.code == code.value

    asyncio.run(scenario())
