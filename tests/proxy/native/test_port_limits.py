"""Limits on connections of the one port, and how they end. Under uvloop, as in use."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from rmq_proxy.http2 import frames
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native_transport import NativeTransport
from rmq_proxy.rpc import Call, Kind, Row
from tests.proxy.http2.peer import START, parse
from tests.proxy.native.portrig import Scenario, answered, call, port
from tests.proxy.transports import LOG, RecordingGate, answering, new_future
from tests.scraping import told


def test_connections_in_all(run: Callable[[Scenario], None]) -> None:
    """One more is closed at once, and counted."""

    async def scenario() -> None:
        async with port(limits=Limits(connections_max=1)) as one:
            _, writer = await asyncio.open_connection("127.0.0.1", one.port)
            assert await one.send(b"") == b""
            assert "rmq_connections_turned_away_total 1\n" in told(one.transport.source)
            writer.close()

    run(scenario())


def test_a_client_that_breaks_the_rules_is_counted(run: Callable[[Scenario], None]) -> None:
    """By the code that it is sent away with; one that just leaves is not."""

    async def scenario() -> None:
        async with port() as one:
            _, leaving = await asyncio.open_connection("127.0.0.1", one.port)
            leaving.write(START)
            leaving.write_eof()
            answer = await one.send(START + frames.frame(frames.PING, 0, 1, bytes(8)))
            assert frames.GOAWAY in [frame.kind for frame in answered(answer)]
            assert 'rmq_connections_ended_total{reason="protocol_error"} 1\n' in told(one.transport.source)
            leaving.close()

    run(scenario())


def test_connections_per_address() -> None:
    """Counted by the socket's peer; loopback and configured proxies are not."""

    async def scenario() -> None:
        transport = NativeTransport(
            {}, RecordingGate(), request_bytes_max=1, log=LOG, limits=Limits(connections_per_address_max=1)
        )
        fronts = [cast("Any", FakeFront("192.0.2.1")) for _ in range(3)]
        assert [transport.admit(front, "192.0.2.1") for front in fronts] == [True, False, False]
        transport.forget(fronts[1])
        transport.forget(fronts[0])
        assert transport.admit(fronts[1], "192.0.2.1")
        assert [transport.admit(cast("Any", FakeFront("127.0.0.1")), "127.0.0.1") for _ in range(2)] == [True, True]

    asyncio.run(scenario())


class FakeFront:
    def __init__(self, host: str) -> None:
        self.host = host


def test_silence(run: Callable[[Scenario], None]) -> None:
    """A connection that says nothing, or does not end its handshake, is closed."""

    async def scenario() -> None:
        async with port(limits=Limits(first_byte_s=0.2)) as one:
            assert await one.send(b"") == b""
            assert await one.send(b"PR") == b""
            assert 'rmq_connections_ended_total{reason="first_byte"} 2\n' in told(one.transport.source)

    run(scenario())


def test_idle(run: Callable[[Scenario], None]) -> None:
    """Without a call a connection is drained; one that waits for an answer is not idle."""

    async def scenario() -> None:
        poll = new_future()
        row = Row("/t.T/Poll", Kind.UNARY, answering(poll))
        async with port(row, limits=Limits(idle_s=1.0)) as one:
            polling = asyncio.ensure_future(one.call(row.path))
            await one.gate.until(lambda: one.gate.calls)
            idle = await one.send(frames.PREFACE + frames.settings({}))
            assert frames.GOAWAY in [frame.kind for frame in answered(idle)]
            assert one.transport.site.endings == {"idle": 1}
            poll.set_result(b"still here")
            assert await polling == b"still here"

    run(scenario())


def test_age(run: Callable[[Scenario], None]) -> None:
    """A connection that is old enough is drained; what runs past the drain is ended."""

    async def scenario() -> None:
        poll = new_future()
        row = Row("/t.T/Poll", Kind.UNARY, answering(poll))
        async with port(row, limits=Limits(age_s=1.0, drain_s=0.1)) as one:
            answer = await one.send(frames.PREFACE + frames.settings({}) + call(1, row.path))
            goaways = [frame.payload[:8] for frame in answered(answer) if frame.kind == frames.GOAWAY]
            assert [int.from_bytes(payload[:4]) for payload in goaways] == [frames.STREAM_ID_MAX, 1, 1]
            assert one.transport.site.endings == {"age": 1}
            assert poll.cancelled()

    run(scenario())


def test_deadline_without_a_word(run: Callable[[Scenario], None]) -> None:
    """A client that forgets its call loses it when its own deadline has passed."""

    async def scenario() -> None:
        poll = new_future()
        row = Row("/t.T/Poll", Kind.UNARY, answering(poll))
        async with port(row) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(frames.PREFACE + frames.settings({}) + call(1, row.path, ("grpc-timeout", "200m")))
            await reader.readuntil(b"grpc-status\x014")
            assert poll.cancelled()
            writer.close()

    run(scenario())


def test_pipelined_calls_leave_together(run: Callable[[Scenario], None]) -> None:
    """Answers of Futures that are done in one turn are one write."""

    async def scenario() -> None:
        polls = [new_future() for _ in range(5)]
        waiting = iter(polls)

        def handler(one: Call, message: bytes) -> "asyncio.Future[bytes]":
            return next(waiting)

        row = Row("/t.T/Poll", Kind.UNARY, handler)
        async with port(row) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            calls = [call(n, row.path) for n in (1, 3, 5, 7, 9)]
            writer.write(frames.PREFACE + frames.settings({}) + b"".join(calls))
            await one.gate.until(lambda: len(one.gate.calls) == 5)
            await reader.read(1000)
            for poll in polls:
                poll.set_result(b"x")
            written = parse(await reader.read(100_000))
            assert [frame.stream_id for frame in written if frame.kind == frames.DATA] == [1, 3, 5, 7, 9]
            writer.close()

    run(scenario())
