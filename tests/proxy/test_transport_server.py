"""What the transports do where the client does not matter, or must be in the same loop."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import grpc
import grpc.aio
import pytest

from rmq.errors import ConfigError
from rmq_proxy.rpc import Call, Kind, Row
from tests.proxy.transports import ECHO, LOG, Maker, RecordingGate, Run, new_list, serving


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


def test_client_leaves_as_the_list_comes(run: "Run[None]", make: Maker) -> None:
    """Messages that were given out in the same turn in which the client left are reported, too."""

    async def scenario() -> None:
        undelivered: list[str] = []
        poll = new_list()

        def handler(call: Call, request: bytes) -> "asyncio.Future[Sequence[bytes]]":
            call.undelivered = lambda: undelivered.append("undelivered")
            return poll

        async with serving(make, Row("/t.T/Poll", Kind.LIST, handler)) as server:
            waiting = asyncio.ensure_future(server.list("/t.T/Poll"))
            await server.gate.until(lambda: server.gate.calls)
            await server.channel.close()
            poll.set_result([bytes(2_000_000)] * 10)
            await asyncio.wait([waiting])
            await server.gate.ends()
            assert undelivered == ["undelivered"]

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
