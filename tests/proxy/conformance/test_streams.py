"""Streams, limits and the end, on every transport with every stack."""

import asyncio

import pytest

from rmq.errors import ConfigError
from rmq_proxy.rpc import GrpcCode, Kind, Row
from tests.proxy.stacks import CallError
from tests.proxy.transports import (
    ECHO,
    LOG,
    REQUEST_BYTES_MAX,
    Maker,
    RecordingGate,
    Run,
    Server,
    Streams,
    Transport,
    answering,
    new_future,
    raising,
    serving,
    status_of,
)

# ---- Streams ----


def test_stream(run: "Run[None]", make: Maker) -> None:
    """Messages go both ways in order; half-close reaches the service, which ends the stream."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = await server.stream("/t.T/Stream")
            for word in (b"one", b"two"):
                await call.write(word)
            assert [await call.read(), await call.read()] == [b"ONE", b"TWO"]
            await call.half_close()
            assert await call.read() == b"bye"
            assert await call.read() is None
            assert await call.end() == (GrpcCode.OK, "")
            assert await server.gate.ends() == [("/t.T/Stream", GrpcCode.OK, 9)]
            assert streams.life == ["one", "two", "half closed", "closed"]

    run(scenario())


def test_stream_headers_come_at_once(run: "Run[None]", make: Maker) -> None:
    """Before either side has sent a message: the Rust client waits for them and sends nothing before."""

    async def scenario() -> None:
        async with serving(make, Streams().row) as server:
            call = await server.stream("/t.T/Stream")
            await call.headers()
            await call.cancel()

    run(scenario())


def test_stream_server_speaks_first_and_ends(run: "Run[None]", make: Maker) -> None:
    """The service writes and ends when it likes; what was written before the end arrives, the rest does not."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = await server.stream("/t.T/Stream")
            await call.headers()
            outlet = await streams.outlet()
            outlet.write(b"command")
            assert await call.read() == b"command"
            outlet.write(b"last")
            outlet.finish(GrpcCode.UNAVAILABLE, "moved")
            outlet.write(b"too late")
            assert await call.read() == b"last"
            assert await call.end() == (GrpcCode.UNAVAILABLE, "moved")
            assert await server.gate.ends() == [("/t.T/Stream", GrpcCode.UNAVAILABLE, 11)]
        assert streams.life == ["closed"]

    run(scenario())


@pytest.mark.parametrize(
    ("word", "status"),
    [(b"refuse", (GrpcCode.INVALID_ARGUMENT, "no")), (b"break", (GrpcCode.INTERNAL, None))],
)
def test_stream_message_fails(run: "Run[None]", make: Maker, word: bytes, status: tuple[int, str | None]) -> None:
    """An RpcError in the inlet ends the stream with its status, a bug with INTERNAL; the connection lives on."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row, ECHO) as server:
            call = await server.stream("/t.T/Stream")
            await call.write(word)
            code, text = await call.end()
            assert (code, text if status[1] else None) == status
            await server.gate.ends()
            assert streams.life == [word.decode(), "closed"]
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


def test_stream_client_leaves(run: "Run[None]", make: Maker) -> None:
    """`closed` is called exactly once when the client goes, and the outlet is dead afterwards."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = await server.stream("/t.T/Stream")
            await call.write(b"hello")
            await call.read()
            await server.channel.close()
            await server.gate.ends()
        assert streams.life.count("closed") == 1
        assert streams.life[-1] == "closed"

    run(scenario())


def test_stream_client_does_not_read(run: "Run[None]", make: Maker) -> None:
    """What waits for a client that does not read is bounded: the stream ends, the server's memory does not."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = await server.stream("/t.T/Stream")
            await call.headers()
            outlet = await streams.outlet()
            for _ in range(40):
                outlet.write(bytes(1_000_000))
            assert (await call.end())[0] == GrpcCode.RESOURCE_EXHAUSTED
            assert (await server.gate.ends())[0][2] < 20_000_000

    run(scenario())


# ---- Limits ----


def test_message_at_the_limit(run: "Run[None]", make: Maker) -> None:
    """`request_bytes_max` bytes pass; answers have no limit of ours."""

    async def scenario() -> None:
        big = Row("/t.T/Big", Kind.UNARY, lambda call, request: bytes(3_000_000))
        async with serving(make, ECHO, big) as server:
            assert len(await server.unary(ECHO.path, bytes(REQUEST_BYTES_MAX))) == REQUEST_BYTES_MAX
            assert len(await server.unary(big.path)) == 3_000_000

    run(scenario())


@pytest.mark.parametrize("kind", [Kind.UNARY, Kind.LIST])
def test_message_over_the_limit(run: "Run[None]", make: Maker, kind: Kind) -> None:
    """One byte more is RESOURCE_EXHAUSTED without the handler; the connection goes on."""

    async def scenario() -> None:
        async with serving(make, ECHO, Row("/t.T/Any", kind, raising(AssertionError("the handler ran")))) as server:
            status, _ = await status_of(server.list("/t.T/Any", bytes(REQUEST_BYTES_MAX + 1)))
            assert status == GrpcCode.RESOURCE_EXHAUSTED
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


# ---- The end ----


def test_stop_answers_what_runs(run: "Run[None]", make: Maker) -> None:
    """A poll answered after stop began still reaches its client; streams end with OK at once: all SDKs survive it."""

    async def scenario() -> None:
        poll = new_future()
        streams = Streams()
        async with serving(make, streams.row, Row("/t.T/Poll", Kind.UNARY, answering(poll))) as server:
            call = await server.stream("/t.T/Stream")
            await call.headers()
            waiting = asyncio.ensure_future(server.unary("/t.T/Poll"))
            await server.gate.until(lambda: len(server.gate.calls) == 2)
            stopping = asyncio.ensure_future(server.transport.stop(15))
            assert (await call.end())[0] == GrpcCode.OK
            poll.set_result(b"in time")
            assert await waiting == b"in time"
            await stopping

    run(scenario())


def test_stop_cancels_after_the_grace(run: "Run[None]", make: Maker) -> None:
    """What is not answered within the grace is cancelled, and the port is free again."""

    async def scenario() -> None:
        poll = new_future()
        async with serving(make, Row("/t.T/Poll", Kind.UNARY, answering(poll))) as server:
            waiting = asyncio.ensure_future(server.unary("/t.T/Poll"))
            await server.gate.until(lambda: server.gate.calls)
            await server.transport.stop(0.1)
            await status_of(waiting)
            await server.gate.ends()
            assert poll.cancelled()
            again = make({}, RecordingGate(), request_bytes_max=1, log=LOG)
            assert await again.start(["127.0.0.1"], server.port) == server.port
            await again.stop(0)

    run(scenario())


async def taken_over(server: Server, word: bytes) -> bytes:
    """The first answer to an ECHO; the server that leaves refuses it."""
    while True:
        try:
            return await server.unary(ECHO.path, word)
        except CallError:
            await asyncio.sleep(0.01)


async def started(make: Maker, port: int) -> Transport:
    """A transport for ECHO on a port that becomes free at some time."""
    while True:
        transport = make({ECHO.path: ECHO}, RecordingGate(), request_bytes_max=REQUEST_BYTES_MAX, log=LOG)
        try:
            await transport.start(["127.0.0.1"], port)
            return transport
        except ConfigError:
            await asyncio.sleep(0.01)


def test_a_successor_takes_over(run: "Run[None]", make: Maker) -> None:
    """A client takes new calls to the port's next server while the one that leaves still answers what it has begun."""

    async def scenario() -> None:
        poll = new_future()
        async with serving(make, Row("/t.T/Poll", Kind.UNARY, answering(poll))) as server:
            waiting = asyncio.ensure_future(server.unary("/t.T/Poll"))
            await server.gate.until(lambda: server.gate.calls)
            stopping = asyncio.ensure_future(server.transport.stop(15))
            successor = await started(make, server.port)
            assert await taken_over(server, b"hello") == b"hello"
            assert not waiting.done()
            poll.set_result(b"in time")
            assert await waiting == b"in time"
            await stopping
            await server.channel.close()
            await successor.stop(0)

    run(scenario())
