"""Streams, limits, ports and the end, on every transport."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import grpc
import grpc.aio
import pytest

from rmq.errors import ConfigError
from rmq_proxy.rpc import GrpcCode, Kind, Row
from tests.proxy.transports import (
    ECHO,
    LOG,
    REQUEST_BYTES_MAX,
    Maker,
    RecordingGate,
    Run,
    Streams,
    answering,
    end_of,
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
            call = server.stream("/t.T/Stream")
            for word in (b"one", b"two"):
                await call.write(word)
            assert [await call.read(), await call.read()] == [b"ONE", b"TWO"]
            await call.done_writing()
            assert await call.read() == b"bye"
            assert await call.read() is grpc.aio.EOF
            assert await end_of(call) == (grpc.StatusCode.OK, "")
            assert await server.gate.ends() == [("/t.T/Stream", GrpcCode.OK, 9)]
            assert streams.life == ["one", "two", "half closed", "closed"]

    run(scenario())


def test_stream_headers_come_at_once(run: "Run[None]", make: Maker) -> None:
    """Before either side has sent a message: the Rust client waits for them and sends nothing before."""

    async def scenario() -> None:
        async with serving(make, Streams().row) as server:
            call = server.stream("/t.T/Stream")
            await call.initial_metadata()
            call.cancel()

    run(scenario())


def test_stream_server_speaks_first_and_ends(run: "Run[None]", make: Maker) -> None:
    """The service writes and ends when it likes; what was written before the end arrives, the rest does not."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = server.stream("/t.T/Stream")
            await call.initial_metadata()
            outlet = await streams.opened.get()  # the client may hear of it before
            outlet.write(b"command")
            assert await call.read() == b"command"
            outlet.write(b"last")
            outlet.finish(GrpcCode.UNAVAILABLE, "moved")
            outlet.write(b"too late")
            assert await call.read() == b"last"
            assert await end_of(call) == (grpc.StatusCode.UNAVAILABLE, "moved")
            assert await server.gate.ends() == [("/t.T/Stream", GrpcCode.UNAVAILABLE, 11)]
        assert streams.life == ["closed"]

    run(scenario())


@pytest.mark.parametrize(
    ("word", "status"),
    [(b"refuse", (grpc.StatusCode.INVALID_ARGUMENT, "no")), (b"break", (grpc.StatusCode.INTERNAL, None))],
)
def test_stream_message_fails(
    run: "Run[None]", make: Maker, word: bytes, status: tuple[grpc.StatusCode, str | None]
) -> None:
    """An RpcError in the inlet ends the stream with its status, a bug with INTERNAL; the connection lives on."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row, ECHO) as server:
            call = server.stream("/t.T/Stream")
            await call.write(word)
            code, text = await end_of(call)
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
            call = server.stream("/t.T/Stream")
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
            call = server.stream("/t.T/Stream")
            await call.initial_metadata()
            outlet = await streams.opened.get()
            for _ in range(40):
                outlet.write(bytes(1_000_000))
            assert (await end_of(call))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
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
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


# ---- Ports and the end ----


def test_port_in_use(run: "Run[None]", make: Maker) -> None:
    """A second server on the port is refused with one line that names the port and says what to do."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            second = make({}, RecordingGate(), request_bytes_max=1, log=LOG)
            with pytest.raises(ConfigError) as caught:
                await second.start(["127.0.0.1"], server.port)
            line = str(caught.value)
            assert str(server.port) in line
            assert "--port" in line
            assert "\n" not in line
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


def test_same_port_on_every_host(run: "Run[None]", make: Maker) -> None:
    """Port 0 picks one port for all hosts."""

    async def scenario() -> None:
        async with serving(make, ECHO, hosts=["127.0.0.1", "127.0.0.2"]) as server:
            for host in ("127.0.0.1", "127.0.0.2"):
                async with grpc.aio.insecure_channel(f"{host}:{server.port}") as channel:
                    method = cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(ECHO.path))
                    assert await method(b"x") == b"x"

    run(scenario())


@pytest.mark.parametrize("hosts", [["0.0.0.0", "::"], ["127.0.0.1", "127.0.0.1"], ["localhost"], ["::"]])
def test_hosts_that_overlap(run: "Run[None]", make: Maker, hosts: list[str]) -> None:
    """Both wildcards, a host twice, a name: all reachable on the IPv4 loopback."""

    async def scenario() -> None:
        async with serving(make, ECHO, hosts=hosts) as server:
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


def test_foreign_host(run: "Run[None]", make: Maker) -> None:
    """An address that is not this machine's is the operator's mistake, told in one line."""

    async def scenario() -> None:
        transport = make({}, RecordingGate(), request_bytes_max=1, log=LOG)
        with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1: .*--host"):
            await transport.start(["192.0.2.1"], 0)

    run(scenario())


def test_stop_answers_what_runs(run: "Run[None]", make: Maker) -> None:
    """A poll answered after stop began still reaches its client; streams end with OK at once: all SDKs survive it."""

    async def scenario() -> None:
        poll = new_future()
        streams = Streams()
        async with serving(make, streams.row, Row("/t.T/Poll", Kind.UNARY, answering(poll))) as server:
            call = server.stream("/t.T/Stream")
            await call.initial_metadata()
            waiting = asyncio.ensure_future(server.unary("/t.T/Poll"))
            await server.gate.until(lambda: len(server.gate.calls) == 2)
            stopping = asyncio.ensure_future(server.transport.stop(15))
            assert (await end_of(call))[0] is grpc.StatusCode.OK
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


SETTINGS, PING, GOAWAY, ACK = 4, 6, 7, 1


def frame(kind: int, payload: bytes) -> bytes:
    """An HTTP/2 frame of the connection itself."""
    return len(payload).to_bytes(3) + bytes([kind, 0]) + bytes(4) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Kind, flags, payload."""
    head = await reader.readexactly(9)
    return head[3], head[4], await reader.readexactly(int.from_bytes(head[:3]))


def test_pings_without_calls(run: "Run[None]", make: Maker) -> None:
    """However often a client pings an idle connection, it is answered and never sent away: C++ pings each minute."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, b""))
            for n in range(10):
                writer.write(frame(PING, b"ping%04d" % n))
                kind, flags, payload = await read_frame(reader)
                while (kind, flags) != (PING, ACK):
                    assert kind != GOAWAY, payload
                    kind, flags, payload = await read_frame(reader)
                assert payload == b"ping%04d" % n
            writer.close()

    run(scenario())
