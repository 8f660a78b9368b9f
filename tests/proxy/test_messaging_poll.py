"""ReceiveMessage over time: polls that wait, clients that leave, answers that nobody took, unknown consumers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import pytest

from rmq.errors import ClientError, Code
from rmq.message import Delivered
from rmq_proto import v2
from tests.proxy.rig import CLIENT, GROUP, TOPIC, Rig, a_call, delivered, receiving

Run: TypeAlias = Callable[[Awaitable[None]], None]


def test_poll_that_waits(run: Run) -> None:
    """While the broker's answer is a Future, so is ours; messages and errors arrive as the same stream shapes."""

    async def scenario() -> None:
        rig = Rig()
        for error in (None, ClientError(Code.TOO_MANY_REQUESTS, "polling full"), ValueError("ours")):
            found: asyncio.Future[Sequence[Delivered]] = asyncio.get_running_loop().create_future()
            rig.broker.messages = found
            answer = rig.listing("ReceiveMessage", receiving())
            assert isinstance(answer, asyncio.Future)
            if error is None:
                found.set_result([delivered()])
            else:
                found.set_exception(error)
            stream = [v2.ReceiveMessageResponse.FromString(data) for data in await answer]
            expected = ["status", "delivery_timestamp"] if error else ["status", "message", "delivery_timestamp"]
            assert [response.WhichOneof("content") for response in stream] == expected

    run(scenario())


def test_client_that_gives_up_leaves_the_poll(run: Run) -> None:
    """Cancelling our Future cancels the broker's."""

    async def scenario() -> None:
        rig = Rig()
        found: asyncio.Future[Sequence[Delivered]] = asyncio.get_running_loop().create_future()
        rig.broker.messages = found
        answer = rig.listing("ReceiveMessage", receiving())
        assert isinstance(answer, asyncio.Future)
        answer.cancel()
        await asyncio.sleep(0)
        assert found.cancelled()

    run(scenario())


def test_messages_for_a_client_that_just_left(run: Run) -> None:
    """Messages that were found in the moment when the client gave up are given back at once, uncounted."""

    async def scenario() -> None:
        rig = Rig()
        found: asyncio.Future[Sequence[Delivered]] = asyncio.get_running_loop().create_future()
        rig.broker.messages = found
        answer = rig.listing("ReceiveMessage", receiving())
        assert isinstance(answer, asyncio.Future)
        found.set_result([delivered(handle="a"), delivered(handle="b")])
        answer.cancel()
        await asyncio.sleep(0)
        assert rig.broker.of("change_invisible") == [(GROUP, TOPIC, "a", 0, True), (GROUP, TOPIC, "b", 0, True)]

    run(scenario())


def test_undelivered_answer() -> None:
    """When the transport could not write the answer, each message is given back; a dead lease is no reason to stop."""
    rig = Rig()
    rig.broker.messages = [delivered(handle="a"), delivered(handle="b")]
    call = a_call()
    rig.receive(receiving(), call)
    assert call.undelivered is not None
    rig.broker.answers["change_invisible"] = ClientError(Code.INVALID_RECEIPT_HANDLE, "expired")
    call.undelivered()
    assert [given[2:] for given in rig.broker.of("change_invisible")] == [("a", 0, True), ("b", 0, True)]


def test_giving_back_later(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A give-back that fails later is logged, not lost in a Future that nobody asks."""

    async def scenario() -> None:
        rig = Rig()
        rig.broker.messages = [delivered()]
        call = a_call()
        rig.receive(receiving(), call)
        given: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        rig.broker.answers["change_invisible"] = given
        assert call.undelivered is not None
        call.undelivered()
        given.set_exception(ClientError(Code.INTERNAL_ERROR, "disk gone"))
        await asyncio.sleep(0)
        assert "disk gone" in caplog.text

    run(scenario())


def test_empty_answer_has_nothing_to_give_back() -> None:
    """An empty poll leaves no undelivered hook behind."""
    call = a_call()
    Rig().receive(receiving(), call)
    assert call.undelivered is None


def test_first_receive_announces_the_consumer() -> None:
    """A receive needs no earlier settings: the broker hears online before it is asked, once per topic and filter."""
    rig = Rig()
    rig.receive(receiving())
    assert [call[0] for call in rig.broker.calls] == ["online", "receive"]
    rig.receive(receiving())
    assert len(rig.broker.of("online")) == 1
    rig.receive(receiving("other"))
    group, client_id, subscriptions = rig.broker.of("online")[1]
    assert (group, client_id) == (GROUP, CLIENT)
    assert isinstance(subscriptions, dict)
    assert set(subscriptions) == {TOPIC, "other"}
    changed = receiving()
    changed.filter_expression.expression = "a"
    rig.receive(changed)
    assert len(rig.broker.of("online")) == 3


def test_unknown_group() -> None:
    """A group that the broker refuses is refused here, each time, and the client is not kept as its consumer."""
    rig = Rig()
    rig.broker.answers["online"] = ClientError(Code.CONSUMER_GROUP_NOT_FOUND, "create it")
    assert [rig.receive(receiving())[0].status.code for _ in range(2)] == [40403, 40403]
    rig.sessions.terminate(CLIENT, "")
    assert not rig.broker.of("offline")


def test_announcement_that_takes_time(run: Run) -> None:
    """Where online is a Future (a remote broker), the receive follows it."""

    async def scenario() -> None:
        rig = Rig()
        known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        found: asyncio.Future[Sequence[Delivered]] = asyncio.get_running_loop().create_future()
        rig.broker.answers["online"] = known
        rig.broker.messages = found
        answer = rig.listing("ReceiveMessage", receiving())
        assert isinstance(answer, asyncio.Future)
        assert not rig.broker.of("receive")
        known.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(rig.broker.of("receive")) == 1
        found.set_result([delivered()])
        assert len(await answer) == 3

    run(scenario())
