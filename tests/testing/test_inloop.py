"""The same server in the caller's loop: real clients connect, nothing global is touched, and it leaves nothing."""

import asyncio
import logging
import signal
import threading
from pathlib import Path

import pytest

import rmq.testing
from rmq.errors import ConfigError
from rmq.testing import ServerError


def test_it_shows_what_was_sent_over_the_wire() -> None:
    """With the same names as a server in a process of its own."""

    async def use() -> None:
        async with rmq.testing.broker(topics={"declared": "NORMAL:2"}, groups={"billing": 3}) as broker:
            message_id = await broker.send("orders", "one", tag="t", keys=["k"], properties={"p": "v"})
            (one,) = broker.messages("orders")
            assert (one.text, one.tag, one.keys, one.properties) == ("one", "t", ("k",), {"p": "v"})
            assert one.message_id == message_id
            assert set(broker.topics()) == {"declared", "orders"}
            assert broker.groups()["billing"].attempts_max == 3
            assert (broker.leases("billing"), broker.leases("nobody"), broker.messages("nothing")) == ([], [], [])
            await broker.reset()
            assert set(broker.topics()) == {"declared"}

    asyncio.run(use())


def test_another_thread_s_clients_reach_it() -> None:
    """By its endpoint, while the loop runs."""

    async def use() -> list[str]:
        async with rmq.testing.broker() as broker:
            assert broker.endpoint == f"{broker.host}:{broker.port}"
            await broker.send("orders", "one")
            with rmq.testing.connect(broker.endpoint) as other:
                return [message.text for message in await asyncio.to_thread(other.messages, "orders")]

    assert asyncio.run(use()) == ["one"]


def test_time_moves_as_far_as_the_test_says() -> None:
    """Forward only."""

    async def use() -> int:
        async with rmq.testing.broker() as broker:
            before_ms = broker.advance()
            with pytest.raises(ValueError, match="only moves forward"):
                broker.advance(ms=-1)
            return broker.advance(hours=24) - before_ms

    assert 86_400_000 <= asyncio.run(use()) < 86_410_000


def test_advance_delivers_what_is_due_in_order() -> None:
    """Before it returns, though two days lie between."""

    async def use() -> list[str]:
        async with rmq.testing.broker() as broker:
            now_ms = broker.advance()
            await broker.send("orders", "in two days", delivery_ms=now_ms + 47 * 3_600_000)
            await broker.send("orders", "tomorrow", delivery_ms=now_ms + 23 * 3_600_000)
            assert broker.messages("orders") == []
            broker.advance(hours=48)
            await asyncio.sleep(0)
            return [message.text for message in broker.messages("orders")]

    assert asyncio.run(use()) == ["tomorrow", "in two days"]


def test_one_that_keeps_its_data_survives_a_restart_and_leaves_nothing() -> None:
    """On the same port; reset empties it."""

    async def use() -> Path | None:
        async with rmq.testing.broker(flush="fast") as broker:
            await broker.send("orders", "one")
            endpoint = broker.endpoint
            await broker.restart()
            assert broker.endpoint == endpoint
            assert [message.text for message in broker.messages("orders")] == ["one"]
            await broker.reset()
            assert broker.topics() == {}
            assert broker.data is not None
            assert broker.data.is_dir()
            return broker.data

    data = asyncio.run(use())
    assert data is not None
    assert not data.exists()


def test_signals_and_loggers_are_as_before() -> None:
    """Whoever runs the loop decides about them; what the server logs is in `log` meanwhile."""
    handlers = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    logger = logging.getLogger("rmq")
    logger.setLevel(logging.ERROR)

    async def use() -> str:
        async with rmq.testing.broker(log_level="debug") as broker:
            assert signal.getsignal(signal.SIGTERM) is handlers[0]
            logger.debug("said")
            return broker.log

    try:
        assert "DEBUG rmq: said" in asyncio.run(use())
        assert (logger.level, logger.handlers) == (logging.ERROR, [])
        logger.error("not kept")
    finally:
        logger.setLevel(logging.NOTSET)
    assert signal.getsignal(signal.SIGTERM) is handlers[0]


def test_one_that_cannot_start_says_why_and_leaves_nothing() -> None:
    """The port is another's."""

    async def use() -> None:
        async with rmq.testing.broker() as first:
            second = rmq.testing.broker(port=first.port, flush="fast")
            with pytest.raises(ConfigError, match="in use"):
                await second.__aenter__()
            with pytest.raises(ServerError, match="does not run"):
                _ = second.endpoint
            with pytest.raises(ServerError, match="does not run"):
                second.topics()

    asyncio.run(use())
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("rmq")] == []


def test_a_failing_block_s_error_carries_what_the_server_said() -> None:
    """The block's own error goes on; a second stop does nothing."""

    async def use() -> None:
        async with rmq.testing.broker() as broker:
            logging.getLogger("rmq.node").warning("said")
            await broker.stop()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        asyncio.run(use())
    assert "WARNING rmq.node: said" in caught.value.__notes__[0]


def test_its_class_is_there_for_annotations() -> None:
    """Although it is loaded only when it is asked for; other names are not there."""
    assert isinstance(rmq.testing.broker(), rmq.testing.Broker)
    with pytest.raises(AttributeError, match="has no attribute 'Brokr'"):
        getattr(rmq.testing, "Brokr")  # noqa: B009  # a name that mypy knows to be wrong
